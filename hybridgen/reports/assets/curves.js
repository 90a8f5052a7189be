// Learning curves: for each point the mean of its seeds. Those of lm are means over seeds already.
const curves = {lines: [], place: -1};
const MANY_LINES = 40;
const groups = [...new Set(data.curves.map((one) => one.group))];

// The mean of some curves at each x that one of them has. A training that ended sooner, for it had learned all, stays
// where it was: else the mean would fall when the best one ends.
function meanOf(found) {
  const known = found.map((curve) => curve.points.filter((point) => point[1] !== null)).filter((one) => one.length);
  const xs = [...new Set(known.flatMap((points) => points.map((point) => point[0])))].sort((a, b) => a - b);
  const places = known.map(() => 0);
  return xs.map((x) => {
    let sum = 0;
    known.forEach((points, i) => {
      while (places[i] + 1 < points.length && points[places[i] + 1][0] <= x) places[i] += 1;
      sum += points[places[i]][1];
    });
    return [x, sum / known.length];
  });
}

// The curves of a group as [row, seeds, mean], worked out when they are first asked for.
const linesOf = (() => {
  const kept = new Map();
  return (group) => {
    if (!kept.has(group)) {
      const byRow = Map.groupBy(
        data.curves.filter((one) => one.group === group && byRowId.has(one.id)),
        (one) => one.id,
      );
      kept.set(
        group,
        [...byRow].map(([id, seeds]) => ({
          row: byRowId.get(id),
          seeds: seeds.map((one) => one.points),
          areSeeds: seeds[0].label.startsWith("seed"),
          mean: meanOf(seeds),
        })),
      );
    }
    return kept.get(group);
  };
})();

// The ends of both axes: of all curves, so that they stay while a filter changes.
const extentOf = (() => {
  const kept = new Map();
  return (group, isLog) => {
    const key = `${isLog} ${group}`;
    if (kept.has(key)) return kept.get(key);
    const found = [
      [Infinity, -Infinity],
      [Infinity, -Infinity],
    ];
    for (const {seeds} of linesOf(group)) {
      for (const points of seeds) {
        for (const point of points) {
          if (point[1] === null || (isLog && point[0] <= 0)) continue;
          for (let i = 0; i < 2; i += 1) {
            if (point[i] < found[i][0]) found[i][0] = point[i];
            if (point[i] > found[i][1]) found[i][1] = point[i];
          }
        }
      }
    }
    kept.set(key, found);
    return found;
  };
})();

function curveFrame(group, width, height) {
  const one = data.curves.find((curve) => curve.group === group);
  const isShare = one.y === "accuracy",
    isLog = recalled("curve-log", ["0", "1"], "0") === "1";
  const [xs, ys] = extentOf(group, isLog);
  const box = boxOf(width, height, {right: 24});
  const x = scaleOf(xs, isLog, [box.left, box.right], "count", {count: width / 90, room: 0.01, from: isLog ? null : 0});
  const y = scaleOf(ys, false, [box.bottom, box.top], isShare ? "share" : "number", isShare ? {from: 0, to: 1} : {});
  return {box, x, y, isLog, words: [one.x, one.y], unit: isShare ? "share" : "number"};
}

function strokeLine(context, points, frame) {
  context.beginPath();
  let isOpen = false;
  for (const [x, y] of points) {
    if (y === null || (frame.isLog && x <= 0)) {
      isOpen = false;
      continue;
    }
    if (isOpen) context.lineTo(frame.x.at(x), frame.y.at(y));
    else context.moveTo(frame.x.at(x), frame.y.at(y));
    isOpen = true;
  }
  context.stroke();
}

// Where lines are too many to tell apart: the mean of those with one colour, on top of them all.
function paintMeans(context, found, frame, colours) {
  context.globalAlpha = 1;
  const points = found.filter((line) => line.row.role === "point");
  for (const [colour, lines] of Map.groupBy(points, (line) => colours.of(line.row))) {
    if (colours.isContinuous) continue;
    const mean = meanOf(lines.map((line) => ({points: line.mean})));
    for (const [width, ink] of [
      [5, style("--ground")],
      [3, colour],
    ]) {
      context.lineWidth = width;
      context.strokeStyle = ink;
      strokeLine(context, mean, frame);
    }
  }
}

