// Numbers as they are written, and colours.
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const THOUSANDS = ["", "k", "M", "G", "T", "P", "E"];
// For each unit its word after a number, after a name, and what a name that says it already has in it.
const UNIT_WORDS = {
  ms: [" ms", " (ms)", /\bms\b/],
  seconds: [" s", " (s)", /second/],
  flops: [" FLOPs", " (FLOPs)", /flop/],
};

function digits(value, count = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(Math.max(count - 1, 0)).replace("e+", "e");
  const places = Math.max(0, count - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(places, 8));
}

function prefixed(value, base, names, count) {
  let size = Math.abs(value),
    step = 0;
  while (size >= base * 0.9995 && step < names.length - 1) {
    size /= base;
    step += 1;
  }
  const text =
    step === 0 && Number.isInteger(value) ? String(size) : digits(size, Math.max(count, Math.ceil(Math.log10(size))));
  return (value < 0 ? "−" : "") + text + (base === 1024 && names[step] ? " " : "") + names[step];
}

function format(value, unit, count = 3) {
  if (value === null || value === undefined) return "";
  if (unit === "share") return `${(100 * value).toFixed(1)}%`;
  if (unit === "bytes") return prefixed(value, 1024, BYTES, count);
  if (unit === "flops" || unit === "count") return prefixed(value, 1000, THOUSANDS, count);
  if (unit === "ms" || unit === "seconds")
    return value >= 1000 ? Math.round(value).toLocaleString("en") : digits(value, count);
  return Number.isInteger(value) && Math.abs(value) < 1e6 ? String(value) : digits(value, count + 1);
}

function written(value, unit, label = "") {
  if (value === null) return "none";
  const [after, , said] = UNIT_WORDS[unit] ?? [""];
  return format(value, unit) + (unit === "flops" && said.test(label.toLowerCase()) ? "" : after);
}
// On an axis: no digits that say nothing.
function brief(value, unit, count = 3) {
  if (unit === "share") return `${Number((100 * value).toFixed(count - 1))}%`;
  return format(value, unit, count)
    .replace(/(\.\d*?)0+(?=$|[^\d])/, "$1")
    .replace(/\.(?=$|[^\d])/, "");
}
// How ticks are written: with as many digits as tell them apart, for models of nearly equal size too.
function tickText(ticks, unit) {
  let count = 3;
  while (count < 10 && new Set(ticks.map((value) => brief(value, unit, count))).size < ticks.length) count += 1;
  return (value) => brief(value, unit, count);
}
function titled(metric) {
  const [, text, said] = UNIT_WORDS[metric.unit] ?? [null, "", null];
  return said?.test(metric.label.toLowerCase()) ? metric.label : metric.label + text;
}

// Colours that colour-blind readers tell apart (Paul Tol's "bright", and two more), for ordered values a part of viridis.
// On a dark ground the same hues, lighter.
const KINDS_LIGHT = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#b07b3f", "#7a6ff0"];
const KINDS_DARK = ["#6a9fd8", "#ff8f9c", "#4cb860", "#ddd05a", "#8adcf7", "#d966a8", "#cf9d5c", "#a79fff"];
const MOST_KINDS = KINDS_LIGHT.length;
const RAMP = [
  [68, 1, 84],
  [65, 68, 135],
  [42, 120, 142],
  [34, 168, 132],
  [122, 209, 81],
  [253, 231, 37],
];
const OTHER = "#98a1ab";

function isDark() {
  const fixed = document.documentElement.dataset.theme;
  return fixed ? fixed === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function ramp(share) {
  // Neither end vanishes on its ground.
  const at = (isDark() ? 0.28 + 0.72 * share : 0.86 * share) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const mix = RAMP[low].map((one, i) => Math.round(one + (RAMP[low + 1][i] - one) * (at - low)));
  return `rgb(${mix.join(",")})`;
}

// Colours of the values of a column: {of(row), legend: [[text, colour]]}.
function colouring(column) {
  const kinds = isDark() ? KINDS_DARK : KINDS_LIGHT;
  if (!column) return {of: () => kinds[0], legend: []};
  if (column.isNumber && column.values.length > 8) return continuous(column);
  const values = column.values;
  const isOrdered = column.isNumber && values.length > 2;
  const colours = new Map(
    values.map((value, i) => [
      value,
      isOrdered
        ? ramp(i / (values.length - 1))
        : values.length > MOST_KINDS + 1 && i >= MOST_KINDS
          ? OTHER
          : (kinds[i] ?? OTHER),
    ]),
  );
  const legend = values
    .slice(0, values.length <= MOST_KINDS + 1 ? MOST_KINDS + 1 : MOST_KINDS)
    .map((v) => [column.textOf(v), colours.get(v)]);
  if (values.length > legend.length) legend.push([`${values.length - legend.length} others`, OTHER]);
  return {of: (row) => colours.get(column.get(row)) ?? OTHER, legend};
}

function continuous(column) {
  const [low, high] = [column.values[0], column.values.at(-1)];
  const isLog = low > 0 && high / low > 20;
  const at = (v) => (isLog ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low));
  const steps = [0, 0.25, 0.5, 0.75, 1].map((s) => (isLog ? low * (high / low) ** s : low + (high - low) * s));
  const of = (row) => (column.get(row) === null ? OTHER : ramp(at(column.get(row))));
  return {of, isContinuous: true, legend: steps.map((v) => [column.textOf(v), ramp(at(v))])};
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
