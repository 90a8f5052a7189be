// The table: only the rows in view exist, so that thousands scroll and sort at once.
const ROW = 30;
const table = {order: [], active: 0, shown: [], front: new Set()};

// At first by what models are judged by, where it is known which way that is better.
function firstSort() {
  const goal = metrics.get(data.headline)?.goal;
  return goal ? (goal === "max" ? "-" : "") + data.headline : "number";
}

function sortSetting() {
  const text = chosen.get("sort") ?? firstSort();
  const id = text.replace(/^-/, "");
  return columnById.has(id)
    ? {column: columnById.get(id), down: text.startsWith("-")}
    : {column: columnById.get("number"), down: false};
}

// Rows without a value come last whichever way, and references first of all when nothing is sorted by.
function sorted(found) {
  const {column, down} = sortSetting();
  if (!column) return found;
  const sign = down ? -1 : 1,
    get = column.get;
  const compare = column.isNumber ? (a, b) => a - b : collator.compare;
  return found
    .map((row) => [get(row), row])
    .sort(([a, one], [b, other]) => {
      if (a === null || a === "") return b === null || b === "" ? one.index - other.index : 1;
      if (b === null || b === "") return -1;
      return sign * compare(a, b) || one.index - other.index;
    })
    .map(([, row]) => row);
}

function sortBy(column) {
  const now = sortSetting();
  const first = column.metric?.goal === "max"; // the best on top
  const down = now.column === column ? !now.down : first;
  remember("sort", (down ? "-" : "") + column.id);
  refreshTable();
  say(`Sorted by ${column.label}, ${down ? "largest" : "smallest"} first`);
}

function hiddenColumns() {
  const hidden = chosen.get("hide");
  // At first what the others already say: the state if all went well, ids and roles.
  if (hidden === undefined) {
    const dull = ["role", "id", "seconds"];
    if (rows.every((row) => row.state === "done")) dull.push("state");
    if (new Set(rows.map((row) => row.name)).size <= references.length + 1 && keyColumns.length) dull.push("name");
    return new Set(dull);
  }
  return new Set(hidden.split(" ").map(decodeURIComponent));
}

function setHidden(hidden) {
  remember("hide", [...hidden].map(encodeURIComponent).join(" ") || "-");
  layTable();
}

function widthOf(column) {
  let longest = column.label.length * 0.92 + 2.2;
  if (column === keyColumns[0] && references.length) longest = 18;
  for (const value of column.isNumber ? [...column.values.slice(0, 40), ...column.values.slice(-40)] : column.values) {
    longest = Math.max(longest, column.textOf(value).length);
  }
  return `${Math.min(Math.max(longest, 4), column.isNumber ? 22 : 34) * 0.62 + 1.6}em`;
}

function headCell(column) {
  const now = sortSetting();
  const isSorted = now.column === column;
  const text = button(column.label, () => sortBy(column), {title: `${column.id}: sort`});
  const goal = {min: "less is better", max: "more is better"}[column.metric?.goal];
  if (goal) text.title = `${column.id}: ${goal}`;
  const cell = make(
    "th",
    {
      scope: "col",
      "aria-sort": isSorted ? (now.down ? "descending" : "ascending") : "none",
      class: column.isNumber ? "number" : null,
      "data-column": column.id,
    },
    text,
  );
  return cell;
}

function layTable() {
  const hidden = hiddenColumns();
  table.shown = columns.filter((column) => column.id === "number" || !hidden.has(column.id));
  for (const column of table.shown) {
    column.width ??= widthOf(column);
    if (column.metric) column.most ??= column.values.at(-1);
    if (column.metric?.goal) column.best ??= bestOf(column, rows)?.value ?? null;
  }
  const cols = table.shown.map((column) => {
    const col = make("col");
    col.style.width = column.id === "number" ? "6em" : column.width;
    return col;
  });
  byId("columns").replaceChildren(...cols);
  refreshTable();
}

