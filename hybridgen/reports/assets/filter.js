// The filter: words that must stand somewhere, and comparisons such as params<1M or d_state=64.
const SIZES = {
  "": 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  b: 1e9,
  t: 1e12,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  ki: 1024,
  mi: 1024 ** 2,
  gi: 1024 ** 3,
  ti: 1024 ** 4,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
  "%": 0.01,
  ms: 1,
  s: 1,
};
const TERM = /(?:"([^"]*)"|([^\s<>=!"]+))(?:\s*(<=|>=|!=|=|<|>)\s*(?:"([^"]*)"|(\S+)))?|(\S)/g;
const passes = new Uint8Array(rows.length).fill(1);
const brushes = new Map(); // column id -> [low, high, text], made by the parallel coordinates
let wanted = () => true;

function columnNamed(name) {
  const low = name.toLowerCase();
  const names = (column) => [column.id, column.metric?.label ?? column.label, column.id.split(".").at(-1)];
  const exact = columns.find((column) => names(column).some((one) => one.toLowerCase() === low));
  if (exact) return exact;
  const near = columns
    .filter((column) => column.id.toLowerCase().includes(low))
    .slice(0, 3)
    .map((one) => one.id);
  throw new Error(`no column is called “${name}”${near.length ? `; there is ${near.join(", ")}` : ""}`);
}

function numberIn(text) {
  const found = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z%]*)$/i.exec(text);
  const size = found && own(SIZES, found[2].toLowerCase());
  if (!size) throw new Error(`“${text}” is no number; write 64, 1.5M, 64MiB or 90%`);
  return Number(found[1]) * size;
}

const COMPARE = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "=": (a, b) => a === b,
  "!=": (a, b) => a !== b,
};

function comparison(name, sign, value) {
  const column = columnNamed(name);
  if (value.toLowerCase() === "none" && sign.endsWith("=") && column.isNumber) {
    return (row) => (column.get(row) === null) === (sign === "=");
  }
  const compare = COMPARE[sign];
  if (!column.isNumber) {
    if (/[<>]/.test(sign)) throw new Error(`“${name}” holds texts; compare it with = or !=`);
    const low = value.toLowerCase();
    return (row) => compare(String(column.get(row) ?? "").toLowerCase(), low);
  }
  const number = numberIn(value);
  return (row) => column.get(row) !== null && compare(column.get(row), number);
}

function readFilter(text) {
  // Something is still being written.
  if (/[<>=!]\s*$/.test(text) || text.split('"').length % 2 === 0) throw new Error("unfinished");
  const tests = [];
  for (const [whole, quoted, word, sign, quotedValue, value, stray] of text.matchAll(TERM)) {
    const name = quoted ?? word;
    if (stray) throw new Error(`“${whole}” has no column before it; write for example params<1M`);
    if (sign) tests.push(comparison(name, sign, quotedValue ?? value));
    else if (quoted !== undefined || name.toLowerCase() !== "and") {
      const low = name.toLowerCase();
      tests.push((row) => row.search.includes(low));
    }
  }
  return (row) => tests.every((test) => test(row));
}

// Sweeps over all rows again; a row passes the words and every brush.
function refilter() {
  const ranges = [...brushes].map(([id, [low, high]]) => [axisPlaces(columnById.get(id)), low, high]);
  for (const row of rows) {
    passes[row.index] =
      wanted(row) &&
      ranges.every(([places, low, high]) => {
        const at = places(row);
        return at !== null && at >= low && at <= high;
      })
        ? 1
        : 0;
  }
  changed("filter");
}

const shownRows = () => rows.filter((row) => passes[row.index]);

function setFilter(text) {
  const input = byId("filter"),
    problem = byId("filter-problem");
  if (input.value !== text) input.value = text;
  try {
    wanted = readFilter(text);
    problem.textContent = "";
    input.removeAttribute("aria-invalid");
  } catch (error) {
    // What is being written stays as it was until it means something.
    problem.textContent = error.message === "unfinished" ? "" : error.message;
    input.toggleAttribute("aria-invalid", error.message !== "unfinished");
    return;
  }
  remember("q", text);
  refilter();
}

function chip(text, name, action) {
  return button(`${text} ✕`, action, {class: "chip", "aria-label": `Remove ${name}`});
}

function showCount() {
  const count = shownRows().filter((row) => row.role === "point").length;
  const all = rows.length - references.length;
  byId("count").textContent = `${count.toLocaleString("en")} of ${all.toLocaleString("en")} points`;
  const chips = [...brushes].map(([id, [, , text]]) =>
    chip(`${columnById.get(id).label}: ${text}`, id, () => {
      brushes.delete(id);
      refilter();
    }),
  );
  byId("chips").replaceChildren(...chips);
}

function filterHelp() {
  return make(
    "details",
    {class: "pop"},
    make("summary", {"aria-label": "How to filter"}, "?"),
    make(
      "div",
      {class: "panel help"},
      make("p", {}, "Words must stand somewhere in a point: its name, values, overrides, failures. All must."),
      make(
        "p",
        {},
        "Comparisons: ",
        make("code", {}, "params<1M"),
        " ",
        make("code", {}, "state_bytes<=64MiB"),
        " ",
        make("code", {}, "accuracy.parity>90%"),
        " ",
        make("code", {}, "d_state=64"),
        " ",
        make("code", {}, "state!=done"),
        ". Names are those of columns; put quotes around spaces.",
      ),
      make("p", {}, "Drag along an axis of the parallel coordinates to filter by a range. Escape here clears all."),
    ),
  );
}

function themeButton() {
  const half = shape(
    "svg",
    {viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true"},
    shape("circle", {cx: 8, cy: 8, r: 6.5, class: "icon"}),
    shape("path", {d: "M8 1.5a6.5 6.5 0 0 1 0 13z", fill: "currentColor"}),
  );
  return button(
    half,
    () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      changed("theme");
    },
    {id: "theme", title: "Light or dark", "aria-label": "Light or dark"},
  );
}

function filterBar() {
  const input = make("input", {
    id: "filter",
    type: "search",
    placeholder: "Filter: words, params<1M, d_state=64",
    "aria-label": "Filter the points by words or comparisons",
    "aria-describedby": "filter-problem",
    autocomplete: "off",
    spellcheck: "false",
  });
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => setFilter(input.value), 60);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    brushes.clear();
    setFilter("");
  });
  byId("bar").append(
    make("div", {class: "filter"}, input, filterHelp()),
    make("span", {id: "count", role: "status"}),
    make("span", {id: "chips"}),
    make("nav", {id: "nav", "aria-label": "Sections"}),
    themeButton(),
    make("span", {id: "filter-problem", role: "alert"}),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changed("theme"));
  when("filter", showCount);
}
