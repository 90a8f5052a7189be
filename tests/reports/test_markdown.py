"""report.md: what it says of stores whose results are known, and that nothing in them becomes Markdown."""

import re

import pytest

from hybridgen.reports.data import report_data
from hybridgen.reports.markdown import escaped, markdown
from hybridgen.runs import Failure
from tests.reports.stores import (
    TASKS,
    WARNING,
    an_id,
    cost_outcome,
    outcome,
    record,
    store_of,
    sweep,
    tasks_outcome,
    usual,
)  # fmt: skip

FRONT = ((16, 3), (32, 4), (64, 4))
HOSTILE = "a|b\n# <script>alert(1)</script> [x](http://y) `c` *d* \x1b[31m _e_ &amp; \\"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return markdown(report_data(usual(tmp_path_factory.mktemp("store") / "out"), folder="out"), ["tasks.png"])


def _cells(text, first):
    """The cells of the rows that begin with a text."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_what_was_run(text):
    asked = _section(text, "What was run")
    assert "```sh\nhybridgen sweep 'state size.yaml' -o out\n```" in asked
    assert "9 combinations, 9 models, references among them, 2 at fault, 1 not run yet." in asked
    assert "- 2 points were merged" in asked


def test_the_summary_counts(text):
    summary = _section(text, "In short")
    assert "6 points and 2 references have a record; 1 with a failure; 1 more are not begun." in summary
    assert f"> **Read this first.** {WARNING}." in summary
    assert _cells(summary, "accuracy, recall") == [
        ["accuracy, recall", "more", "0.850", "d_state=64, d_conv=4", "0.840"]
    ]
    assert _cells(summary, "parameters") == [["parameters", "less", "16k", "d_state=16, d_conv=3 and 1 more", "32k"]]


def test_differences_inside_the_intervals_are_told(text):
    summary = _section(text, "In short")
    words = "the intervals of 2 of the 4 other points meet that of the best (d_state=64, d_conv=4)"
    assert f"- recall: {words}; these seeds do not clearly tell them apart." in summary
    assert "- recall: the interval of the attention baseline (0.610) meets that of the best point." in summary
    assert "MLP control (0.140)" not in summary  # far below
    assert "The best of many points is also the luckiest" in summary


def _one_task(tmp_path, **points):
    """A report on one task, with these accuracies by seed."""
    records = []
    for number, (name, seeds) in enumerate(points.items(), start=1):
        role = name if name in ("attention", "mlp") else "point"
        tasks = tasks_outcome({"recall": seeds}, chance=0.5)
        records.append(record(number, {"tasks": tasks}, {"a": name} if role == "point" else {}, role=role))
    return markdown(report_data(store_of(tmp_path / "out", records)))


def test_what_is_beyond_the_intervals_is_told(tmp_path):
    text = _one_task(tmp_path, x=(0.9, 0.901), y=(0.6, 0.601), attention=(0.98, 0.981))
    assert "- recall: the interval of the best (a=x) lies above that of every other point." in text
    assert "- recall: the attention baseline (0.980) is better than every point, beyond the intervals." in text


def test_what_is_no_better_than_chance_is_told(tmp_path):
    text = _one_task(tmp_path, x=(0.4, 0.61), y=(0.4, 0.6))
    assert "- recall: no interval lies above chance (0.500)." in text


def test_a_best_that_may_be_chance_is_told_where_another_is_above_it(tmp_path):
    text = _one_task(tmp_path, x=(0.5, 0.99), y=(0.7, 0.701))
    assert "- recall: the interval of the best (a=x) reaches down to chance (0.500)." in text
    assert "no interval lies above chance" not in text


def test_a_reference_is_better_than_every_point_only_beyond_all_intervals(tmp_path):
    """The best point is far below it, but another point's interval reaches up to it."""
    text = _one_task(tmp_path, x=(0.9, 0.901), y=(0.7, 0.9), attention=(0.98, 0.981))
    assert "better than every point" not in text


def test_a_single_seed_is_told(tmp_path):
    text = _one_task(tmp_path, x=(0.9,), y=(0.6,))
    assert "- recall: one seed each, so there is no interval, and any difference may be chance." in text
    assert _cells(text, "a=x | 0.900")[0][:4] == ["a=x", "0.900", "none", "1"]


def test_single_seeds_of_many_tasks_are_told_once(tmp_path):
    tasks = tasks_outcome({"recall": (0.5,), "parity": (0.6,), "mqar": (0.5, 0.6)})
    text = markdown(report_data(store_of(tmp_path / "out", [record(1, {"tasks": tasks})])))
    assert "- recall, parity: one seed each, so there is no interval" in text
    assert text.count("one seed each") == 1


def test_thresholds_that_nothing_reached_are_told(tmp_path):
    assert "No model reached the threshold 0.9 in recall." in _one_task(tmp_path / "a", x=(0.8,), attention=(0.7,))
    text = _one_task(tmp_path / "b", x=(0.8,), attention=(0.95,), mlp=(0.95,))
    assert "No point reached the threshold 0.9 in recall; the attention baseline and the MLP control did." in text
    assert "reached the threshold 0.9 in" not in _one_task(tmp_path / "c", x=(0.95,), attention=(0.7,))