function refreshTable() {
  byId("heads").replaceChildren(...table.shown.map(headCell));
  table.order = sorted(shownRows());
  table.active = Math.max(0, selected ? table.order.indexOf(selected) : 0);
  byId("grid").setAttribute("aria-rowcount", table.order.length + 1);
  byId("no-rows").hidden = table.order.length > 0;
  byId("scroll").scrollTop = 0;
  drawRows();
}

function numberCell(row) {
  const mark = row.role === "point" ? String(row.number) : row.role === "attention" ? "◆" : "▲";
  const cell = make(
    "th",
    {scope: "row", class: "number"},
    button(
      copyIcon(),
      (event) => {
        event.stopPropagation();
        copyCommand(row);
      },
      {
        class: "copy",
        title: "Copy the command that rebuilds this point",
        tabindex: "-1",
        "aria-label": `Copy the command of ${row.label}`,
      },
    ),
  );
  if (table.front.has(row))
    cell.append(make("span", {class: "on-front", title: "On the Pareto front drawn on this page"}, "●"));
  cell.append(mark);
  return cell;
}

function bodyCell(row, column) {
  if (column.id === "number") return numberCell(row);
  const missing = absence(row, column);
  if (missing)
    return make("td", {class: missing.failed ? "number failed" : "number none", title: missing.why}, missing.text);
  const value = column.get(row);
  // A reference has no swept values: there is room for what it is.
  if (value === null && column === keyColumns[0] && row.role !== "point")
    return make("td", {title: row.label}, row.label);
  const text = column.textOf(value);
  if (!column.isNumber)
    return make(
      "td",
      {
        class: column.id !== "state" || text === "done" ? null : text.startsWith("failed") ? "failed" : "none",
        title: text,
      },
      text,
    );
  const cell = make("td", {class: "number"}, text);
  if (column.metric && column.most > 0 && value >= 0) {
    cell.classList.add("barred");
    cell.style.setProperty("--share", `${(100 * value) / column.most}%`);
    cell.title = String(value);
    if (value === column.best && row.role === "point") cell.classList.add("best");
  }
  return cell;
}

function bodyRow(place) {
  const row = table.order[place];
  const found = make("tr", {
    "aria-rowindex": place + 2,
    "data-place": place,
    "data-id": row.id,
    tabindex: place === table.active ? "0" : "-1",
    "aria-selected": row === selected ? "true" : "false",
    class: row.role === "point" ? null : "reference",
  });
  found.append(...table.shown.map((column) => bodyCell(row, column)));
  return found;
}

function drawRows() {
  const scroll = byId("scroll"),
    count = table.order.length;
  const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 6);
  const last = Math.min(count, first + Math.ceil((scroll.clientHeight || 600) / ROW) + 12);
  const focused = document.activeElement?.closest?.("#rows tr")?.dataset.place;
  byId("above").style.height = `${first * ROW}px`;
  byId("below").style.height = `${(count - last) * ROW}px`;
  const found = [];
  for (let place = first; place < last; place += 1) found.push(bodyRow(place));
  byId("rows").replaceChildren(...found);
  if (focused !== undefined) byId("rows").querySelector(`[data-place="${table.active}"]`)?.focus({preventScroll: true});
}

function bringIntoView(place, inTheMiddle = false) {
  const scroll = byId("scroll"),
    head = byId("heads").offsetHeight;
  const top = place * ROW,
    room = scroll.clientHeight - head - ROW;
  if (inTheMiddle) scroll.scrollTop = top - room / 2;
  else if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (top > scroll.scrollTop + room) scroll.scrollTop = top - room;
}

function tableKeys(event) {
  if (!event.target.matches("#rows tr")) return;
  const last = table.order.length - 1;
  const to = {
    ArrowDown: table.active + 1,
    ArrowUp: table.active - 1,
    PageDown: table.active + 12,
    PageUp: table.active - 12,
    Home: 0,
    End: last,
  }[event.key];
  if (event.key === "Enter" || event.key === " ") select(table.order[table.active], "table");
  else if (event.key === "c" && !event.ctrlKey && !event.metaKey) copyCommand(table.order[table.active]);
  else if (to === undefined) return;
  event.preventDefault();
  if (to === undefined) return;
  table.active = Math.min(Math.max(to, 0), last);
  bringIntoView(table.active);
  drawRows();
  const row = byId("rows").querySelector(`[data-place="${table.active}"]`);
  row.focus({preventScroll: true});
}

