// What went wrong, by reason, and combinations that are no models.
function byReason() {
  const found = new Map();
  for (const row of rows) {
    for (const [objective, one] of Object.entries(row.failures ?? {})) {
      const key = JSON.stringify([objective, one.kind, one.message]);
      if (!found.has(key)) found.set(key, {objective, ...one, rows: []});
      found.get(key).rows.push(row);
    }
  }
  return [...found.values()].sort((a, b) => b.rows.length - a.rows.length);
}

// A long list in parts: more of it when asked for.
function inParts(found, count, one) {
  const box = make("div", {class: "parts"});
  const more = (from) => {
    box.querySelector("button.more")?.remove();
    box.append(...found.slice(from, from + count).map(one));
    const left = found.length - from - count;
    if (left > 0) box.append(button(moreWords(count, left), () => more(from + count), {class: "quiet more"}));
  };
  more(0);
  return box;
}

function reasonLine({objective, kind, message, rows: failed}) {
  return make(
    "details",
    {class: "reason"},
    make(
      "summary",
      {},
      make("span", {class: "count"}, failed.length.toLocaleString("en")),
      make("span", {class: "failed"}, `${objective} ${kind}`),
      " ",
      make("span", {class: "message"}, message),
    ),
    inParts(failed, 40, (row) => button(row.label, () => select(row, "failures"), {class: "chip", "data-id": row.id})),
  );
}

function numbersOf(points) {
  const words = points
    .slice(0, 12)
    .map((one) => `#${one}`)
    .join(", ");
  return points.length > 12 ? `${words} and ${(points.length - 12).toLocaleString("en")} more` : words;
}

function invalidLine({points, values, faults}) {
  const tried = Object.entries(values)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
  return make(
    "details",
    {class: "reason"},
    make(
      "summary",
      {},
      make("span", {class: "count"}, points.length.toLocaleString("en")),
      make("span", {class: "message"}, faults[0] ?? "invalid"),
    ),
    ...faults.slice(1).map((fault) => make("p", {}, fault)),
    make("p", {class: "note"}, `${numbersOf(points)}; the first tries ${tried}`),
  );
}

function failureSection() {
  const reasons = byReason(),
    invalid = data.sweeps.flatMap((sweep) => sweep.invalid ?? []);
  const waiting = rows.filter((row) => (row.missing ?? []).length);
  if (!reasons.length && !invalid.length && !waiting.length) return;
  const parts = [];
  if (reasons.length) parts.push(make("h3", {}, "Failed"), inParts(reasons, 30, reasonLine));
  if (invalid.length) parts.push(make("h3", {}, "Invalid combinations"), inParts(invalid, 30, invalidLine));
  if (waiting.length) {
    const names = Map.groupBy(waiting, (row) => row.missing.join(", "));
    parts.push(
      make("h3", {}, "Not run yet"),
      ...[...names].map(([name, found]) =>
        make("p", {}, `${name}: ${found.length.toLocaleString("en")} point${found.length === 1 ? "" : "s"}`),
      ),
    );
  }
  section("failures", "Failures", "What is missing, and why", null, ...parts);
}