@pytest.mark.parametrize("option", [("--sampler", "tpe"), ("--sampler=tpe",)])
def test_a_search_counts_trials(tmp_path, option):
    found = store_of(tmp_path / "out", [], [sweep([an_id(1)], command=("hybridgen", "sweep", "a.yaml", *option))])
    assert "1 trials, 1 models" in markdown(report_data(found))


def test_numbers_without_an_interval_are_told(text, tmp_path):
    words = "have no interval here: a small lead may be chance."
    lm = outcome({"kind": "lm"}, {"lm.loss": 2.0})
    assert words in markdown(report_data(store_of(tmp_path / "out", [record(1, {"lm": lm})])))
    assert words not in text  # of costs, which are exact, and tasks, which have them


def test_the_front(text):
    front = _section(text, "Parameters and accuracy, recall")
    assert [cells[0] for cells in _cells(front, "d_state")] == [f"d_state={s}, d_conv={c}" for s, c in FRONT]


def test_points_are_in_order_with_the_references_behind(text):
    rows = _cells(_section(text, "Points"), "`")
    assert [cells[0] for cells in rows[:2]] == [f"`{an_id(6)}`", f"`{an_id(5)}`"]
    assert rows[0][1:6] == ["point", "64", "4", "64k", "0.850"]
    assert [cells[1] for cells in rows[-2:]] == ["attention baseline", "MLP control"]
    assert f"`{an_id(2)}`" == rows[5][0]  # failed, so without accuracy: the last of the points
    assert f"hybridgen build out/{an_id(6)}/spec.yaml -o model-{an_id(6)}" in text


def test_tasks_have_chance_intervals_and_references(text):
    recall = text.split("### recall")[1].split("###")[0]
    assert "Chance is 0.125." in recall
    assert _cells(recall, "d_state=64, d_conv=4") == [["d_state=64, d_conv=4", "0.850", "0.723 … 0.977", "2", "0", ""]]
    assert _cells(recall, "attention baseline")[0][1] == "0.610"
    assert _cells(recall, "MLP control")[0][1] == "0.140"


def test_effects_are_sorted_by_share(text):
    rows = [line for line in _section(text, "Effects of the fields").splitlines() if line.startswith("| d_")]
    shares = [float(re.findall(r"([0-9.]+)%", line)[0]) for line in rows]
    measured = [share for line, share in zip(rows, shares, strict=True) if "accuracy" in line]
    assert measured == sorted(measured, reverse=True) == shares[: len(measured)]
    assert rows[0].startswith("| d_state | accuracy, recall | ")


def test_failures_and_invalid_points(text):
    assert _cells(_section(text, "Failures"), "`")[0] == [
        f"`{an_id(2)}`", "d_state=16, d_conv=4", "tasks", "timeout", "took longer than 60 s",
    ]  # fmt: skip
    assert "| 2 | backbone.ssm.d_state=7 | must be a multiple of 8 |" in text


def test_pictures_that_are_there_and_those_that_are_missing(text, tmp_path):
    assert "![Accuracy by task](pictures/tasks.png)" in text
    assert "pareto.png" not in text
    other = markdown(report_data(usual(tmp_path / "out")), (), "The pictures are missing: install `x`.")
    assert "The pictures are missing: install `x`." in other
    assert "![" not in other


def test_an_empty_store(tmp_path):
    text = markdown(report_data(store_of(tmp_path / "out", [], [sweep([an_id(1)])])))
    assert "0 points have a record; 0 with a failure; 1 more are not begun." in text


def test_hostile_words_stay_words(tmp_path):
    failure = Failure(kind="raised", message=HOSTILE, traceback=HOSTILE)
    tasks = tasks_outcome({"recall": (0.5, 0.6), HOSTILE: (0.5, 0.6)})
    one = record(1, {"cost": cost_outcome(5), "tasks": tasks}, {HOSTILE: HOSTILE, "plain": "2"}, name=HOSTILE)
    two = record(2, {"cost": cost_outcome(6), HOSTILE: outcome(TASKS, failure=failure)}, {HOSTILE: "3", "plain": "2"})
    asked = sweep([an_id(1)], name=HOSTILE, command=("hybridgen", "```\n<b>", HOSTILE), notes=(HOSTILE,))
    text = markdown(report_data(store_of(tmp_path / "out", [one, two], [asked])))
    outside = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "````sh" in text  # longer than the fence in the command
    assert "<script" not in outside
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)\[x\]", outside)
    titles = [line for line in outside.splitlines() if line.startswith("#")]
    assert titles[1:3] == ["## What was run", "## In short"]
    for table in re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("text", "safe"),
    [("d_state", "d_state"), ("_a_", "\\_a\\_"), ("a|b", "a\\|b"), ("<b>&", "&lt;b&gt;&amp;"), ("a\nb", "a\\\\nb")],
)
def test_escapes(text, safe):
    assert escaped(text) == safe