function tableEvents(scroll) {
  let waiting = false;
  scroll.addEventListener(
    "scroll",
    () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        drawRows();
      });
    },
    {passive: true},
  );
  const rowAt = (event) => table.order[event.target.closest("#rows tr")?.dataset.place] ?? null;
  const body = byId("rows");
  body.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") showTip(rowAt(event), {x: event.clientX, y: event.clientY});
  });
  body.addEventListener("pointerleave", () => showTip(null));
  body.addEventListener("click", (event) => rowAt(event) && select(rowAt(event), "table"));
  body.addEventListener("focusin", (event) => {
    if (!event.target.matches("tr:focus-visible")) return;
    const box = event.target.getBoundingClientRect();
    showTip(rowAt(event), {x: Math.min(box.left + 420, innerWidth / 2), y: box.bottom});
  });
  body.addEventListener("focusout", () => showTip(null));
  scroll.addEventListener("keydown", tableKeys);
}

function csv() {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet must not take a text for a formula.
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const heads = [...columns.map((column) => column.id), "command"];
  const lines = table.order.map((row) => [...columns.map((column) => column.get(row)), row.command]);
  return [heads, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function columnMenu() {
  const panel = make("div", {class: "panel columns"});
  const redo = () => {
    const hidden = hiddenColumns();
    const all = (ids) => () => {
      setHidden(new Set(ids));
      redo();
    };
    panel.replaceChildren(
      make(
        "div",
        {class: "row"},
        button("All", all([])),
        button("None", all(columns.map((column) => column.id))),
        button("As at first", () => {
          remember("hide", null);
          layTable();
          redo();
        }),
      ),
    );
    for (const [group, title] of [
      ["swept", "Swept"],
      ["metrics", "Metrics"],
      ["other", "Other"],
    ]) {
      const found = columns.filter((column) => column.group === group && column.id !== "number");
      panel.append(
        make(
          "fieldset",
          {},
          make("legend", {}, title),
          ...found.map((column) =>
            tick(column.label, !hidden.has(column.id), (on) => {
              const next = hiddenColumns();
              if (on) next.delete(column.id);
              else next.add(column.id);
              setHidden(next);
            }),
          ),
        ),
      );
    }
  };
  redo();
  return make("details", {class: "pop"}, make("summary", {}, "Columns"), panel);
}

function tableSection() {
  const scroll = make(
    "div",
    {id: "scroll", class: "scroll", tabindex: "-1"},
    make(
      "table",
      {id: "grid", role: "grid", "aria-label": "Points"},
      make("colgroup", {id: "columns"}),
      make("thead", {}, make("tr", {id: "heads"})),
      make("tbody", {"aria-hidden": "true"}, make("tr", {id: "above"})),
      make("tbody", {id: "rows"}),
      make("tbody", {"aria-hidden": "true"}, make("tr", {id: "below"})),
    ),
  );
  const tools = make(
    "div",
    {class: "tools"},
    columnMenu(),
    button("Save as CSV", () => download("points.csv", csv(), "text/csv"), {id: "csv"}),
    make("span", {class: "note"}, "Enter opens a row, c copies its command."),
  );
  section(
    "table",
    "Table",
    "All points",
    null,
    tools,
    scroll,
    make("p", {id: "no-rows", hidden: true}, "No point passes the filter."),
  );
  tableEvents(scroll);
  layTable();
  when("filter", refreshTable);
  const redraw = soon(drawRows);
  when("front", (front) => {
    table.front = front;
    redraw();
  });
  when("select", (from) => {
    const place = table.order.indexOf(selected);
    if (place >= 0) table.active = place;
    if (place >= 0 && from !== "table") bringIntoView(place, true);
    drawRows();
  });
}
