// Parallel coordinates: one line a point across the swept fields and metrics; dragging along an axis filters.
const parallel = {axes: [], drag: null, lines: [], size: [0, 0]};
const PARALLEL_SIDE = 56,
  PARALLEL_TOP = 44,
  PARALLEL_HEIGHT = 330;

// Numbers grow upwards, words are read downwards.
function stepOf(column, i) {
  const last = column.values.length - 1;
  return last === 0 ? 0.5 : column.isNumber ? i / last : 1 - i / last;
}

// Where a row is on a column's axis, from 0 to 1, or null.
function axisPlaces(column) {
  const count = column.values.length;
  if (!column.isNumber || (column.group === "swept" && count <= 12)) {
    const places = new Map(column.values.map((value, i) => [value, stepOf(column, i)]));
    return (row) => places.get(column.get(row)) ?? null;
  }
  const [low, high] = [column.values[0], column.values.at(-1)];
  const go = wideSpread(column) ? Math.log : (v) => v;
  return (row) => {
    const value = column.get(row);
    return value === null ? null : high > low ? (go(value) - go(low)) / (go(high) - go(low)) : 0.5;
  };
}

// Marks of an axis: [place, text].
function axisMarks(column) {
  const {values} = column,
    count = values.length;
  if (!column.isNumber || (column.group === "swept" && count <= 12)) {
    const every = Math.ceil(count / 16);
    return values.map((value, i) => [stepOf(column, i), column.textOf(value)]).filter((_, i) => i % every === 0);
  }
  if (values[0] === values.at(-1)) return [[0.5, brief(values[0], column.unit)]];
  const isLog = wideSpread(column),
    go = isLog ? Math.log : (v) => v;
  const [low, high] = [go(values[0]), go(values.at(-1))];
  const ticks = ticksOf(values[0], values.at(-1), isLog, column.unit, 6),
    text = tickText(ticks, column.unit);
  return ticks
    .map((v) => [(go(v) - low) / (high - low), text(v)])
    .filter(([place]) => place >= -0.001 && place <= 1.001);
}

function parallelColumns() {
  const pool = [...keyColumns.filter((one) => one.values.length > 1), ...usable];
  const saved = chosen.get("axes")?.split(" ").map(decodeURIComponent);
  if (saved) return pool.filter((column) => saved.includes(column.id));
  const start = pareto.x ? [pareto.x.column, pareto.y.column] : [];
  const first = [...new Set([...start, ...telling])].slice(0, 4);
  return [
    ...pool.filter((column) => column.group === "swept").slice(0, 6),
    ...usable.filter((one) => first.includes(one)),
  ];
}

function layParallel() {
  const holder = byId("parallel-chart"),
    found = parallelColumns();
  const width = Math.max(holder.parentElement.clientWidth, found.length * 110);
  const side = PARALLEL_SIDE,
    gap = found.length > 1 ? (width - 2 * side) / (found.length - 1) : 0;
  parallel.axes = found.map((column, i) => ({
    column,
    x: side + i * gap,
    place: axisPlaces(column),
    marks: axisMarks(column),
  }));
  parallel.lines = rows.map((row) => parallel.axes.map(({place}) => place(row)));
  parallel.size = [width, PARALLEL_TOP + PARALLEL_HEIGHT + 20];
  const canvas = byId("parallel-canvas");
  parallel.context = canvasFor(canvas, ...parallel.size);
  drawAxesOfParallel(gap);
  drawParallel();
}

const heightOf = (place) => PARALLEL_TOP + PARALLEL_HEIGHT * (1 - place);

