// Puts the page together: what is in view first, the rest while the reader looks at it.
function navigation() {
  byId("nav").replaceChildren(
    ...[...byId("main").children].map((one) =>
      button(one.querySelector("h2").dataset.short, () => {
        one.scrollIntoView({block: "start"});
        one.querySelector("h2").setAttribute("tabindex", "-1");
        one.querySelector("h2").focus({preventScroll: true});
      }),
    ),
  );
}

function closeMenus(event) {
  for (const menu of document.querySelectorAll("details.pop[open]")) {
    if (event.type === "keydown" ? event.key === "Escape" : !menu.contains(event.target)) menu.open = false;
  }
}

// Lets the browser draw and answer before more is built.
const pause = () => new Promise((go) => setTimeout(go));

async function start() {
  headline();
  filterBar();
  cards();
  document.addEventListener("pointerdown", closeMenus);
  document.addEventListener("keydown", closeMenus);
  if (rows.length) {
    paretoSection();
    tableSection();
    changed("front", new Set(pareto.front));
  }
  performance.mark("table");
  for (const part of [parallelSection, curveSection, taskSection, effectSection, failureSection]) {
    await pause();
    part();
  }
  navigation();
  if (chosen.get("q")) {
    byId("filter").value = chosen.get("q");
    setFilter(chosen.get("q"));
  } else showCount();
  if (byRowId.has(chosen.get("select"))) select(byRowId.get(chosen.get("select")), "address");
  requestAnimationFrame(() => setTimeout(() => performance.mark("ready")));
}
start();