function paintCurves(context, found, frame) {
  const {colour} = pareto.x ? paretoSettings() : {colour: keyColumns[0]};
  const colours = colouring(colour),
    many = found.length > MANY_LINES,
    ink = style("--ink"),
    faint = style("--faint");
  const order = [...found].sort((a, b) => (a.row.role === "point" ? 0 : 1) - (b.row.role === "point" ? 0 : 1));
  for (const line of order) {
    const isReference = line.row.role !== "point";
    context.strokeStyle = isReference ? ink : many ? faint : colours.of(line.row);
    context.setLineDash(isReference ? (line.row.role === "mlp" ? [2, 3] : [7, 4]) : []);
    if (line.seeds.length > 1 && !many) {
      context.globalAlpha = 0.22;
      context.lineWidth = 1;
      for (const seed of line.seeds) strokeLine(context, seed, frame);
    }
    context.globalAlpha = isReference ? 1 : many ? Math.max(0.12, 20 / found.length) : 0.9;
    context.lineWidth = isReference || !many ? 2 : 1;
    strokeLine(context, line.mean, frame);
  }
  context.setLineDash([]);
  if (many) paintMeans(context, found, frame, colours);
  byId("curve-legend").replaceChildren(
    legend(
      [
        ...colours.legend,
        ...references
          .filter((row) => found.some((line) => line.row === row))
          .map((row) => [row.label, ink, `dash ${row.role}`]),
      ],
      colour?.metric?.label ?? colour?.label,
    ),
  );
}

function guides(svg, group, frame) {
  const task = data.tasks.find((one) => one.task === group);
  if (!task || frame.unit !== "share") return;
  for (const [value, text, kind] of [
    [task.chance, "chance", "chance"],
    [task.threshold, "threshold", "threshold"],
  ]) {
    if (value === null || value === undefined) continue;
    const at = frame.y.at(value);
    svg.append(
      shape("line", {x1: frame.box.left, x2: frame.box.right, y1: at, y2: at, class: kind}),
      shape(
        "text",
        {x: frame.box.right - 4, y: at - 5, "text-anchor": "end", class: "halo"},
        `${text} ${brief(value, "share")}`,
      ),
    );
  }
}