function shortened(text, room) {
  const most = Math.max(3, Math.floor(room / 6.6));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function drawAxesOfParallel(gap) {
  const [width, height] = parallel.size;
  const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, width, height});
  // The title of every other axis stands higher, where they are close.
  const room = gap < 150 ? 2 * gap - 20 : gap - 12;
  parallel.axes.forEach((axis, i) => {
    const brush = brushes.get(axis.column.id);
    const {label} = axis.column,
      side = PARALLEL_SIDE,
      isWide = label.length * 7.2 > 2 * side; // it would reach over the edge
    const anchor = !isWide || (i && i < parallel.axes.length - 1) ? "middle" : i ? "end" : "start";
    const group = shape("g", {
      transform: `translate(${axis.x},0)`,
      class: "parallel-axis",
      tabindex: "0",
      role: "slider",
      "aria-orientation": "vertical",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-label": `${label}: arrow keys move a range, Shift and arrows change its size, Escape removes it`,
      "aria-valuenow": brush ? Math.round(50 * (brush[0] + brush[1])) : 50,
      "aria-valuetext": brush ? brush[2] : "all",
      "data-column": axis.column.id,
    });
    group.append(
      shape("line", {y1: heightOf(1), y2: heightOf(0), class: "rail"}),
      shape(
        "text",
        {
          x: {start: 4 - side, middle: 0, end: side - 4}[anchor],
          y: i % 2 && gap < 150 ? 14 : 28,
          "text-anchor": anchor,
          class: "title",
        },
        shortened(label, anchor === "middle" ? room : room / 2 + side),
      ),
    );
    for (const [place, text] of axis.marks) {
      group.append(shape("text", {x: 6, y: heightOf(place) + 4, class: "halo"}, shortened(text, gap * 0.8 || 200)));
    }
    if (brush)
      group.append(
        shape("rect", {
          x: -8,
          width: 16,
          y: heightOf(brush[1]) - 2,
          height: heightOf(brush[0]) - heightOf(brush[1]) + 4,
          class: "brush",
        }),
      );
    group.append(shape("rect", {x: -16, width: 32, y: PARALLEL_TOP - 8, height: PARALLEL_HEIGHT + 16, class: "catch"}));
    svg.append(group);
  });
  svg.append(shape("path", {class: "parallel-hover", id: "parallel-hover"}));
  const focused = document.activeElement?.dataset?.column;
  byId("parallel-axes").replaceChildren(svg);
  if (focused) svg.querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
}

function pathOf(row) {
  let path = "",
    isOpen = false;
  parallel.lines[row.index].forEach((place, i) => {
    if (place === null) isOpen = false;
    else {
      path += `${isOpen ? "L" : "M"}${parallel.axes[i].x},${heightOf(place)}`;
      isOpen = true;
    }
  });
  return path;
}

function drawParallel() {
  const {context} = parallel,
    {colour} = pareto.x ? paretoSettings() : {colour: keyColumns[0]};
  const colours = colouring(colour);
  context.clearRect(0, 0, ...parallel.size);
  const stroke = (found, alpha, colourOf, width) => {
    context.globalAlpha = alpha;
    context.lineWidth = width;
    for (const row of found) {
      context.strokeStyle = colourOf(row);
      context.beginPath();
      let isOpen = false;
      parallel.lines[row.index].forEach((place, i) => {
        if (place !== null) context[isOpen ? "lineTo" : "moveTo"](parallel.axes[i].x, heightOf(place));
        isOpen = place !== null;
      });
      context.stroke();
    }
  };
  const muted = style("--faint"),
    passing = rows.filter((row) => passes[row.index] && row.role === "point");
  stroke(
    rows.filter((row) => !passes[row.index]),
    0.25,
    () => muted,
    1,
  );
  stroke(passing, Math.min(0.85, Math.max(0.18, 60 / passing.length)), colours.of, 1.4);
  context.setLineDash([6, 4]);
  stroke(
    references.filter((row) => passes[row.index]),
    1,
    () => style("--ink"),
    1.6,
  );
  context.setLineDash([]);
  const legendBox = byId("parallel-legend");
  legendBox.replaceChildren(legend(colours.legend, colour?.metric?.label ?? colour?.label));
  showLine();
}

function showLine() {
  const row = hovered ?? selected;
  byId("parallel-hover")?.setAttribute("d", row ? pathOf(row) : "");
}

function nearestLine(event) {
  const box = byId("parallel-axes").getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  const right = parallel.axes.findIndex((axis) => axis.x > px);
  if (right < 1) return null;
  const [a, b] = [parallel.axes[right - 1], parallel.axes[right]];
  const share = (px - a.x) / (b.x - a.x);
  let best = null,
    least = 9;
  for (const row of rows) {
    const from = parallel.lines[row.index][right - 1],
      to = parallel.lines[row.index][right];
    if (!passes[row.index] || from === null || to === null) continue;
    const away = Math.abs(heightOf(from + (to - from) * share) - py);
    if (away < least) [best, least] = [row, away];
  }
  return best;
}

function rangeWords(column, values) {
  const [first, last] = [column.textOf(values[0] ?? null), column.textOf(values.at(-1) ?? null)];
  return values.length === 0 ? "nothing" : first === last ? first : `${first} to ${last}`;
}

