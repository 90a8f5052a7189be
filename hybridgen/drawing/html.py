"""HTML: one file with the picture in it, and a panel that shows the fields and costs of the layer pointed at."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any
from xml.etree.ElementTree import Element, tostring

from hybridgen.costs import ModelCost
from hybridgen.costs.results import Amounts, PartCost
from hybridgen.drawing.bars import CostBars
from hybridgen.drawing.colours import DARK, LIGHT
from hybridgen.drawing.figure import Figure
from hybridgen.drawing.layer_marks import layer_words
from hybridgen.drawing.sheet import Stack
from hybridgen.drawing.svg import FONTS, Theme, style_sheet, svg_element
from hybridgen.drawing.words import KIND_NAMES
from hybridgen.spec.base import Spec

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_PAGE = """<!DOCTYPE html>
<html lang="en"{theme}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>{svg}</main>
<aside id="panel" aria-live="polite"><p>Point at a layer, or walk through them with the Tab key.</p></aside>
<button id="theme" type="button">Light / dark</button>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
_STYLE = """
body{{margin:0;display:flex;align-items:flex-start;background:var(--ground);color:var(--ink);font-family:{fonts}}}
main{{flex:1 1 auto;overflow-x:auto}}main svg{{display:block;max-width:none}}
aside{{flex:0 0 300px;position:sticky;top:0;max-height:100vh;overflow-y:auto;box-sizing:border-box;
padding:28px 24px 56px 0;font-size:12px;line-height:1.5}}
aside h1{{font-size:15px;margin:0 0 2px}}aside h2{{font-size:12px;margin:14px 0 2px;padding-bottom:2px;
border-bottom:1px solid var(--muted)}}aside p{{color:var(--muted);margin:0}}
dl{{display:grid;grid-template-columns:auto auto;gap:0 12px;margin:0}}dd{{margin:0;text-align:right;
overflow-wrap:anywhere;font-variant-numeric:tabular-nums}}dt{{color:var(--muted)}}
button{{position:fixed;right:16px;bottom:12px;font:11px {fonts};color:var(--ink);background:var(--panel);
border:1px solid var(--muted);border-radius:5px;padding:4px 10px;cursor:pointer}}
.part{{outline:none;cursor:default}}.part:hover .area,.part.shown .area,.part:focus .area
{{stroke:var(--path);stroke-width:1.5}}
@media (max-width:900px){{body{{display:block}}aside{{position:static;max-height:none;padding:0 28px 56px}}}}
"""
_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("panel");
const parts = [...document.querySelectorAll(".part")];
function make(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}
function show(index) {
  panel.replaceChildren();
  const part = data[index];
  make("h1", part.title, panel);
  make("p", part.note, panel);
  for (const [heading, rows] of part.sections) {
    make("h2", heading, panel);
    const list = make("dl", "", panel);
    for (const [name, value] of rows) { make("dt", name, list); make("dd", value, list); }
  }
  for (const one of parts) one.classList.toggle("shown", one.dataset.part === index);
}
for (const part of parts) {
  part.setAttribute("tabindex", "0");
  part.setAttribute("role", "img");
  part.addEventListener("mouseenter", () => show(part.dataset.part));
  part.addEventListener("focus", () => show(part.dataset.part));
}
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme:dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
"""


def html_text(figure: Figure, stack: Stack, cost: ModelCost, theme: Theme = "auto") -> str:
    """Writes a page that needs nothing besides itself.

    Args:
        figure: The picture.
        stack: What it shows.
        cost: What the model costs.
        theme: Its colours at first; `auto` is as the reader's surroundings are.
    """
    svg = svg_element(figure, "light")
    _without_title(svg)
    return _PAGE.format(
        theme="" if theme == "auto" else f' data-theme="{theme}"',
        policy=_POLICY,
        title=escape(figure.title),
        style=_style(),
        svg=tostring(svg, encoding="unicode"),
        data=_script_json(_parts(stack, cost)),
        script=_SCRIPT,
    )


def _without_title(svg: Element) -> None:
    """Turns the title into a label: browsers show titles wherever the mouse rests."""
    for tag in ("title", "desc"):
        found = svg.find(tag)
        assert found is not None, "every picture has a title and a description"
        svg.remove(found)
        svg.set("aria-label", found.text or "")


def _style() -> str:
    def page(colours: Mapping[str, str]) -> str:
        return "{" + "".join(f"--{name}:{colours[name]};" for name in ("ground", "ink", "muted", "panel", "path")) + "}"

    chosen, automatic = ":root[data-theme=dark]", ":root:not([data-theme=light])"
    rules = [
        f":root{{color-scheme:light dark}}:root{page(LIGHT)}",
        ":root[data-theme=light]{color-scheme:light}",
        _STYLE.format(fonts=FONTS),
        f"{chosen}{{color-scheme:dark}}{chosen}{page(DARK)}{style_sheet(DARK, f'{chosen} ')}",
        f"@media (prefers-color-scheme:dark){{{automatic}{page(DARK)}{style_sheet(DARK, f'{automatic} ')}}}",
    ]
    return "".join(rules)


def _script_json(value: object) -> str:
    """JSON that ends no script element and no line of JavaScript, whatever the texts are."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _parts(stack: Stack, cost: ModelCost) -> dict[str, Any]:
    """What the panel shows, for each part of the picture."""
    bars = CostBars(cost, stack.size)
    tokens = bars.tokens
    found = {
        "-1": _part("Input", stack.spec.input.type, [("input", _fields(stack.spec.input))], bars.ends[-1], tokens),
        "-2": _part("Head", stack.spec.head.type, [("head", _fields(stack.spec.head))], bars.ends[-2], tokens),
    }
    for index, leaf in enumerate(stack.rows):
        unit = stack.looks[leaf]
        sections = []
        for layer in unit.layers:
            for part, branch in (("mixer", layer.mixer), ("mlp", layer.mlp)):
                if branch is not None:
                    sections.append((part, _fields(branch)))
        title = layer_words(unit, leaf.places)
        names = ", ".join(KIND_NAMES[branch.kind] for one in unit.branches for branch in one)
        one = "layer" if stack.size == 1 else "pair of layers"
        note = f"{names}; costs of one {one} of {len(leaf.places)}" if len(leaf.places) > 1 else names
        found[str(index)] = _part(title[0].upper() + title[1:], note, sections, bars.unit(leaf.places), tokens)
    return found


def _part(title: str, note: str, sections: list[tuple[str, list[Any]]], cost: PartCost, tokens: int) -> dict[str, Any]:
    amounts = [
        ("parameters", _amounts(cost.parameters, 1)),
        (f"FLOPs per token, reading {tokens:,}", _amounts(cost.prefill, tokens)),
        (f"FLOPs of token {tokens:,}, decoding", _amounts(cost.decode, 1)),
        (f"bytes of state at {tokens:,} tokens", _amounts(cost.state, 1)),
    ]
    return {"title": title, "note": note, "sections": [one for one in amounts if one[1]] + sections}


def _fields(spec: Spec) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in spec.model_dump(mode="json").items()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _amounts(amounts: Amounts, divisor: int) -> list[tuple[str, str]]:
    """The amounts that are not zero, and their sum."""
    rows = [(name, f"{count / divisor:,.0f}") for name, count in asdict(amounts).items() if count]
    return [*rows, ("total", f"{amounts.total / divisor:,.0f}")] if len(rows) > 1 else rows
