// What this is, how far it got, and the best point for each goal.
const CARDS = 6;
let allCards = false;

const moment = (date) => date.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "short"});

function tile(number, words, kind) {
  return make(
    "div",
    {class: `tile ${kind ?? ""}`},
    make("strong", {}, number.toLocaleString("en")),
    make("span", {}, words),
  );
}

function tiles() {
  const points = rows.filter((row) => row.role === "point");
  const failed = points.filter((row) => row.state.startsWith("failed")).length;
  const done = points.filter((row) => row.state === "done").length;
  const invalid = data.sweeps.flatMap((sweep) => sweep.invalid ?? []).reduce((sum, one) => sum + one.points.length, 0);
  const combinations = data.sweeps.reduce((sum, sweep) => sum + sweep.combinations, 0);
  const counted = [...new Set(data.sweeps.map((sweep) => sweep.counted))].join(" and ") || "combinations";
  // Points without any record yet are known to their sweep alone.
  const waiting =
    points.length - done - failed + data.sweeps.reduce((most, sweep) => Math.max(most, sweep.pending ?? 0), 0);
  const found = [
    tile(combinations, counted),
    tile(points.length, points.length === 1 ? "point" : "points"),
    tile(done, "done", "good"),
  ];
  if (failed) found.push(tile(failed, "failed", "bad"));
  if (waiting) found.push(tile(waiting, "not finished"));
  if (invalid) found.push(tile(invalid, invalid === 1 ? "invalid combination" : "invalid combinations", "bad"));
  return make("div", {class: "tiles", id: "tiles"}, ...found);
}

function bestCard(column) {
  const found = bestOf(column, shownRows());
  if (!found) return null;
  const {best, value, ties} = found;
  const base = references.find((row) => row.role === "attention"),
    other = base ? column.get(base) : null;
  const against =
    other === null
      ? ""
      : column.unit === "share"
        ? `attention ${format(other, "share")}`
        : other
          ? `${(value / other).toFixed(2)}× attention`
          : "";
  const card = button("", () => select(best, "headline"), {class: "card", "data-metric": column.id});
  card.append(
    make("span", {class: "what"}, `${column.metric.goal === "max" ? "highest" : "lowest"} ${column.metric.label}`),
    make("strong", {}, written(value, column.unit, column.label)),
    make("span", {class: "against"}, against),
    make("span", {class: "who"}, best.label + (ties ? ` and ${ties.toLocaleString("en")} more` : "")),
  );
  card.addEventListener(
    "pointermove",
    (event) => event.pointerType === "mouse" && showTip(best, {x: event.clientX, y: event.clientY}, [column.id]),
  );
  card.addEventListener("pointerleave", () => showTip(null));
  return card;
}

// Of a time and a rate, which say the same of every point, one has a card.
function isSaidOnce(column, i, goals) {
  return !goals
    .slice(0, i)
    .some((other) => other.metric.objective === column.metric.objective && areReciprocal(other, column));
}

function areReciprocal(one, other) {
  if (one.metric.goal === other.metric.goal) return false;
  const products = rows
    .filter((row) => one.get(row) !== null && other.get(row) !== null)
    .map((row) => one.get(row) * other.get(row));
  return products[0] > 0 && products.every((product) => Math.abs(product / products[0] - 1) < 1e-9);
}

function drawCards() {
  const goals = telling.filter((column) => column.metric.goal && column.values.length > 1).filter(isSaidOnce);
  const cards = (allCards ? goals : goals.slice(0, CARDS)).map(bestCard).filter(Boolean);
  const more =
    goals.length > CARDS
      ? [
          button(
            allCards ? "Fewer" : `All ${goals.length} goals`,
            () => {
              allCards = !allCards;
              drawCards();
            },
            {class: "quiet"},
          ),
        ]
      : [];
  byId("best").replaceChildren(...cards, ...more);
}

function sweepDetails() {
  const found = data.sweeps.map((sweep) =>
    make(
      "div",
      {class: "sweep"},
      make("p", {class: "note"}, `${moment(new Date(sweep.started))}, in ${sweep.folder}`),
      make("pre", {class: "command", tabindex: "0"}, sweep.command),
      button("Copy", () => copy(sweep.command, "the command of the sweep"), {class: "quiet"}),
    ),
  );
  const title = data.sweeps.length === 1 ? "How it was run" : `How it was run: ${data.sweeps.length} sweeps`;
  return make("details", {class: "sweeps"}, make("summary", {}, title), ...found);
}

// What the numbers do not tell, and what happened on the way: in view, for it decides what they are worth.
function listed(id, title, texts) {
  if (!texts.length) return [];
  const items = texts.map((text) => make("li", {}, text));
  return [make("div", {id, class: "listed"}, make("h2", {}, title), make("ul", {}, ...items))];
}

function headline() {
  const made = new Date(data.generated);
  const swept = data.keys.length ? `Sweep over ${data.keys.map((key) => key.label).join(", ")}. ` : "";
  byId("top").append(
    make("h1", {}, data.title),
    make(
      "p",
      {class: "note"},
      `${swept}Written by hybridgen ${data.version}, ${Number.isNaN(made.getTime()) ? data.generated : moment(made)}.`,
    ),
    ...(data.warnings ?? []).map((text) => make("p", {class: "warning"}, text)),
    tiles(),
    make("div", {id: "best"}),
    ...listed("doubts", "How sure is this", data.doubts),
    ...listed("notes", "Notes", [...new Set([...data.sweeps.flatMap((sweep) => sweep.notes), ...data.notes])]),
    ...(data.sweeps.length ? [sweepDetails()] : []),
  );
  drawCards();
  when("filter", drawCards);
}
