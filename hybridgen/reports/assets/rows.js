// The points of the sweep as rows, and what can be asked of each as columns.
const ROLES = {attention: "attention baseline", mlp: "MLP control"};
const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));

function stateOf(row) {
  const failures = Object.entries(row.failures ?? {});
  if (failures.length) return `failed: ${failures.map(([name, one]) => `${name} ${one.kind}`).join(", ")}`;
  return (row.missing ?? []).length ? `not run: ${row.missing.join(", ")}` : "done";
}

function labelOf(row) {
  if (row.role !== "point") return ROLES[row.role] ?? row.role;
  const values = data.keys.map((key) => [key.label, own(row.values, key.key)]).filter(([, value]) => value !== null);
  const words = values.map(([label, value]) => `${label}=${value}`).join(", ");
  return `#${row.number} ${words || row.name || row.id}`;
}

// The same in few letters: values alone, those that are everywhere the same left out.
const varied = data.keys.filter(
  ({key}) => new Set(data.rows.filter((row) => row.role === "point").map((row) => own(row.values, key))).size > 1,
);
const SHORT_WORDS = varied.map((key) => key.label).join(" · ");
function shortOf(row) {
  if (row.role !== "point") return labelOf(row);
  const words = varied.map(({key}) => own(row.values, key) ?? "–").join(" · ");
  return `#${row.number} ${words || row.name || row.id}`;
}

const rows = data.rows.map((row, index) => ({
  ...row,
  index,
  label: labelOf(row),
  short: shortOf(row),
  state: stateOf(row),
}));
const references = rows.filter((row) => row.role !== "point");
const byRowId = new Map(rows.map((row) => [row.id, row]));
for (const row of rows) {
  const parts = [row.label, row.name, row.id, row.role, row.state, ...row.overrides, ...Object.values(row.values)];
  for (const one of Object.values(row.failures ?? {})) parts.push(one.message);
  row.search = parts.join("\n").toLowerCase();
}

function finish(column) {
  const found = new Set();
  for (const row of rows) {
    const value = column.get(row);
    if (value !== null && value !== "") found.add(value);
  }
  // Words that were swept stay in the order of the sweep.
  column.values =
    column.group === "swept" && !column.isNumber
      ? [...found]
      : [...found].sort(column.isNumber ? (a, b) => a - b : collator.compare);
  column.textOf ??= (value) => (value === null ? "" : String(value));
  return column;
}

function keyColumn({key, label}) {
  const texts = rows.map((row) => own(row.values, key)).filter((value) => value !== null);
  const isNumber = texts.length > 0 && texts.every((text) => text.trim() !== "" && Number.isFinite(Number(text)));
  const get = isNumber
    ? (row) => (own(row.values, key) === null ? null : Number(own(row.values, key)))
    : (row) => own(row.values, key);
  return finish({
    id: key,
    label,
    group: "swept",
    isNumber,
    get,
    unit: "number",
    textOf: isNumber ? (value) => (value === null ? "" : brief(value, "number")) : undefined,
  });
}

function metricColumn(metric) {
  return finish({
    id: metric.name,
    label: titled(metric),
    group: "metrics",
    isNumber: true,
    unit: metric.unit,
    metric,
    get: (row) => own(row.metrics, metric.name),
    textOf: (value) => format(value, metric.unit),
  });
}

const plain = (id, label, get, more = {}) => finish({id, label, get, group: "other", isNumber: false, ...more});
const keyColumns = data.keys.map(keyColumn);
// What models are judged by comes first.
const metricColumns = data.metrics
  .map(metricColumn)
  .sort((a, b) => (b.id === data.headline) - (a.id === data.headline));
const columns = [
  plain("number", "#", (row) => (row.role === "point" ? row.number : null), {isNumber: true, unit: "number"}),
  plain("name", "name", (row) => (row.role === "point" ? row.name : (ROLES[row.role] ?? row.role))),
  plain("state", "state", (row) => row.state),
  ...keyColumns,
  ...metricColumns,
  plain("width", "width", (row) => row.width, {isNumber: true, unit: "number"}),
  plain("seconds", "seconds it took", (row) => row.seconds, {
    isNumber: true,
    unit: "seconds",
    textOf: (value) => format(value, "seconds"),
  }),
  plain("role", "role", (row) => row.role),
  plain("id", "id", (row) => row.id),
].filter((column) => column.values.length);
const columnById = new Map(columns.map((column) => [column.id, column]));

// A point whose failure took from it what models are judged by: no winner, whatever it costs.
const isLost = (row) =>
  row.state.startsWith("failed") && metrics.has(data.headline) && own(row.metrics, data.headline) === null;

// Why a cell of a metric is empty, or null.
function absence(row, column) {
  if (!column.metric || column.get(row) !== null) return null;
  const failure = own(row.failures, column.metric.objective);
  if (failure) return {text: failure.kind, why: `${column.metric.objective}: ${failure.message}`, failed: true};
  if ((row.missing ?? []).includes(column.metric.objective))
    return {text: "not run", why: "not run yet", failed: false};
  return {text: "–", why: "no value", failed: false};
}

// The best of some points by a metric, and how many others are as good.
function bestOf(column, found) {
  const pool = found.filter((row) => row.role === "point" && column.get(row) !== null);
  if (!pool.length) return null;
  const isBetter = column.metric.goal === "max" ? (a, b) => a > b : (a, b) => a < b;
  const best = pool.reduce((a, b) => (isBetter(column.get(b), column.get(a)) ? b : a)),
    value = column.get(best);
  return {best, value, ties: pool.filter((row) => column.get(row) === value).length - 1};
}

// Metrics by what they tell: what models are judged by, their size, one of each objective, what is to be gained.
const usable = metricColumns.filter((column) => column.values.length > 0);
const telling = (() => {
  const goals = usable.filter((one) => one.metric.goal && one.values.length > 1);
  const firsts = goals.filter(
    (one, i) => goals.findIndex((two) => two.metric.objective === one.metric.objective) === i,
  );
  return [
    ...new Set([
      ...goals.filter((one) => one.id === data.headline),
      ...goals.filter((one) => one.id === "params"),
      ...firsts.filter((one) => one.metric.objective !== columnById.get("params")?.metric?.objective),
      ...goals.filter((one) => one.metric.goal === "max"),
      ...goals,
      ...usable,
    ]),
  ];
})();

const pictures = new Map();
function picture(row) {
  if (row.picture === null || row.picture === undefined || !data.pictures[row.picture]) return null;
  if (!pictures.has(row.picture)) {
    // As an image, nothing in the picture can run.
    pictures.set(row.picture, `data:image/svg+xml;charset=utf-8,${encodeURIComponent(data.pictures[row.picture])}`);
  }
  return make("img", {src: pictures.get(row.picture), alt: `Architecture of ${row.label}`, class: "picture"});
}
