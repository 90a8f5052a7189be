// What each swept field does to a metric: the mean of the points at each of its values.
const EFFECT_ROW = 24;
const effectMetrics = [...new Set(data.effects.map((one) => one.metric))].filter((name) => metrics.has(name));

// Numbers, and ranges of them, by size; words by what they do.
function effectOrder(key, values, metric) {
  if (columnById.get(key)?.isNumber) return values;
  const isNumber = values.every((one) => one.label.trim() !== "" && Number.isFinite(Number(one.label)));
  if (isNumber) return [...values].sort((a, b) => Number(a.label) - Number(b.label));
  return [...values].sort((a, b) => (metric.goal === "max" ? b.mean - a.mean : a.mean - b.mean));
}

// Intervals of few points reach beyond what a share can be.
const possible = (value, metric) => (metric.unit === "share" ? Math.min(1, Math.max(0, value)) : value);

function effectPanel(effect, metric, ends, width) {
  const values = effectOrder(
    effect.key,
    effect.values.filter((one) => one.mean !== null),
    metric,
  );
  const longest = Math.max(...values.map((one) => one.label.length), 3);
  const left = Math.min(Math.max(longest * 6.8 + 14, 40), width * 0.42);
  const box = {left, right: width - 48, top: 6, bottom: 6 + values.length * EFFECT_ROW};
  const scale = scaleOf(ends, false, [box.left, box.right], metric.unit, {count: 4, room: 0.04});
  const svg = shape("svg", {
    viewBox: `0 0 ${width} ${box.bottom + 26}`,
    width,
    height: box.bottom + 26,
    role: "img",
    "aria-label": `${effect.key}: ${values.map((one) => `${one.label} ${format(one.mean, metric.unit)}`).join(", ")}`,
  });
  for (const value of spaced(scale, 10)) {
    svg.append(
      shape("line", {x1: scale.at(value), x2: scale.at(value), y1: box.top, y2: box.bottom, class: "rule"}),
      shape("text", {x: scale.at(value), y: box.bottom + 16, "text-anchor": "middle"}, scale.text(value)),
    );
  }
  values.forEach((one, i) => {
    const y = box.top + (i + 0.5) * EFFECT_ROW;
    const words =
      `${one.label}: mean ${written(one.mean, metric.unit)} of ${one.count}` +
      (one.low === null ? "" : `, ${format(one.low, metric.unit)} to ${format(one.high, metric.unit)}`);
    const group = shape(
      "g",
      {class: "effect"},
      shape("title", {}, words),
      shape("text", {x: box.left - 8, y: y + 4, "text-anchor": "end", class: "value"}, shortened(one.label, left - 10)),
      shape("text", {x: width - 2, y: y + 4, "text-anchor": "end"}, `n=${one.count}`),
    );
    if (one.low !== null && one.high !== null)
      group.append(
        shape("line", {
          x1: scale.at(possible(one.low, metric)),
          x2: scale.at(possible(one.high, metric)),
          y1: y,
          y2: y,
          class: "whisker",
        }),
      );
    group.append(shape("circle", {cx: scale.at(one.mean), cy: y, r: 5}));
    svg.append(group);
  });
  return svg;
}

const beyondChance = (one) => (one.share === null ? -Infinity : one.share - (one.by_chance ?? 0));

function drawEffects() {
  const name = recalled("metric", effectMetrics, effectMetrics[0]),
    metric = metrics.get(name),
    holder = byId("effect-panels");
  const found = data.effects
    .filter((one) => one.metric === name && one.values.length)
    .sort((a, b) => beyondChance(b) - beyondChance(a));
  const ends = found
    .flatMap((one) => one.values.flatMap((value) => [value.low, value.mean, value.high]))
    .filter((value) => value !== null)
    .map((value) => possible(value, metric));
  const across = Math.max(1, Math.min(3, Math.floor(holder.clientWidth / 330)));
  const width = Math.floor((holder.clientWidth - 20 * (across - 1)) / across) - 28;
  holder.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
  holder.replaceChildren(
    ...found.map((effect) => {
      const label = data.keys.find((key) => key.key === effect.key)?.label ?? effect.key;
      const share = make(
        "span",
        {class: "share"},
        effect.share === null ? "" : `${Math.round(100 * effect.share)}% of the variance`,
      );
      const meter = make("span", {class: "meter", "aria-hidden": "true"}, make("span", {}));
      meter.firstChild.style.width = `${100 * (effect.share ?? 0)}%`;
      if (effect.by_chance) {
        // What a field that does nothing would seem to explain.
        const chance = make("i");
        chance.style.left = `${100 * Math.min(1, effect.by_chance)}%`;
        meter.append(chance);
        share.append(` (${Math.round(100 * effect.by_chance)}% by chance)`);
      }
      return make(
        "div",
        {class: "effect-panel", "data-key": effect.key},
        make("h3", {title: effect.key}, make("span", {}, label), share),
        meter,
        effectPanel(effect, metric, ends, width),
      );
    }),
  );
}

function effectSection() {
  if (!effectMetrics.length) return;
  // What models are judged by, then what else was measured.
  const rank = (name) => (name === data.headline ? 0 : metrics.get(name).objective === "cost" ? 2 : 1);
  effectMetrics.sort((a, b) => rank(a) - rank(b));
  section(
    "effects",
    "Effects",
    "Effect of each swept field",
    "Mean of all points at a value, with its interval; the field that explains most beyond chance comes first. All points count, whatever the filter.",
    make(
      "div",
      {class: "tools"},
      choice(
        "Effect on",
        effectMetrics.map((name) => [name, titled(metrics.get(name))]),
        recalled("metric", effectMetrics, effectMetrics[0]),
        (value) => {
          remember("metric", value);
          drawEffects();
        },
      ),
    ),
    make("div", {id: "effect-panels", class: "panels"}),
  );
  drawEffects();
  onResize(byId("effect-panels"), soon(drawEffects));
}
