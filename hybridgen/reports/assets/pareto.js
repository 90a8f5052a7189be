// The Pareto front of any two metrics.
const pareto = {drawn: [], front: [], place: -1};
const UNKNOWN = "-"; // which way is better
const GOALS = [
  ["min", "less"],
  ["max", "more"],
  [UNKNOWN, "not known"],
];

// Points that no other point beats in one metric without losing in the other; equal points all stay.
function frontOf(found, x, y, goalX, goalY) {
  if (goalX === UNKNOWN || goalY === UNKNOWN) return [];
  const signX = goalX === "max" ? -1 : 1,
    signY = goalY === "max" ? -1 : 1;
  const pairs = found
    .map((row) => [signX * x.get(row), signY * y.get(row), row])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const front = [];
  let best = Infinity,
    at = null;
  for (const [a, b, row] of pairs) {
    if (b < best || (b === best && a === at)) front.push(row);
    if (b < best) [best, at] = [b, a];
  }
  return front;
}

function suggested() {
  const asked = usable.filter((column) => column.metric.goal);
  const pool = asked.length ? asked : usable;
  const costs = pool.filter((column) => column.metric.goal !== "max");
  const x = costs.find((one) => one.id === "params") ?? costs[0] ?? pool[0];
  const gains = pool.filter((column) => column.metric.goal === "max" && column.values.length > 1);
  const headlined = usable.find((column) => column.id === data.headline && column !== x);
  const y =
    headlined ??
    gains[0] ??
    costs.find((one) => one !== x && one.metric.objective !== x.metric.objective) ??
    costs[1] ??
    x;
  return [x, y];
}

const wideSpread = (column) =>
  column.unit !== "share" && column.values[0] > 0 && column.values.at(-1) / column.values[0] > 20;

function paretoSettings() {
  const names = usable.map((column) => column.id);
  const [x, y] = suggested();
  const one = (axis, otherwise) => {
    const column = columnById.get(recalled(axis, names, otherwise.id));
    const goal = recalled(
      `${axis}-goal`,
      GOALS.map(([goal]) => goal),
      column.metric.goal ?? UNKNOWN,
    );
    const isLog =
      recalled(`${axis}-log`, ["0", "1"], wideSpread(column) ? "1" : "0") === "1" && column.values.at(-1) > 0;
    return {column, goal, isLog};
  };
  const colours = [...keyColumns.map((column) => column.id), ...names, "-"];
  const colour = columnById.get(
    recalled("colour", colours, keyColumns.find((one) => one.values.length > 1)?.id ?? "-"),
  );
  return {x: one("x", x), y: one("y", y), colour};
}

function axisControls(axis, setting) {
  const options = usable.map((column) => [column.id, column.metric.label]);
  const redo = (name) => (value) => {
    remember(name, value);
    if (name === axis) for (const more of ["goal", "log"]) remember(`${axis}-${more}`, null);
    paretoControls();
    drawPareto();
  };
  return make(
    "div",
    {class: "axis-controls"},
    choice(axis === "x" ? "Across" : "Up", options, setting.column.id, redo(axis)),
    choice("Better is", GOALS, setting.goal, redo(`${axis}-goal`)),
    tick("log", setting.isLog, (on) => redo(`${axis}-log`)(on ? "1" : "0")),
  );
}

function paretoControls() {
  const focus = document.activeElement?.getAttribute?.("aria-label"),
    box = byId("pareto-controls");
  const inside = box.contains(document.activeElement)
    ? [...box.querySelectorAll("select, input")].indexOf(document.activeElement)
    : -1;
  const {x, y, colour} = paretoSettings();
  const colours = [
    ["-", "nothing"],
    ...keyColumns.map((one) => [one.id, one.label]),
    ...usable.map((one) => [one.id, one.metric.label]),
  ];
  box.replaceChildren(
    axisControls("x", x),
    axisControls("y", y),
    choice("Colour", colours, colour?.id ?? "-", (value) => {
      remember("colour", value);
      paretoControls();
      drawPareto();
      changed("colour");
    }),
  );
  if (inside >= 0 && focus !== undefined) box.querySelectorAll("select, input")[inside]?.focus();
}

function frontPath(front, at) {
  let path = "";
  front.forEach((row, i) => {
    const [x, y] = at(row);
    path += i ? `H${x}V${y}` : `M${x},${y}`;
  });
  return path;
}

