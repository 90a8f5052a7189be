// Accuracy in each task as bars with intervals, beside chance, the attention baseline and the MLP control.
const barCounts = new Map();
const BARS = 8;

const hasThreshold = (task) => task.threshold !== null && task.threshold !== undefined;

function barTrack(task, result, row, levels) {
  const track = make("span", {class: "track"});
  const put = (kind, left, width) => {
    const part = make("span", {class: kind});
    part.style.left = `${100 * left}%`;
    if (width !== undefined) part.style.width = `${100 * width}%`;
    track.append(part);
  };
  put(`amount ${row.role}`, 0, result.accuracy);
  put("level chance", task.chance);
  for (const level of levels) put(`level ${level.role}`, level.accuracy);
  if (result.interval) put("interval", result.interval[0], Math.max(0, result.interval[1] - result.interval[0]));
  return track;
}

function barWords(task, result) {
  const interval = result.interval ? ` (${result.interval.map((one) => brief(one, "share")).join(" to ")})` : "";
  const reached =
    result.threshold_steps === null || result.threshold_steps === undefined
      ? "not reached"
      : `${Math.round(result.threshold_steps).toLocaleString("en")} steps, ${result.reached} of ${result.seeds} seeds`;
  const first = [task.task, brief(result.accuracy, "share") + interval];
  return hasThreshold(task) ? [first, [`to ${brief(task.threshold, "share")}`, reached]] : [first];
}

function barRow(task, result, levels) {
  const row = byRowId.get(result.id),
    words = barWords(task, result);
  const steps =
    result.threshold_steps === null || result.threshold_steps === undefined
      ? hasThreshold(task)
        ? "–"
        : ""
      : format(result.threshold_steps, "count");
  const found = make(
    "div",
    {
      class: `bar ${row.role}`,
      tabindex: "0",
      role: "button",
      "data-id": row.id,
      "aria-label": `${row.label}: ${words.map((pair) => pair.join(" ")).join(", ")}`,
    },
    make("span", {class: "who"}, row.short),
    barTrack(task, result, row, levels),
    make("span", {class: "amount-text"}, format(result.accuracy, "share")),
    make("span", {class: "steps"}, steps),
  );
  found.addEventListener(
    "pointermove",
    (event) => event.pointerType === "mouse" && showTip(row, {x: event.clientX, y: event.clientY}, [], words),
  );
  found.addEventListener("pointerleave", () => showTip(null));
  found.addEventListener("click", () => select(row, "tasks"));
  found.addEventListener("keydown", (event) => event.key === "Enter" && select(row, "tasks"));
  return found;
}

function taskPanel(task) {
  const known = task.results.filter((one) => byRowId.has(one.id) && one.accuracy !== null);
  const roleOf = (one) => byRowId.get(one.id).role;
  const fixed = known.filter((one) => roleOf(one) !== "point");
  const levels = fixed.map((one) => ({role: roleOf(one), accuracy: one.accuracy}));
  const found = known
    .filter((one) => roleOf(one) === "point" && passes[byRowId.get(one.id).index])
    .sort((a, b) => b.accuracy - a.accuracy || (a.threshold_steps ?? Infinity) - (b.threshold_steps ?? Infinity));
  const count = barCounts.get(task.task) ?? BARS;
  const box = make(
    "div",
    {class: "task"},
    make("h3", {}, task.task),
    make(
      "div",
      {class: "bar heads", "aria-hidden": "true"},
      make("span", {class: "who", title: SHORT_WORDS}, SHORT_WORDS),
      make("span", {}, ""),
      make("span", {class: "amount-text"}, "accuracy"),
      make("span", {class: "steps"}, hasThreshold(task) ? `steps to ${brief(task.threshold, "share")}` : ""),
    ),
    ...[...fixed, ...found.slice(0, count)].map((one) => barRow(task, one, levels)),
  );
  if (found.length > count) {
    box.append(
      button(
        moreWords(20, found.length - count),
        () => {
          barCounts.set(task.task, count + 20);
          drawTasks();
        },
        {class: "quiet"},
      ),
    );
  }
  return box;
}

function drawTasks() {
  byId("task-panels").replaceChildren(...data.tasks.map(taskPanel));
}

function taskSection() {
  if (!data.tasks.length) return;
  const marks = [
    ["chance", "", "level-mark chance"],
    ...references.map((row) => [row.label, "", `level-mark ${row.role}`]),
  ];
  section(
    "tasks",
    "Tasks",
    "Tasks",
    "References first, then the best first. The whisker is the interval over seeds; vertical lines are chance and the references.",
    legend(marks),
    make("div", {id: "task-panels", class: "panels"}),
  );
  drawTasks();
  when("filter", whenSeen(byId("task-panels"), drawTasks));
}
