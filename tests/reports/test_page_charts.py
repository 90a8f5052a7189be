"""The charts of the HTML report: right, and linked with the table."""

import re
from typing import Any

import pytest

from tests.helpers.browser import Browser
from tests.helpers.report_data import report_data
from tests.reports.page_tools import (
    Open,
    all_ids,
    choose,
    count,
    frames,
    front,
    move_to,
    points,
    press,
    tip,
    type_filter,
    wait,
)


def brute_force(rows: list[dict[str, Any]], x: str, y: str, goals: tuple[int, int]) -> set[str]:
    """The points that no other is as good as in both metrics and better in one; goals are 1 for less, -1 for more."""
    pairs = {
        row["id"]: (goals[0] * row["metrics"][x], goals[1] * row["metrics"][y])
        for row in rows
        if row["metrics"][x] is not None and row["metrics"][y] is not None
    }
    return {
        one
        for one, a in pairs.items()
        if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in pairs.values())
    }  # fmt: skip


def test_the_pareto_front_is_that_of_brute_force(browser: Browser, opened: Open) -> None:
    data = opened(300)
    # Equal points, and points equal in one metric, are where fronts go wrong.
    for row in points(data)[:100]:
        row["metrics"]["params"] = round(row["metrics"]["params"], -7)
        if row["metrics"]["accuracy.recall"] is not None:
            row["metrics"]["accuracy.recall"] = round(row["metrics"]["accuracy.recall"], 1)
    opened(data=data)
    assert front(browser) == brute_force(points(data), "params", "accuracy.recall", (1, -1))
    for x, y in (
        ("prefill_ms", "perplexity"),
        ("state_bytes", "accuracy.mqar"),
        ("accuracy.parity", "accuracy.recall"),
    ):
        choose(browser, 0, x)
        choose(browser, 2, y)
        goals = [-1 if name.startswith("accuracy") else 1 for name in (x, y)]
        assert front(browser) == brute_force(points(data), x, y, (goals[0], goals[1]))
    choose(browser, 1, "min")
    assert front(browser) == brute_force(points(data), "accuracy.parity", "accuracy.recall", (1, -1))
    type_filter(browser, "d_state=64")
    kept = [row for row in points(data) if row["values"]["backbone.ssm.d_state"] == "64"]
    assert front(browser) == brute_force(kept, "accuracy.parity", "accuracy.recall", (1, -1))
    marked = browser.run(
        "return [...document.querySelectorAll('#rows .on-front')].map(one => one.closest('tr').dataset.id)"
    )
    assert marked
    assert set(marked) <= front(browser)


def test_a_failed_point_is_hollow_and_no_winner(browser: Browser, opened: Open) -> None:
    """It is the cheapest of all in both numbers shown, but nobody knows what it is worth."""
    data = report_data(10)
    failed = points(data)[2]
    failed["failures"] = {"tasks": {"kind": "timeout", "message": "took longer than 60 s"}}
    failed["metrics"] |= {"accuracy.recall": None, "params": 1, "state_bytes": 1}
    opened(data=data)
    choose(browser, 2, "state_bytes")
    others = [row for row in points(data) if row is not failed]
    assert front(browser) == brute_force(others, "params", "state_bytes", (1, 1))
    x, y = browser.run("""
      const found = [...document.querySelectorAll('#pareto-chart circle.hollow')]
        .map(one => [+one.getAttribute('cx'), +one.getAttribute('cy')]);
      return found.sort((a, b) => a[0] - b[0])[0];
    """)
    move_to(browser, browser.driver.find_element("css selector", "#pareto-chart"), x, y)
    shown = tip(browser)
    assert shown is not None
    assert shown["id"] == failed["id"]
    assert "failed: tasks (timeout): took longer than 60 s" in shown["text"]
    assert "Not counted on the front: it has no recall accuracy." in shown["text"]
    assert "Hollow points failed in part" in browser.run("return document.getElementById('pareto-note').textContent")