function dots(found, at, colours) {
  const group = shape("g", {class: "dots"});
  const radius = found.length > 500 ? 3 : found.length > 60 ? 4 : 6;
  const front = new Set(pareto.front);
  const kindOf = (row) => (!passes[row.index] ? "ghost" : front.has(row) ? "front" : "behind");
  const kinds = Map.groupBy(found, kindOf);
  for (const row of ["ghost", "behind", "front"].flatMap((kind) => kinds.get(kind) ?? [])) {
    const [x, y] = at(row),
      kind = kindOf(row),
      isFailed = row.state.startsWith("failed");
    group.append(
      shape("circle", {
        cx: x.toFixed(1),
        cy: y.toFixed(1),
        r: kind === "front" ? radius + 1.5 : radius,
        class: isFailed ? `${kind} hollow` : kind,
        fill: kind === "ghost" || isFailed ? null : colours.of(row),
        stroke: kind === "ghost" || !isFailed ? null : colours.of(row),
      }),
    );
  }
  return group;
}

function referenceMarks(found, at, box) {
  const group = shape("g");
  let before = null;
  for (const row of found) {
    const [x, y] = at(row);
    const isRight = x > box.right - 140;
    // Two labels at one height would cover each other.
    const close = before && Math.abs(before.x - x) < 150 && Math.abs(before.y - y) < 16;
    const label = shape(
      "text",
      {
        x: isRight ? -12 : 12,
        y: close ? (y < before.y ? -7 : 17) : 4,
        class: "halo",
        "text-anchor": isRight ? "end" : "start",
      },
      row.label,
    );
    group.append(
      shape(
        "g",
        {transform: `translate(${x},${y})`, class: "reference-mark"},
        shape("path", {d: REFERENCE_SHAPES[row.role]}),
        label,
      ),
    );
    before = {x, y};
  }
  return group;
}

// Where there is room for what is better: an arrow in the corner.
function goalWords(x, y) {
  const words = ({column, goal}, less, more) =>
    `${column.metric.label}: ` +
    (goal === UNKNOWN
      ? "not known which way is better, so there is no front; say it above"
      : `${goal === "min" ? "less" : "more"} is better (${goal === "min" ? less : more})`);
  return `${words(x, "←", "→")}; ${words(y, "↓", "↑")}`;
}

function drawPareto() {
  const holder = byId("pareto-chart"),
    width = Math.max(holder.clientWidth, 300);
  const height = Math.round(Math.min(Math.max(width * 0.58, 320), 520));
  const {x, y, colour} = paretoSettings();
  const has = (row) => x.column.get(row) !== null && y.column.get(row) !== null;
  const isDrawable = (row) => has(row) && !(x.isLog && x.column.get(row) <= 0) && !(y.isLog && y.column.get(row) <= 0);
  pareto.front = frontOf(
    rows.filter((row) => row.role === "point" && passes[row.index] && has(row) && !isLost(row)),
    x.column,
    y.column,
    x.goal,
    y.goal,
  );
  const drawn = rows.filter(isDrawable);
  const box = boxOf(width, height);
  const values = (axis) => drawn.map(axis.column.get);
  const scaleX = scaleOf(values(x), x.isLog, [box.left, box.right], x.column.unit, {count: width / 90});
  const scaleY = scaleOf(values(y), y.isLog, [box.bottom, box.top], y.column.unit, {count: 6});
  const at = (row) => [scaleX.at(x.column.get(row)), scaleY.at(y.column.get(row))];
  const colours = colouring(colour);
  const svg = shape(
    "svg",
    {viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true"},
    axes(box, scaleX, scaleY, titled(x.column.metric), titled(y.column.metric)),
  );
  svg.append(
    dots(
      drawn.filter((row) => row.role === "point"),
      at,
      colours,
    ),
    shape("path", {d: frontPath(pareto.front.filter(isDrawable), at), class: "front-line"}),
    referenceMarks(
      drawn.filter((row) => row.role !== "point"),
      at,
      box,
    ),
    shape("circle", {r: 10, class: "ring selected-ring", visibility: "hidden"}),
    shape("circle", {r: 10, class: "ring hover-ring", visibility: "hidden"}),
    shape("rect", {id: "pareto-box", class: "brush", visibility: "hidden"}),
  );
  holder.replaceChildren(svg);
  Object.assign(pareto, {drawn, at, x, y, place: -1});
  byId("pareto-legend").replaceChildren(legend(colours.legend, colour?.metric?.label ?? colour?.label));
  noteBelow();
  listFront();
  ringParetos();
  changed("front", new Set(pareto.front));
}

function noteBelow() {
  const {drawn, x, y} = pareto;
  const left = rows.filter((row) => passes[row.index]).length - drawn.filter((row) => passes[row.index]).length;
  byId("pareto-note").textContent =
    goalWords(x, y) +
    ". Ringed points are on the front. Drag over points to keep them." +
    (drawn.some((row) => row.state.startsWith("failed"))
      ? ` Hollow points failed in part${metrics.has(data.headline) ? `; without ${metrics.get(data.headline).label} they are not on the front` : ""}.`
      : "") +
    (left ? ` ${left.toLocaleString("en")} without both values ${left === 1 ? "is" : "are"} not drawn.` : "");
}

function ringParetos() {
  const put = (name, row) => {
    const ring = byId("pareto-chart").querySelector(name),
      isThere = row && pareto.drawn.includes(row);
    ring?.setAttribute("visibility", isThere ? "visible" : "hidden");
    if (!isThere) return;
    const [x, y] = pareto.at(row);
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
  };
  put(".selected-ring", selected);
  put(".hover-ring", hovered);
}

function nearestDot(event) {
  const box = byId("pareto-chart").getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let best = null,
    least = 24 ** 2;
  for (const row of pareto.drawn) {
    if (!passes[row.index] && row.role === "point") continue;
    const [x, y] = pareto.at(row),
      away = (x - px) ** 2 + (y - py) ** 2;
    if (away < least) [best, least] = [row, away];
  }
  return best;
}

// Keeps what is inside a rectangle, by the ranges of both metrics there.
function keepInside([x0, y0, x1, y1]) {
  const inside = pareto.drawn.filter((row) => {
    const [x, y] = pareto.at(row);
    return passes[row.index] && x >= x0 && x <= x1 && y >= y0 && y <= y1;
  });
  for (const {column} of inside.length ? [pareto.x, pareto.y] : []) {
    const values = inside.map(column.get).sort((a, b) => a - b),
      places = inside.map(axisPlaces(column));
    brushes.set(column.id, [Math.min(...places), Math.max(...places), rangeWords(column, values)]);
  }
  if (inside.length) refilter();
}

function paretoDrag(chart) {
  const place = (event) => {
    const box = chart.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  chart.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) pareto.drag = place(event);
  });
  chart.addEventListener("pointermove", (event) => {
    if (!pareto.drag || !(event.buttons & 1)) return;
    const [x, y] = place(event),
      [a, b] = pareto.drag;
    pareto.area =
      Math.hypot(x - a, y - b) < 6 ? null : [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
    if (!pareto.area) return;
    showTip(null);
    chart.setPointerCapture(event.pointerId);
    const [left, top, right, bottom] = pareto.area;
    fill(byId("pareto-box"), {x: left, y: top, width: right - left, height: bottom - top, visibility: "visible"}, []);
  });
  chart.addEventListener("pointerup", () => {
    const {area} = pareto;
    pareto.drag = null;
    byId("pareto-box").setAttribute("visibility", "hidden");
    if (area) keepInside(area);
    // The click that follows is no choice of a point.
    setTimeout(() => (pareto.area = null));
  });
}

