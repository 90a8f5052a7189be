// The points of the front as a list, and what it says about the references.
// What the front says about a reference, in words.
function verdict(row) {
  const {x, y} = pareto;
  if (x.column.get(row) === null || y.column.get(row) === null) return "lacks one of the values";
  if (x.goal === UNKNOWN || y.goal === UNKNOWN) return "not compared";
  const sign = (axis) => (axis.goal === "max" ? -1 : 1);
  const beats = (a, b) =>
    [x, y].every((axis) => sign(axis) * axis.column.get(a) <= sign(axis) * axis.column.get(b)) &&
    [x, y].some((axis) => axis.column.get(a) !== axis.column.get(b));
  const count = rows.filter(
    (one) =>
      one.role === "point" &&
      passes[one.index] &&
      x.column.get(one) !== null &&
      y.column.get(one) !== null &&
      !isLost(one) &&
      beats(one, row),
  ).length;
  // Better in one, and as good or better in the other.
  const words = count ? `${count.toLocaleString("en")} point${count === 1 ? " beats" : "s beat"}` : "no point beats";
  return `${words} it in both`;
}

function listFront() {
  const {x, y, front} = pareto;
  const body = make("tbody");
  for (const row of front) {
    const line = make(
      "tr",
      {tabindex: "0", "data-id": row.id},
      make("th", {scope: "row", title: row.label}, row.short),
      make("td", {}, format(x.column.get(row), x.column.unit)),
      make("td", {}, format(y.column.get(row), y.column.unit)),
    );
    line.addEventListener("click", () => select(row, "pareto"));
    line.addEventListener("keydown", (event) => event.key === "Enter" && select(row, "pareto"));
    line.addEventListener(
      "pointermove",
      (event) =>
        event.pointerType === "mouse" && showTip(row, {x: event.clientX, y: event.clientY}, [x.column.id, y.column.id]),
    );
    line.addEventListener("pointerleave", () => showTip(null));
    body.append(line);
  }
  const head = make(
    "thead",
    {},
    make(
      "tr",
      {},
      make("th", {scope: "col"}, `${front.length} on the front`, make("small", {}, SHORT_WORDS)),
      make("th", {scope: "col"}, titled(x.column.metric)),
      make("th", {scope: "col"}, titled(y.column.metric)),
    ),
  );
  const words = references.map((row) => make("p", {class: "note"}, `${row.label}: ${verdict(row)}.`));
  byId("front-list").replaceChildren(make("table", {"aria-label": "Points on the Pareto front"}, head, body), ...words);
}