def test_no_front_where_nobody_knows_what_is_better(browser: Browser, opened: Open) -> None:
    data = report_data(10)
    data["headline"] = "lm_seconds"
    opened(data=data)
    assert front(browser) == set()
    choose(browser, 3, "max")
    assert front(browser) == brute_force(points(data), "params", "lm_seconds", (1, -1))


@pytest.mark.parametrize("name", ["perplexity", "accuracy.recall"])
def test_effects_open_on_what_models_are_judged_by(browser: Browser, opened: Open, name: str) -> None:
    data = report_data(10)
    data["headline"] = name
    opened(data=data)
    options = browser.run("return [...document.querySelectorAll('#effects select option')].map(one => one.value)")
    costs = {one["name"] for one in data["metrics"] if one["objective"] == "cost"}
    assert browser.run("return document.querySelector('#effects select').value") == options[0] == name
    assert set(options[-len(costs) :]) == costs


def test_references_are_drawn_apart(browser: Browser, opened: Open) -> None:
    data = opened(10)
    names = browser.run("return [...document.querySelectorAll('.reference-mark text')].map(one => one.textContent)")
    assert names == ["attention baseline", "MLP control"]
    references = {row["id"] for row in data["rows"] if row["role"] != "point"}
    assert not references & front(browser)


def test_hovering_a_row_and_a_dot_shows_its_picture_and_values(browser: Browser, opened: Open) -> None:
    data = opened(10)
    by_id = {row["id"]: row for row in data["rows"]}
    second = browser.driver.find_elements("css selector", "#rows tr")[1]
    move_to(browser, second.find_elements("css selector", "td")[1])
    wait(
        browser,
        "const image = document.querySelector('#tip img'); return image && image.complete && image.naturalWidth > 0",
    )
    shown = tip(browser)
    assert shown is not None
    assert shown["id"] == second.get_attribute("data-id")
    assert shown["source"].startswith("data:image/svg+xml")
    for value in by_id[shown["id"]]["values"].values():
        assert value in shown["text"]
    box = browser.driver.find_element("css selector", "#pareto-chart")
    x, y = browser.run("""
      const one = document.querySelector('#pareto-chart circle.front');
      return [+one.getAttribute('cx'), +one.getAttribute('cy')];
    """)
    move_to(browser, box, x, y)
    shown = tip(browser)
    assert shown is not None
    assert shown["id"] in front(browser)
    # The recall of the dot is among the words of the card.
    assert f"{100 * by_id[shown['id']]['metrics']['accuracy.recall']:.1f}%" in shown["text"]
    assert browser.problems() == []


def test_a_click_on_a_dot_selects_its_row(browser: Browser, opened: Open) -> None:
    opened(300)
    place = browser.run("""
      const one = document.querySelector('#pareto-chart circle.front');
      return [+one.getAttribute('cx'), +one.getAttribute('cy')];
    """)
    move_to(browser, browser.driver.find_element("css selector", "#pareto-chart"), *place)
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser.driver).click().perform()
    row = browser.driver.find_element("css selector", "#rows tr[aria-selected=true]")
    assert row.get_attribute("data-id") in front(browser)
    scroll, box = browser.driver.find_element("id", "scroll").rect, row.rect
    assert scroll["y"] <= box["y"]
    assert box["y"] + box["height"] <= scroll["y"] + scroll["height"]


def test_brushing_an_axis_filters_the_table(browser: Browser, opened: Open) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    data = opened(200)
    axis = browser.driver.find_element("css selector", '.parallel-axis[data-column="backbone.n_layer"] .catch')
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", axis)
    # From the middle of the axis to its top: 16 and 24 of 8, 12, 16, 24.
    ActionChains(browser.driver, duration=50).move_to_element(axis).click_and_hold().move_by_offset(
        0, -170
    ).release().perform()
    browser.driver.execute_async_script("setTimeout(arguments[0], 100)")
    expected = {row["id"] for row in points(data) if row["values"]["backbone.n_layer"] in ("16", "24")}
    assert 0 < len(expected) < 200
    assert set(all_ids(browser)) == expected
    assert browser.run("return document.getElementById('chips').textContent") == "n_layer: 16 to 24 ✕"
    browser.run("document.querySelector('#chips button').click()")
    assert count(browser) == 200


