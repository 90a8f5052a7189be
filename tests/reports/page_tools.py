"""What tests do with a report page in the browser."""

from collections.abc import Callable
from typing import Any

from tests.helpers.browser import Browser

Open = Callable[..., dict[str, Any]]
"""Opens the report of so many points, or of data, and returns its data."""


def wait(browser: Browser, script: str, *arguments: object) -> None:
    """Waits until a script returns true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser.driver, 20, poll_frequency=0.05).until(lambda _: browser.run(script, *arguments))


def type_filter(browser: Browser, text: str) -> None:
    browser.run(
        "const box = document.getElementById('filter'); box.value = arguments[0];box.dispatchEvent(new Event('input'))",
        text,
    )
    browser.driver.execute_async_script("setTimeout(arguments[0], 150)")


def frames(browser: Browser) -> None:
    """Waits until what was asked for has been drawn."""
    browser.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def count(browser: Browser) -> int:
    return int(browser.run("return document.getElementById('count').textContent").split()[0].replace(",", ""))


def all_ids(browser: Browser) -> list[str]:
    """The ids of the rows of the table in their order, by scrolling through it."""
    return browser.driver.execute_async_script("""
      const done = arguments[0], scroll = document.getElementById('scroll'), found = new Map();
      (async () => {
        for (let top = 0; ; top += 480) {
          scroll.scrollTop = top;
          await new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)));
          for (const row of document.querySelectorAll('#rows tr')) found.set(+row.dataset.place, row.dataset.id);
          if (top > scroll.scrollHeight) break;
        }
        done([...found].sort((a, b) => a[0] - b[0]).map(one => one[1]));
      })();
    """)


def points(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in data["rows"] if row["role"] == "point"]


def move_to(browser: Browser, element: Any, x: float | None = None, y: float | None = None) -> None:
    """Moves the mouse onto an element, to a place counted from its left upper corner if one is given."""
    from selenium.webdriver.common.action_chains import ActionChains

    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    # Scrolling hides the card, and the event that says so comes with the next frame.
    frames(browser)
    chain = ActionChains(browser.driver, duration=0)
    if x is None or y is None:
        chain.move_to_element(element).perform()
    else:
        size = element.rect
        chain.move_to_element_with_offset(
            element, round(x - size["width"] / 2), round(y - size["height"] / 2)
        ).perform()


def press(browser: Browser, key: str) -> None:
    """Presses a key where the focus is, when all that came before has been drawn: scrolling makes rows anew."""
    from selenium.webdriver.common.action_chains import ActionChains

    frames(browser)
    ActionChains(browser.driver, duration=0).send_keys(key).perform()


def tip(browser: Browser) -> dict[str, Any] | None:
    return browser.run("""
      const tip = document.getElementById('tip'), image = tip.querySelector('img');
      return tip.hidden ? null : {id: tip.dataset.row, text: tip.innerText, source: image && image.src,
        drawn: image && image.complete && image.naturalWidth > 0};
    """)


def front(browser: Browser) -> set[str]:
    return set(browser.run("return [...document.querySelectorAll('#front-list tbody tr')].map(row => row.dataset.id)"))


def choose(browser: Browser, index: int, value: str) -> None:
    """Changes one of the choices over the Pareto front."""
    browser.run(
        "const one = document.querySelectorAll('#pareto-controls select')[arguments[0]]; one.value = arguments[1];"
        "one.dispatchEvent(new Event('change'))",
        index, value,
    )  # fmt: skip
