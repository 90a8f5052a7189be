"""The HTML report in a real browser: quick, silent on the network, deaf to hostile names, fit for any screen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridgen.reports.data import report_data as stored_data
from hybridgen.reports.markdown import escaped, markdown
from hybridgen.reports.page import report_page
from tests.helpers.browser import Browser
from tests.helpers.report_data import HOSTILE, report_data
from tests.reports.page_tools import Open, all_ids, choose, frames, front, move_to, points, tip, type_filter
from tests.reports.stores import usual


@pytest.mark.parametrize("size", [10, 2000])
def test_it_loads_quickly_silently_and_alone(
    browser: Browser, opened: Open, size: int, record_property: Callable[[str, object], None]
) -> None:
    # Time of the processor that the page's own thread takes: other programs do not change it.
    browser.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    opened(size)
    measured = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    busy = next(1000 * one["value"] for one in measured if one["name"] == "TaskDuration")
    assert busy < 2000
    assert browser.problems() == []
    assert browser.requests() == []
    ready = browser.run("return performance.getEntriesByName('ready')[0].startTime")
    answers = browser.driver.execute_async_script("""
      const done = arguments[0], frame = () => new Promise(go => requestAnimationFrame(() => setTimeout(go)));
      (async () => {
        await frame();
        let start = performance.now();
        document.querySelector('[data-column="params"] button').click();
        await frame();
        const sorted = performance.now() - start;
        start = performance.now();
        const box = document.getElementById('filter'), count = document.getElementById('count');
        const before = count.textContent;
        box.value = 'd_state>=64';
        box.dispatchEvent(new Event('input'));
        while (count.textContent === before) await frame();
        await frame();
        done([sorted, performance.now() - start]);
      })();
    """)
    print(
        f"{size} points: ready after {ready:.0f} ms, {busy:.0f} of the processor,"
        f" sorted in {answers[0]:.0f} ms, filtered in {answers[1]:.0f} ms"
    )
    record_property("ready_ms", ready)
    # Two seconds are what it is made for; a busy machine may take longer.
    assert ready < 8000
    assert sum(answers) < 6000
    expected = {"table", "pareto", "parallel", "curves", "tasks", "effects", "failures"}
    assert expected == set(browser.run("return [...document.querySelectorAll('main section')].map(one => one.id)"))
    assert browser.run("return document.querySelectorAll('#pareto-chart circle').length") >= size * 0.8
    assert browser.run("return document.querySelectorAll('#rows tr').length") < 60
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_what_was_chosen_is_in_the_address(browser: Browser, opened: Open) -> None:
    data = opened(60)
    browser.run("document.querySelector('[data-column=\"params\"] button').click()")
    type_filter(browser, "d_state=64")
    choose(browser, 2, "perplexity")
    browser.driver.execute_async_script("setTimeout(arguments[0], 250)")
    address = browser.run("return location.hash.slice(1)")
    before, on_front = all_ids(browser), front(browser)
    assert before
    opened(data=data, address=address)
    assert all_ids(browser) == before
    assert front(browser) == on_front


def hostile_data() -> dict[str, Any]:
    """Data with a hostile text wherever there is text."""
    data = report_data(10)
    data["title"] = data["version"] = data["warnings"][0] = data["doubts"][0] = HOSTILE
    for sweep in data["sweeps"]:
        sweep["command"] = sweep["folder"] = sweep["notes"][0] = HOSTILE
        sweep["invalid"][0] |= {"faults": [HOSTILE, HOSTILE], "values": {HOSTILE: HOSTILE, "__proto__": "x"}}
    key = data["keys"][0]["key"]
    data["keys"][0]["label"] = HOSTILE
    data["metrics"][0]["label"] = HOSTILE
    for row in data["rows"]:
        row |= {"name": HOSTILE, "command": HOSTILE, "overrides": [HOSTILE]}
        if key in row["values"]:
            row["values"][key] = HOSTILE + row["values"][key]
        for one in row["failures"].values():
            one["message"] = HOSTILE
    for task in data["tasks"]:
        task["task"] += HOSTILE
    for curve in data["curves"]:
        curve["group"] += HOSTILE
    for effect in data["effects"]:
        for one in effect["values"]:
            one["label"] = HOSTILE + one["label"]
    data["pictures"] = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="parent.document.title=\'owned\'">'
        "<script>parent.document.title='owned'; document.title='owned'</script><image href='https://example.org/x.png'/></svg>"
    ] * 4
    return data


def test_hostile_texts_stay_texts(browser: Browser, opened: Open) -> None:
    data = opened(data=hostile_data())
    browser.run("document.querySelector('#rows tr td').click()")
    browser.run("for (const one of document.querySelectorAll('.sweeps, .reason')) one.open = true")
    for place in range(2):
        frames(browser)  # rows are made anew in the one after a click
        move_to(browser, browser.driver.find_element("css selector", f"#rows tr:nth-child({place + 1}) td"))
    assert tip(browser) is not None
    assert browser.run("return document.title") == HOSTILE
    assert browser.run("return document.querySelector('h1').textContent") == HOSTILE
    assert browser.run("return document.querySelector('#drawer pre').textContent") == data["rows"][0]["command"]
    assert browser.run("return document.querySelectorAll('script').length") == 2
    sources = browser.run("return [...document.querySelectorAll('img')].map(one => one.src.slice(0, 18))")
    assert set(sources) == {"data:image/svg+xml"}
    assert browser.requests() == []
    assert browser.problems() == []


def test_the_policy_lets_no_other_script_run(browser: Browser, opened: Open) -> None:
    opened(10)
    browser.run("""
      const one = document.createElement('div');
      one.innerHTML = '<img src="x" onerror="document.title=1">';
      document.body.append(one);
      const two = document.createElement('script');
      two.textContent = 'document.title = 2';
      document.body.append(two);
    """)
    assert browser.run("return document.title") == "Placement and state size of hybrids"
    refused = [one for one in browser.problems() if "Content Security Policy" in one]
    assert len(refused) >= 2


def _texts(browser: Browser, where: str) -> list[str]:
    return browser.run("return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)", where)


def test_doubts_and_notes_are_at_the_top(browser: Browser, opened: Open, tmp_path: Path) -> None:
    """The same sentences as in `report.md`."""
    data = stored_data(usual(tmp_path / "out"))
    data["notes"] = ["cost was asked with 2 different settings"]
    opened(data=data)
    found = _texts(browser, "#top #doubts li")
    assert "No model reached the threshold 0.9 in recall, parity." in found
    text = markdown(data)
    for sentence in found:
        assert f"- {escaped(sentence)}\n" in text
    assert len(found) == len(data["doubts"])
    assert _texts(browser, "#top > #notes li") == ["2 points were merged", "cost was asked with 2 different settings"]


def test_a_time_and_its_rate_have_one_card(browser: Browser, opened: Open) -> None:
    data = report_data(10)
    data["metrics"].append(
        {"name": "prefill_tokens_per_s", "label": "rate", "unit": "number", "goal": "max", "objective": "latency"}
    )
    data["metrics"].append({"name": "other", "label": "other", "unit": "number", "goal": "max", "objective": "latency"})
    for row in data["rows"]:
        time = row["metrics"]["prefill_ms"]
        row["metrics"]["prefill_tokens_per_s"] = None if time is None else 1e6 / time
        row["metrics"]["other"] = row["number"]
    opened(data=data)
    browser.run("document.querySelector('#best > .quiet').click()")
    cards = browser.run("return [...document.querySelectorAll('#best .card')].map(one => one.dataset.metric)")
    assert {"prefill_ms", "other", "decode_ms"} <= set(cards)
    assert "prefill_tokens_per_s" not in cards


def test_light_and_dark(browser: Browser, opened: Open) -> None:
    opened(10)
    ground = "return getComputedStyle(document.body).backgroundColor"
    grey = "return getComputedStyle(document.querySelector('svg text')).fill"
    assert browser.run(ground) == "rgb(255, 255, 255)"
    light = browser.run(grey)
    browser.prefer("dark")
    assert browser.run(ground) == "rgb(13, 17, 23)"
    assert browser.run(grey) != light
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == "rgb(255, 255, 255)"


def test_sections_without_data_are_left_out(browser: Browser, opened: Open) -> None:
    data = report_data(10)
    for name in ("tasks", "curves", "effects", "pictures", "sweeps"):
        data[name] = []
    data["metrics"] = [one for one in data["metrics"] if one["objective"] == "cost"]
    data["rows"] = [row | {"failures": {}, "missing": [], "picture": None} for row in points(data)]
    opened(data=data)
    assert browser.run("return [...document.querySelectorAll('main section')].map(one => one.id)") == [
        "pareto",
        "table",
        "parallel",
    ]
    assert browser.problems() == []


@pytest.mark.parametrize("kind", ["nothing", "one point", "no numbers"])
def test_little_data(browser: Browser, opened: Open, kind: str) -> None:
    data = report_data(1 if kind == "one point" else 10)
    if kind == "nothing":
        for name in ("rows", "tasks", "curves", "effects", "pictures", "keys", "metrics"):
            data[name] = []
    if kind == "no numbers":
        data |= {"metrics": [], "tasks": [], "curves": [], "effects": []}
        for row in data["rows"]:
            row["metrics"] = {}
    opened(data=data)
    assert browser.problems() == []
    assert browser.run("return document.querySelector('h1').textContent") == data["title"]


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_sticks_out_and_no_axis_text_covers_another(browser: Browser, opened: Open, width: int) -> None:
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800},
    )
    try:
        opened(60)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        covered = browser.run("""
          const bad = [];
          for (const svg of document.querySelectorAll('#pareto-chart svg, #curve-axes svg, #effect-panels svg')) {
            const texts = [...svg.querySelectorAll('.axes text, .axes + * text.value, svg > text, .effect text')];
            const page = svg.getBoundingClientRect(), boxes = texts.map(one => one.getBoundingClientRect());
            boxes.forEach((a, i) => {
              if (a.left < page.left - 1 || a.right > page.right + 1 || a.bottom > page.bottom + 1)
                bad.push('out: ' + texts[i].textContent);
              for (const b of boxes.slice(0, i))
                if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                  bad.push(texts[i].textContent + ' over ' + texts[boxes.indexOf(b)].textContent);
            });
          }
          return bad;
        """)
        assert covered == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_numbers_that_are_not_finite_are_refused() -> None:
    data = report_data(1)
    data["rows"][0]["metrics"]["params"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        report_page(data)
