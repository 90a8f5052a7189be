"""The table of the HTML report: sorted, filtered, copied, saved."""

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.browser import Browser
from tests.helpers.report_data import report_data
from tests.reports.page_tools import Open, all_ids, count, points, type_filter, wait


def numeric_keys(data: dict[str, Any], metric: str) -> list[float]:
    return [row["metrics"][metric] for row in data["rows"] if row["metrics"][metric] is not None]


@pytest.mark.parametrize(("name", "sign"), [("accuracy.recall", -1), ("perplexity", 1), ("lm_seconds", None)])
def test_it_is_sorted_by_what_models_are_judged_by(browser: Browser, opened: Open, name: str, sign: int | None) -> None:
    data = report_data(60)
    data["headline"] = name
    opened(data=data)
    by_id = {row["id"]: row for row in data["rows"]}
    shown = [by_id[one]["metrics"][name] for one in all_ids(browser)]
    if sign is None:  # nobody knows which way it is better
        assert [by_id[one]["number"] for one in all_ids(browser)][:60] == list(range(1, 61))
        return
    known = sorted(numeric_keys(data, name), key=lambda number: sign * number)
    assert shown == known + [None] * (len(shown) - len(known))


def test_sorting_by_a_click_and_by_the_keyboard(browser: Browser, opened: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    data = opened(60)
    by_id = {row["id"]: row for row in data["rows"]}

    def shown(metric: str) -> list[float | None]:
        return [by_id[one]["metrics"][metric] for one in all_ids(browser)]

    browser.run("document.querySelector('[data-column=\"params\"] button').click()")
    assert shown("params") == sorted(numeric_keys(data, "params"))
    browser.driver.find_element("css selector", '[data-column="params"] button').send_keys(Keys.ENTER)
    assert shown("params") == sorted(numeric_keys(data, "params"), reverse=True)
    assert browser.run("return document.querySelector('[data-column=\"params\"]').ariaSort") == "descending"
    # What more is better of begins with the best, and what has no number comes last both ways.
    for reverse in (True, False):
        browser.run("document.querySelector('[data-column=\"accuracy.recall\"] button').click()")
        numbers = sorted(numeric_keys(data, "accuracy.recall"), reverse=reverse)
        assert len(numbers) < len(data["rows"])
        assert shown("accuracy.recall") == numbers + [None] * (len(data["rows"]) - len(numbers))
    browser.run("document.querySelector('[data-column=\"backbone.ssm.d_state\"] button').click()")
    states = [by_id[one]["values"].get("backbone.ssm.d_state") for one in all_ids(browser)]
    known = [int(one) for one in states if one]
    assert known == sorted(known)
    assert states[len(known) :] == [None, None]


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("params<50M", lambda row: row["metrics"]["params"] < 50e6),
        ("d_state >= 64 and accuracy.recall>40%", lambda row: int(row["values"]["backbone.ssm.d_state"]) >= 64
         and (row["metrics"]["accuracy.recall"] or 0) > 0.4),
        ("state_bytes<=20MiB", lambda row: row["metrics"]["state_bytes"] <= 20 * 2**20),
        ("attn_layer_idx=all", lambda row: row["values"]["backbone.attn_layer_idx"] == "all"),
        ('"attn_layer_idx"="[0, 4]"', lambda row: row["values"]["backbone.attn_layer_idx"] == "[0, 4]"),
        ("sigkill", lambda row: any("SIGKILL" in one["message"] for one in row["failures"].values())),
        ("perplexity=none", lambda row: row["metrics"]["perplexity"] is None),
        ("no-such-word-anywhere", lambda row: False),
    ],
)  # fmt: skip
def test_filters(browser: Browser, opened: Open, text: str, keep: Callable[[dict[str, Any]], bool]) -> None:
    data = opened(80)
    type_filter(browser, text)
    expected = {row["id"] for row in points(data) if keep(row)}
    references = {row["id"] for row in data["rows"] if row["role"] != "point"}
    assert set(all_ids(browser)) - references == expected
    assert count(browser) == len(expected)
    assert browser.run("return document.getElementById('filter-problem').textContent") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [("parms<3", "no column is called “parms”"), ("params<many", "is no number"), ("attn_layer_idx<3", "holds texts")],
)
def test_a_filter_that_means_nothing_says_so_and_changes_nothing(
    browser: Browser, opened: Open, text: str, words: str
) -> None:
    opened(10)
    type_filter(browser, text)
    assert words in browser.run("return document.getElementById('filter-problem').textContent")
    assert count(browser) == 10