function setBrush(axis, low, high) {
  const [from, to] = [Math.max(0, Math.min(low, high)), Math.min(1, Math.max(low, high))];
  const inside = rows
    .map(axis.column.get)
    .filter((value, i) => {
      const place = parallel.lines[i][parallel.axes.indexOf(axis)];
      return place !== null && place >= from && place <= to;
    })
    .sort((a, b) => axis.column.values.indexOf(a) - axis.column.values.indexOf(b));
  brushes.set(axis.column.id, [from, to, rangeWords(axis.column, inside)]);
  refilter();
}

function brushKeys(event) {
  const id = event.target.closest?.(".parallel-axis")?.dataset.column;
  const axis = parallel.axes.find((one) => one.column.id === id),
    move = {ArrowUp: 0.05, ArrowDown: -0.05}[event.key];
  if (!axis || (!move && event.key !== "Escape")) return;
  event.preventDefault();
  event.stopPropagation();
  if (!move) {
    brushes.delete(id);
    refilter();
    return;
  }
  const [low, high] = brushes.get(id) ?? [0, 1];
  if (event.shiftKey) setBrush(axis, low, Math.max(low + 0.02, high + move));
  else setBrush(axis, low + move < 0 ? 0 : low + move, low + move < 0 ? high : brushes.has(id) ? high + move : high);
}

function brushByPointer(svg) {
  const placeAt = (event) => 1 - (event.clientY - svg.getBoundingClientRect().top - PARALLEL_TOP) / PARALLEL_HEIGHT;
  const again = soon(() => parallel.drag && setBrush(parallel.drag.axis, parallel.drag.from, parallel.drag.to));
  svg.addEventListener("pointerdown", (event) => {
    const id = event.target.closest(".parallel-axis")?.dataset.column;
    const axis = parallel.axes.find((one) => one.column.id === id);
    if (!axis) return;
    event.preventDefault();
    parallel.drag = {axis, from: placeAt(event), to: placeAt(event), start: event.clientY};
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!parallel.drag) {
      if (event.pointerType === "mouse") showTip(nearestLine(event), {x: event.clientX, y: event.clientY});
      return;
    }
    parallel.drag.to = placeAt(event);
    showTip(null);
    if (Math.abs(event.clientY - parallel.drag.start) > 3) again();
  });
  svg.addEventListener("pointerup", (event) => {
    const {drag} = parallel;
    parallel.drag = null;
    if (drag && Math.abs(event.clientY - drag.start) <= 3) {
      brushes.delete(drag.axis.column.id);
      refilter();
    } else if (drag) setBrush(drag.axis, drag.from, placeAt(event));
    else if (nearestLine(event)) select(nearestLine(event), "parallel");
  });
  svg.addEventListener("pointerleave", () => parallel.drag || showTip(null));
}

function axisMenu() {
  const pool = [...keyColumns.filter((one) => one.values.length > 1), ...usable];
  const panel = make("div", {class: "panel columns"});
  for (const [group, title] of [
    ["swept", "Swept"],
    ["metrics", "Metrics"],
  ]) {
    panel.append(
      make(
        "fieldset",
        {},
        make("legend", {}, title),
        ...pool
          .filter((one) => one.group === group)
          .map((column) =>
            tick(column.metric?.label ?? column.label, parallelColumns().includes(column), (on) => {
              const now = new Set(parallelColumns().map((one) => one.id));
              if (on) now.add(column.id);
              else now.delete(column.id);
              remember("axes", [...now].map(encodeURIComponent).join(" ") || "-");
              layParallel();
            }),
          ),
      ),
    );
  }
  return make("details", {class: "pop"}, make("summary", {}, "Axes"), panel);
}

function parallelSection() {
  if (keyColumns.length + usable.length < 2) return;
  const holder = make(
    "div",
    {id: "parallel-chart"},
    make("canvas", {id: "parallel-canvas", "aria-hidden": "true"}),
    make("div", {id: "parallel-axes"}),
  );
  section(
    "parallel",
    "Parallel",
    "Parallel coordinates",
    "Each line is a point; dashed lines are references. Drag along an axis to keep a range everywhere on this page; click the axis to let go.",
    make("div", {class: "tools"}, axisMenu()),
    make("div", {class: "scroll"}, holder),
    make("div", {id: "parallel-legend"}),
  );
  layParallel();
  brushByPointer(byId("parallel-axes"));
  byId("parallel-axes").addEventListener("keydown", brushKeys);
  const redraw = whenSeen(holder.parentElement, layParallel);
  for (const what of ["filter", "theme", "colour"]) when(what, redraw);
  for (const what of ["hover", "select"]) when(what, showLine);
  onResize(holder.parentElement, layParallel);
}