// Arrow keys walk along the front.
function paretoKeys(event) {
  const move = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  const walk = [...pareto.front].sort((a, b) => pareto.at(a)[0] - pareto.at(b)[0]);
  if (event.key === "Enter" && walk[pareto.place]) select(walk[pareto.place], "pareto");
  if (!move || !walk.length) return;
  event.preventDefault();
  pareto.place = Math.min(Math.max(pareto.place + move, 0), walk.length - 1);
  const row = walk[pareto.place],
    box = byId("pareto-chart").getBoundingClientRect(),
    [x, y] = pareto.at(row);
  showTip(row, {x: box.left + x, y: box.top + y}, [pareto.x.column.id, pareto.y.column.id]);
}

function paretoSection() {
  if (!usable.length) return;
  const chart = make("div", {
    id: "pareto-chart",
    class: "chart",
    tabindex: "0",
    role: "group",
    "aria-label": "Pareto front; arrow keys walk along it, Enter selects a point",
  });
  section(
    "pareto",
    "Front",
    "Pareto front",
    null,
    make("div", {id: "pareto-controls", class: "tools"}),
    make(
      "div",
      {class: "beside"},
      make(
        "div",
        {class: "wide"},
        chart,
        make("div", {id: "pareto-legend"}),
        make("p", {id: "pareto-note", class: "note"}),
      ),
      make("div", {id: "front-list", class: "narrow scroll"}),
    ),
  );
  paretoControls();
  drawPareto();
  const over = (event) =>
    showTip(nearestDot(event), {x: event.clientX, y: event.clientY}, [pareto.x.column.id, pareto.y.column.id]);
  chart.addEventListener("pointermove", (event) => event.pointerType === "mouse" && !event.buttons && over(event));
  paretoDrag(chart);
  chart.addEventListener("pointerleave", () => showTip(null));
  chart.addEventListener("blur", () => showTip(null));
  chart.addEventListener("click", (event) => !pareto.area && nearestDot(event) && select(nearestDot(event), "pareto"));
  chart.addEventListener("keydown", paretoKeys);
  for (const what of ["filter", "theme"]) when(what, drawPareto);
  for (const what of ["hover", "select"]) when(what, ringParetos);
  onResize(chart, drawPareto);
}