def test_the_command_is_copied(browser: Browser, opened: Open) -> None:
    data = opened(10)
    # The clipboard of a headless browser may not be read; what is written is caught on its way.
    browser.run(
        "window.copied = []; const writeText = async (text) => { window.copied.push(text); };"
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText}})"
    )
    row = data["rows"][2]
    browser.run("document.querySelector(`#rows tr[data-id='${arguments[0]}'] button.copy`).click()", row["id"])
    browser.run("document.querySelector(`#rows tr[data-id='${arguments[0]}'] td`).click()", row["id"])
    assert browser.run("return document.querySelector('#drawer pre.command').textContent") == row["command"]
    browser.run("document.querySelector('#drawer .copy-command').click()")
    assert browser.run("return window.copied") == [row["command"]] * 2
    wait(browser, "return document.getElementById('said').textContent.startsWith('Copied')")


def test_the_command_is_copied_where_the_clipboard_is_refused(browser: Browser, opened: Open) -> None:
    data = opened(10)
    browser.run("""
      Object.defineProperty(navigator, 'clipboard', {value: {writeText: async () => { throw new Error('no'); }}});
      document.execCommand = () => { window.copied = document.activeElement.value; return true; };
    """)
    browser.run("document.querySelector('#rows button.copy').click()")
    first = next(row for row in data["rows"] if row["id"] == all_ids(browser)[0])
    wait(browser, "return window.copied === arguments[0]", first["command"])


def test_the_rows_that_are_shown_are_saved_as_csv(browser: Browser, opened: Open) -> None:
    data = report_data(60)
    data["rows"][0]["overrides"] = []
    data["rows"][0]["name"] = '=1+1,"x"'
    opened(data=data)
    browser.run("window.kept = null; URL.createObjectURL = (blob) => { window.kept = blob; return 'data:,'; }")
    type_filter(browser, "params<45M")
    browser.run("document.getElementById('csv').click()")
    text = browser.driver.execute_async_script("window.kept.text().then(arguments[0])")
    found = list(csv.DictReader(io.StringIO(text)))
    by_id = {row["id"]: row for row in data["rows"]}
    assert {one["id"] for one in found} == {one["id"] for one in data["rows"] if one["metrics"]["params"] < 45e6}
    for one in found:
        row = by_id[one["id"]]
        assert one["command"] == row["command"]
        assert one["backbone.ssm.d_state"] == row["values"].get("backbone.ssm.d_state", "")
        accuracy = row["metrics"]["accuracy.recall"]
        assert one["accuracy.recall"] == "" if accuracy is None else float(one["accuracy.recall"]) == accuracy
        # A spreadsheet would work a formula out.
        assert not any(re.match(r"[=+@]", cell) for cell in one.values())


def test_failures_are_shown_with_their_reasons(browser: Browser, opened: Open) -> None:
    data = opened(80)
    text = browser.run("return document.getElementById('failures').textContent")
    for row in points(data):
        for one in row["failures"].values():
            assert one["message"] in text
    assert data["sweeps"][0]["invalid"][0]["faults"][0] in text
    failed = next(row for row in points(data) if "lm" in row["failures"])
    type_filter(browser, f'id="{failed["id"]}"')
    cell = browser.run("""
      const place = [...document.querySelectorAll('#heads th')].findIndex(one => one.dataset.column === 'perplexity');
      const cell = document.querySelector('#rows tr').children[place];
      return [cell.textContent, cell.title];
    """)
    assert cell == ["timeout", f"lm: {failed['failures']['lm']['message']}"]
