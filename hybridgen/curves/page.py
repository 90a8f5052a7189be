"""Curves as one HTML file that needs no network: the picture as SVG, numbers under the pointer, and a table."""

import html
import json
from typing import Any

from hybridgen.curves.figure import Drawing
from hybridgen.curves.quantities import QUANTITIES, tokens_written, written
from hybridgen.curves.sampling import CurveSet

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; color: #222;
  background: #fff; }}
/* On a phone the picture is wider than the screen and scrolls: its text stays legible. */
.scroll {{ overflow-x: auto; }}
#picture {{ position: relative; min-width: 36rem; }}
#picture svg {{ display: block; width: 100%; height: auto; }}
#tip {{ position: absolute; pointer-events: none; padding: .4rem .6rem; background: #fffffff2; border: 1px solid #bbb;
  border-radius: 4px; font-size: 13px; white-space: nowrap; z-index: 1; }}
#tip td:last-child {{ text-align: right; padding-left: 1rem; font-variant-numeric: tabular-nums; }}
#line {{ position: absolute; width: 1px; background: #888; pointer-events: none; }}
.table {{ overflow-x: auto; }}
.table table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.table th, .table td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e3e3e3; }}
</style>
</head>
<body>
<div class="scroll"><div id="picture" tabindex="0" role="img" aria-label="{title}; arrow keys read the points">
{svg}
<div id="line" hidden></div><div id="tip" hidden></div>
</div></div>
<details><summary>The numbers</summary><div class="table">{table}</div></details>
<script id="data" type="application/json">{data}</script>
<script>
{script}
</script>
</body>
</html>
"""
_SCRIPT = """const data = JSON.parse(document.getElementById("data").textContent);
const picture = document.getElementById("picture"), tip = document.getElementById("tip");
const line = document.getElementById("line"), svg = picture.querySelector("svg");
let shown = -1;
function show(index) {
  shown = index;
  tip.hidden = line.hidden = index < 0;
  if (index < 0) return;
  const column = data.columns[index], box = svg.getBoundingClientRect();
  const x = column.at * box.width;
  const table = document.createElement("table"), head = table.createCaption();
  head.textContent = column.x;
  for (const row of column.rows) {
    const cells = table.insertRow();
    const name = cells.insertCell();
    name.textContent = row.label;
    name.style.color = row.color;
    cells.insertCell().textContent = row.y;
  }
  tip.replaceChildren(table);
  line.style.cssText = `left:${x}px;top:${data.top * box.height}px;height:${data.height * box.height}px`;
  const left = x + 12 + tip.offsetWidth > box.width ? Math.max(0, x - 12 - tip.offsetWidth) : x + 12;
  tip.style.left = left + "px";
  tip.style.top = data.top * box.height + "px";
}
function nearest(event) {
  const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
  let best = 0;
  data.columns.forEach((column, index) => {
    if (Math.abs(column.at - at) < Math.abs(data.columns[best].at - at)) best = index;
  });
  show(best);
}
picture.addEventListener("pointermove", nearest);
picture.addEventListener("pointerdown", nearest);
picture.addEventListener("pointerleave", () => show(-1));
picture.addEventListener("keydown", (event) => {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!step) return;
  event.preventDefault();
  show(Math.min(Math.max(shown + step, 0), data.columns.length - 1));
});"""


def page(curves: CurveSet, drawing: Drawing, svg: str) -> str:
    """Returns the page.

    Args:
        curves: What is drawn.
        drawing: The picture of it.
        svg: The same as SVG text.
    """
    quantity = QUANTITIES[curves.y]
    names = ", ".join(curve.label for curve in curves.curves if not curve.part)
    svg = svg[svg.index("<svg") :]
    # `<` in a script element could end it.
    data = json.dumps(_data(curves, drawing)).replace("<", "\\u003c")
    return _PAGE.format(
        title=html.escape(f"{quantity.title}: {names}"), svg=svg, table=_table(curves), data=data, script=_SCRIPT
    )


def _data(curves: CurveSet, drawing: Drawing) -> dict[str, Any]:
    """What the script shows: for each point of the horizontal axis where it is, as a share of the width, and values."""
    box = drawing.axes.get_position()
    width = drawing.figure.bbox.width
    scale = QUANTITIES[curves.y].scale
    columns = []
    for x in sorted({x for curve in curves.curves for x in curve.xs}):
        rows = [
            {"label": curve.label, "color": color, "y": written(dict(zip(curve.xs, curve.ys, strict=True))[x], scale)}
            for curve, color in zip(curves.curves, drawing.colors, strict=True)
            if x in curve.xs
        ]
        at = drawing.axes.transData.transform((x, 1))[0] / width
        columns.append({"x": _x_words(curves, x), "at": round(float(at), 5), "rows": rows})
    return {"columns": columns, "top": round(1 - box.y1, 5), "height": round(box.height, 5)}


def _x_words(curves: CurveSet, x: int) -> str:
    return f"{tokens_written(x)} tokens" if curves.x == "seq_len" else f"{curves.x} = {x:,}"


def _exact(value: float) -> str:
    """A cost with all its digits; a speed, which is an estimate, with as many as tell something."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(curves: CurveSet) -> str:
    """The exact numbers."""
    head = "".join(f"<th>{html.escape(curve.label)}</th>" for curve in curves.curves)
    found = [dict(zip(curve.xs, curve.ys, strict=True)) for curve in curves.curves]
    rows = []
    for x in sorted({x for one in found for x in one}):
        cells = "".join(f"<td>{_exact(one[x])}</td>" if x in one else "<td></td>" for one in found)
        rows.append(f"<tr><th>{x:,}</th>{cells}</tr>")
    return f"<table><tr><th>{curves.x}</th>{head}</tr>{''.join(rows)}</table>"
