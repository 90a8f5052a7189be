"""docs/objectives.md: its example runs, and its tables have every setting and every metric."""

import math
import re
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.objectives import KINDS, parse_objectives
from tests.cli.conftest import CONFIGS

PAGE = (Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")
TINY = hg.load_spec(CONFIGS / "tiny-hybrid.yaml")


def rows_of(kind, title):
    """The rows of a table in the section of an objective, cell by cell."""
    section = re.search(rf"^## {kind}\b.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[0]
    table = re.search(rf"^\| {title} .*\n\|[-|]+\|\n((?:\|.*\n)*)", section, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("kind", ["cost", "latency", "peak_memory"])
def test_every_setting_stands_in_its_table_with_its_default(kind):
    written = {row[0].strip("`"): row[1] for row in rows_of(kind, "setting")}
    fields = KINDS[kind].model_fields
    assert list(written) == list(fields)
    for name, field in fields.items():
        assert written[name] == ("" if field.default is None else str(field.default).replace("True", "true")), name


@pytest.mark.parametrize("kind", ["cost", "latency", "peak_memory"])
def test_every_metric_stands_in_its_table(kind):
    settings = "" if kind == "cost" else "(seq_len=4,decode_steps=1)"
    (one,) = parse_objectives([kind + settings])
    written = [name for row in rows_of(kind, "metric") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(written) == sorted(one.measure(TINY).metrics)


def test_the_example_of_a_function_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "norms.py").write_text(code)
    (one,) = parse_objectives([f"python:{tmp_path}/norms.py:gradient_norm"])
    one.check(TINY)
    found = one.measure(TINY).metrics
    said = re.findall(r"`(gradient_norm\.\w+)`", PAGE)
    assert list(found) == said
    # Near what a guess among all tokens costs; and the norm of all is at least that of any.
    assert found["gradient_norm.loss"] == pytest.approx(math.log(TINY.input.vocab_size), rel=0.2)
    assert found["gradient_norm.total"] >= found["gradient_norm.largest"] > 0


def test_command_lines_of_the_page_can_be_read():
    for written in re.findall(r"--objective '?([^ ']+)", PAGE):
        assert parse_objectives([written])