function drawCurves() {
  const holder = byId("curve-chart"),
    group = recalled("group", groups, groups[0]);
  const width = Math.max(holder.clientWidth, 300),
    height = Math.round(Math.min(Math.max(width * 0.5, 300), 460));
  const frame = curveFrame(group, width, height),
    found = linesOf(group).filter((line) => passes[line.row.index]);
  paintCurves(canvasFor(byId("curve-canvas"), width, height), found, frame);
  const svg = shape(
    "svg",
    {viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true"},
    axes(frame.box, frame.x, frame.y, frame.words[0], frame.words[1]),
  );
  guides(svg, group, frame);
  svg.append(
    shape("path", {id: "curve-seeds", class: "curve-hover thin"}),
    shape("path", {id: "curve-hover", class: "curve-hover"}),
  );
  byId("curve-axes").replaceChildren(svg);
  // Best first, for the keyboard.
  const sign = frame.unit === "share" ? -1 : 1;
  const last = (line) => line.mean.at(-1)?.[1] ?? Infinity;
  const ordered = [...found].sort((a, b) => sign * (last(a) - last(b)));
  Object.assign(curves, {frame, lines: ordered, place: -1});
  const count =
    new Set(found.map((line) => line.seeds.length)).size === 1 && found[0].areSeeds
      ? `, mean of ${found[0].seeds.length} seed${found[0].seeds.length === 1 ? "" : "s"}`
      : "";
  byId("curve-note").textContent =
    `${found.length.toLocaleString("en")} line${found.length === 1 ? "" : "s"}${count}. ` +
    (found.length > MANY_LINES ? "Thick lines are means of the points of one colour. " : "") +
    "Point at a line to name it.";
  showCurve();
}

function showCurve() {
  const row = hovered ?? selected,
    line = curves.lines.find((one) => one.row === row),
    path = byId("curve-hover");
  if (!path) return;
  const pathOfLine = (points) =>
    points
      .filter(([x, y]) => y !== null && (!curves.frame.isLog || x > 0))
      .map(([x, y], i) => `${i ? "L" : "M"}${curves.frame.x.at(x).toFixed(1)},${curves.frame.y.at(y).toFixed(1)}`)
      .join("");
  path.setAttribute("d", line ? pathOfLine(line.mean) : "");
  byId("curve-seeds").setAttribute("d", line && line.seeds.length > 1 ? line.seeds.map(pathOfLine).join("") : "");
}

function nearestCurve(event) {
  const box = byId("curve-chart").getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let best = null,
    least = 16;
  for (const line of curves.lines) {
    const right = line.mean.findIndex(([x]) => curves.frame.x.at(x) >= px);
    if (right < 0) continue;
    const [x1, y1] = line.mean[right],
      [x0, y0] = line.mean[Math.max(0, right - 1)];
    const [a, b] = [curves.frame.x.at(x0), curves.frame.x.at(x1)];
    const share = b > a ? Math.min(1, Math.max(0, (px - a) / (b - a))) : 1;
    const away = Math.abs(curves.frame.y.at(y0 + (y1 - y0) * share) - py);
    if (away < least) [best, least] = [{line, x: x1, y: y1}, away];
  }
  return best;
}

function curveWords({x, y}) {
  return [
    [`${curves.frame.words[1]} at ${curves.frame.words[0]} ${x.toLocaleString("en")}`, brief(y, curves.frame.unit)],
  ];
}

function curveKeys(event) {
  const move = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
  if (event.key === "Enter" && curves.lines[curves.place]) select(curves.lines[curves.place].row, "curves");
  if (!move || !curves.lines.length) return;
  event.preventDefault();
  curves.place = Math.min(Math.max(curves.place + move, 0), curves.lines.length - 1);
  const line = curves.lines[curves.place],
    [x, y] = line.mean.at(-1) ?? [0, 0],
    box = byId("curve-chart").getBoundingClientRect();
  showTip(
    line.row,
    {x: box.left + curves.frame.x.at(x) - 60, y: box.top + curves.frame.y.at(y)},
    [],
    curveWords({x, y}),
  );
}

function curveSection() {
  if (!groups.length) return;
  const chart = make(
    "div",
    {
      id: "curve-chart",
      class: "chart layered",
      tabindex: "0",
      role: "group",
      "aria-label": "Learning curves; arrow keys walk from the best line down, Enter selects a point",
    },
    make("canvas", {id: "curve-canvas", "aria-hidden": "true"}),
    make("div", {id: "curve-axes"}),
  );
  const set = (name) => (value) => {
    remember(name, value);
    drawCurves();
  };
  section(
    "curves",
    "Curves",
    "Learning curves",
    null,
    make(
      "div",
      {class: "tools"},
      choice(
        "Curves of",
        groups.map((one) => [one, one]),
        recalled("group", groups, groups[0]),
        set("group"),
      ),
      tick("log steps", recalled("curve-log", ["0", "1"], "0") === "1", (on) => set("curve-log")(on ? "1" : "0")),
    ),
    chart,
    make("div", {id: "curve-legend"}),
    make("p", {id: "curve-note", class: "note"}),
  );
  drawCurves();
  const over = (event) => {
    const found = nearestCurve(event);
    showTip(found?.line.row ?? null, {x: event.clientX, y: event.clientY}, [], found ? curveWords(found) : []);
  };
  chart.addEventListener("pointermove", (event) => event.pointerType === "mouse" && over(event));
  chart.addEventListener("pointerleave", () => showTip(null));
  chart.addEventListener("blur", () => showTip(null));
  chart.addEventListener("click", (event) => nearestCurve(event) && select(nearestCurve(event).line.row, "curves"));
  chart.addEventListener("keydown", curveKeys);
  const redraw = whenSeen(chart, drawCurves);
  for (const what of ["filter", "theme", "colour"]) when(what, redraw);
  for (const what of ["hover", "select"]) when(what, showCurve);
  onResize(chart, redraw);
}