def test_dragging_over_the_front_keeps_what_is_inside(browser: Browser, opened: Open) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    data = opened(200)
    chart = browser.driver.find_element("css selector", "#pareto-chart")
    size = chart.rect
    # The left half, from top to bottom.
    move_to(browser, chart, 20, 20)
    ActionChains(browser.driver, duration=50).click_and_hold().move_by_offset(
        round(size["width"] / 2), round(size["height"]) - 40
    ).release().perform()
    browser.driver.execute_async_script("setTimeout(arguments[0], 100)")
    kept = set(all_ids(browser))
    by_id = {row["id"]: row for row in data["rows"]}
    highest = max(by_id[one]["metrics"]["params"] for one in kept)
    with_both = [row for row in data["rows"] if row["metrics"]["accuracy.recall"] is not None]
    assert kept == {row["id"] for row in with_both if row["metrics"]["params"] <= highest}
    assert 10 < len(kept) < len(with_both)
    assert browser.run("return document.getElementById('drawer').hidden")


def test_the_keyboard_reaches_rows_and_charts(browser: Browser, opened: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    data = opened(300)
    second = next(row for row in data["rows"] if row["id"] == all_ids(browser)[1])
    browser.run("document.querySelector('#rows tr').click()")
    browser.run("document.querySelector('#drawer .close').click()")
    # Scrolling to what has the focus takes a while (it is smooth), and all the while it hides the card.
    browser.run("document.getElementById('scroll').scrollIntoView({block: 'center', behavior: 'instant'})")
    browser.run("document.querySelector('#rows tr[tabindex=\"0\"]').focus({preventScroll: true})")
    press(browser, Keys.END)
    frames(browser)
    assert browser.driver.switch_to.active_element.get_attribute("data-place") == str(len(data["rows"]) - 1)
    press(browser, Keys.HOME)
    press(browser, Keys.ARROW_DOWN)
    press(browser, Keys.ENTER)
    assert browser.run("return document.querySelector('#drawer h2').textContent") == f"Point {second['number']}"
    shown = tip(browser)
    assert shown is not None
    assert shown["id"] == second["id"]
    press(browser, Keys.ESCAPE)
    assert browser.run("return document.getElementById('drawer').hidden")
    for chart in ("pareto-chart", "curve-chart"):
        browser.run("document.getElementById(arguments[0]).focus({preventScroll: true})", chart)
        press(browser, Keys.ARROW_RIGHT)
        assert tip(browser) is not None, chart
        press(browser, Keys.ESCAPE)
        assert tip(browser) is None, chart


def test_a_mean_curve_keeps_the_seed_that_ended_first(browser: Browser, opened: Open) -> None:
    """One seed solved the task at step 100 and ended; the other stays at 0.5 up to step 200: the mean is 0.75."""
    from selenium.webdriver.common.keys import Keys

    data = report_data(10)
    both = [[[50, 0.5], [100, 1.0]], [[50, 0.5], [100, 0.5], [150, 0.5], [200, 0.5]]]
    fields = {"id": data["rows"][0]["id"], "group": "recall", "x": "step", "y": "accuracy"}
    data["curves"] = [{**fields, "label": f"seed {i}", "points": points} for i, points in enumerate(both)]
    opened(data=data)
    browser.run("document.getElementById('curve-chart').focus({preventScroll: true})")
    press(browser, Keys.ARROW_DOWN)
    shown = tip(browser)
    assert shown is not None
    assert re.search(r"accuracy at step 200\s+75%", shown["text"])


def test_ticks_of_nearly_equal_sizes_differ(browser: Browser, opened: Open) -> None:
    """As `--match params` makes them: 186,100 to 186,140 parameters."""
    data = report_data(10)
    for row in data["rows"]:
        row["metrics"]["params"] = 186_100 + 4 * row["number"]
    opened(data=data)
    texts = browser.run("""
      return [...document.querySelectorAll('#pareto-chart .axes text[text-anchor=middle]:not(.title)')]
        .map(one => one.textContent)
    """)
    assert len(texts) > 3
    assert len(set(texts)) == len(texts)
