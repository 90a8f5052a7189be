"""The report as one HTML file that needs no network: data, style and scripts are in it."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_ASSETS = files("hybridgen.reports") / "assets"
# In this order: each file uses names of those before it as it is read.
_SCRIPTS = (
    "base", "formats", "rows", "filter", "card", "table", "chart", "pareto", "front", "parallel", "curves", "tasks",
    "effects", "failures", "headline", "main",
)  # fmt: skip


def report_page(data: Mapping[str, Any]) -> str:
    """Writes a page with tables and charts that answer to each other.

    No text of the data becomes markup: it is in a script element of JSON without a `<`, and the scripts make text nodes
    of it. Pictures are images, in which nothing runs. The policy of the page lets through nothing but its own script
    and style, known by their hashes, and images inside it.

    Args:
        data: What `report_data` returns.

    Raises:
        ValueError: If a number is not finite; those are None in the data of reports.
    """
    style = _asset("report.css")
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    script = f"(() => {{\n'use strict';\n{parts}\n}})();"
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:"
    values = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(str(data["title"]).encode("utf-8", "replace").decode()),
        "STYLE": style,
        "DATA": _script_json(data),
        "SCRIPT": script,
    }
    page = _asset("report.html")
    for name in values:
        assert page.count(f"@{name}@") == 1, f"report.html has one place for {name}"
    # In one pass from left to right: what is put in is not searched for names.
    found = []
    for part in page.split("@"):
        found.append(values.get(part, part))
    return "".join(found)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: object) -> str:
    """JSON that ends no script element, whatever the texts are."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
