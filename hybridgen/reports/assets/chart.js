// Scales and axes of the charts.
function steps(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12; i += 1) found.push(i * step);
  return found;
}

function logSteps(low, high, count, base) {
  const power = (v) => Math.log(v) / Math.log(base);
  const span = power(high) - power(low);
  const marks = base === 2 ? [1] : span < 1.2 ? [1, 1.5, 2, 3, 5, 7] : span < 3 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil((span * marks.length) / (count * 1.6)));
  const found = [];
  for (let p = Math.floor(power(low)); p <= power(high); p += 1) {
    if (marks.length === 1 && p % every) continue;
    for (const mark of marks) {
      const value = mark * base ** p;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found;
}

function ticksOf(low, high, isLog, unit, count) {
  if (isLog) {
    const found = logSteps(low, high, count, unit === "bytes" ? 2 : 10);
    if (found.length >= 2) return found;
  }
  if (unit === "bytes") {
    const size = 1024 ** Math.max(0, Math.floor(Math.log(Math.max(high, 1)) / Math.log(1024)));
    return steps(low / size, high / size, count).map((one) => one * size);
  }
  return steps(low, high, count).filter((one) => unit !== "count" || Number.isInteger(one));
}

// From values to pixels, with room at both ends.
function scaleOf(values, isLog, range, unit, {count = 6, room = 0.05, from = null, to = null} = {}) {
  let low = from ?? Infinity,
    high = to ?? -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low === high || low > high) {
    const one = low === high ? low : 1;
    [low, high] = isLog ? [one / 2, one * 2] : [one - Math.abs(one || 1) / 2, one + Math.abs(one || 1) / 2];
  }
  const go = isLog ? Math.log : (v) => v,
    back = isLog ? Math.exp : (v) => v;
  let a = go(low),
    b = go(high);
  const pad = (b - a) * room;
  if (from === null) a -= pad;
  if (to === null) b += pad;
  const at = (v) => range[0] + ((go(v) - a) / (b - a)) * (range[1] - range[0]);
  const ticks = ticksOf(back(a), back(b), isLog, unit, count);
  return {at, ticks, text: tickText(ticks, unit)};
}

// Leaves out texts that would run into the one before.
function spaced(scale, gap) {
  let before = -Infinity;
  return [...scale.ticks]
    .sort((a, b) => scale.at(a) - scale.at(b))
    .filter((value) => {
      const at = scale.at(value),
        half = (scale.text(value).length * 6.4) / 2;
      if (at - half < before + gap) return false;
      before = at + half;
      return true;
    });
}

function axes(box, x, y, titleX, titleY) {
  const found = shape("g", {class: "axes"});
  for (const value of spaced(x, 8)) {
    const at = x.at(value);
    found.append(
      shape("line", {x1: at, x2: at, y1: box.top, y2: box.bottom, class: "rule"}),
      shape("text", {x: at, y: box.bottom + 17, "text-anchor": "middle"}, x.text(value)),
    );
  }
  for (const value of y.ticks) {
    const at = y.at(value);
    found.append(
      shape("line", {x1: box.left, x2: box.right, y1: at, y2: at, class: "rule"}),
      shape("text", {x: box.left - 7, y: at + 4, "text-anchor": "end"}, y.text(value)),
    );
  }
  found.append(
    shape("text", {x: (box.left + box.right) / 2, y: box.bottom + 38, "text-anchor": "middle", class: "title"}, titleX),
    shape("text", {x: box.left - 52, y: box.top - 14, class: "title"}, titleY),
  );
  return found;
}

const boxOf = (width, height, {left = 62, right = 16, top = 34, bottom = 46} = {}) => ({
  left,
  right: width - right,
  top,
  bottom: height - bottom,
});

function legend(entries, title) {
  const found = make("div", {class: "legend"});
  if (title) found.append(make("span", {class: "legend-title"}, title));
  for (const [text, colour, kind] of entries) {
    const mark = make("span", {class: `swatch ${kind ?? ""}`});
    mark.style.setProperty("--colour", colour);
    found.append(make("span", {class: "entry"}, mark, text));
  }
  return found;
}

// Draws again when there is more or less room.
function onResize(element, action) {
  let before = element.clientWidth;
  new ResizeObserver(() => {
    if (element.clientWidth === before || !element.clientWidth) return;
    before = element.clientWidth;
    action();
  }).observe(element);
}

function canvasFor(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

// Asks at most once per frame, however often something changes.
function soon(action) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      action();
    });
  };
}

// Like soon, but what is out of sight waits until it comes into view.
function whenSeen(element, action) {
  let isSeen = true,
    isOld = false;
  const redraw = soon(() => {
    if (!isSeen || !isOld) return;
    isOld = false;
    action();
  });
  new IntersectionObserver(
    (entries) => {
      isSeen = entries.at(-1).isIntersecting;
      redraw();
    },
    {rootMargin: "150px"},
  ).observe(element);
  return () => {
    isOld = true;
    redraw();
  };
}

const REFERENCE_SHAPES = {attention: "M0,-8L8,0L0,8L-8,0Z", mlp: "M0,-8L8,7L-8,7Z"};
