// What is shown of one point: a card beside the pointer, and a drawer for the point that was selected.
let selected = null;
let hovered = null;

const titleOf = (row) => (row.role === "point" ? `Point ${row.number}${row.name ? `: ${row.name}` : ""}` : row.label);

function list(pairs, attributes = {}) {
  const found = make("dl", attributes);
  for (const [name, value, kind] of pairs) found.append(make("dt", {}, name), make("dd", {class: kind}, value));
  return found;
}

const valuePairs = (row) =>
  keyColumns.filter((one) => one.get(row) !== null).map((one) => [one.label, own(row.values, one.id)]);

function metricPairs(row, names) {
  return names
    .map((name) => columnById.get(name))
    .filter((column) => column?.metric)
    .map((column) => {
      const missing = absence(row, column);
      const text = missing ? missing.text : written(column.get(row), column.unit, column.label);
      return [column.metric.label, text, missing?.failed ? "failed" : null];
    });
}

// The metrics a card has room for: those in view first, then those with a goal.
function mainMetrics(first, count) {
  return [...new Set([...first, ...telling.map((one) => one.id)])].slice(0, count);
}

function showTip(row, at, names = [], more = []) {
  const tip = byId("tip");
  if (!row) {
    tip.hidden = true;
    setHovered(null);
    return;
  }
  if (tip.hidden || tip.dataset.row !== row.id || more.length) {
    const failures = Object.entries(row.failures ?? {}).map(([name, one]) =>
      make("p", {class: "failed"}, `failed: ${name} (${one.kind}): ${one.message}`),
    );
    tip.replaceChildren(
      make("strong", {}, titleOf(row)),
      picture(row) ?? "",
      list([...more, ...valuePairs(row).slice(0, 10), ...metricPairs(row, mainMetrics(names, 6))]),
      ...failures.slice(0, 2),
      isLost(row)
        ? make("p", {class: "note"}, `Not counted on the front: it has no ${metrics.get(data.headline).label}.`)
        : "",
    );
    tip.dataset.row = row.id;
    tip.hidden = false;
  }
  placeTip(tip, at);
  setHovered(row);
}

function placeTip(tip, {x, y}) {
  const {offsetWidth: width, offsetHeight: height} = tip;
  const left = x + 18 + width > innerWidth ? x - 18 - width : x + 18;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y - height / 3, innerHeight - height - 4))}px`;
}

function setHovered(row) {
  if (hovered === row) return;
  hovered = row;
  changed("hover", row);
}

function select(row, from) {
  selected = row;
  remember("select", row?.id ?? null);
  showDrawer();
  changed("select", from);
}

const copyCommand = (row) => copy(row.command, `the command of ${row.label}`);

// A metric, and how many times the attention baseline's it is.
function comparisons(row) {
  const base = references.find((one) => one.role === "attention" && one !== row);
  const head = make("tr", {}, make("th", {scope: "col"}, "metric"), make("th", {scope: "col"}, "value"));
  if (base) head.append(make("th", {scope: "col"}, "× attention"));
  const body = make("tbody");
  for (const column of metricColumns) {
    const missing = absence(row, column),
      value = column.get(row);
    if (missing && !missing.failed) continue;
    const line = make(
      "tr",
      {},
      make("th", {scope: "row"}, column.metric.label),
      make(
        "td",
        {class: missing ? "failed" : null},
        missing ? missing.text : written(value, column.unit, column.label),
      ),
    );
    const other = base && column.get(base);
    if (base) line.append(make("td", {}, missing || !other ? "" : (value / other).toFixed(2)));
    body.append(line);
  }
  return make("table", {}, make("thead", {}, head), body);
}

function showDrawer() {
  const drawer = byId("drawer"),
    row = selected;
  drawer.hidden = !row;
  document.body.classList.toggle("drawn", Boolean(row));
  if (!row) return;
  const image = picture(row);
  const failures = Object.entries(row.failures ?? {}).map(([name, one]) =>
    make("p", {class: "failed"}, `${name} ${one.kind}: ${one.message}`),
  );
  drawer.replaceChildren(
    make(
      "div",
      {class: "head"},
      make("h2", {}, row.role === "point" ? `Point ${row.number}` : row.label),
      button("✕", () => select(null), {"aria-label": "Close the selected point", class: "close"}),
    ),
    ...(row.name ? [make("p", {class: "note"}, row.name)] : []),
    ...failures,
    ...(image
      ? [make("div", {class: "frame"}, image), button("Open the picture", () => enlarge(row), {class: "quiet"})]
      : []),
    list(valuePairs(row), {class: "values"}),
    make("h3", {}, "Command that rebuilds it"),
    make("pre", {class: "command", tabindex: "0"}, row.command),
    button("Copy the command", () => copyCommand(row), {class: "copy-command"}),
    make("h3", {}, "Metrics"),
    comparisons(row),
    make("h3", {}, "Identity"),
    list([
      ["id", row.id],
      ["state", row.state],
      ...(row.width === null ? [] : [["width", String(row.width)]]),
      ["took", written(row.seconds, "seconds")],
    ]),
    ...(row.overrides.length
      ? [
          make("h3", {}, "Overrides"),
          make("ul", {class: "overrides"}, ...row.overrides.map((one) => make("li", {}, one))),
        ]
      : []),
  );
  drawer.scrollTop = 0;
}

function enlarge(row) {
  const dialog = make("dialog", {class: "large", "aria-label": `Architecture of ${row.label}`});
  dialog.append(
    make(
      "div",
      {class: "head"},
      make("h2", {}, row.label),
      button("✕", () => dialog.close(), {"aria-label": "Close the picture", class: "close"}),
    ),
    picture(row),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function cards() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    showTip(null);
    if (selected && !event.target.closest("input, select, details")) select(null);
  });
  window.addEventListener("scroll", () => showTip(null), {passive: true});
}
