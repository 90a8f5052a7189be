"""Headless Chromium for tests of pages: one browser for a module, a fresh profile, and what a page asked for.

Tests of a directory get it by `from tests.helpers.browser import browser, chromium  # noqa: F401` in their conftest.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("HYBRIDGEN_CHROMIUM", "/usr/bin/chromium"))
DRIVER = Path(os.environ.get("HYBRIDGEN_CHROMEDRIVER", "/usr/bin/chromedriver"))
REQUIRE = "HYBRIDGEN_REQUIRE_TOOLS"
"""With this variable at 1, a test whose tool is missing fails instead of being left out."""
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
    "--force-device-scale-factor=1",
)  # fmt: skip


def missing(reason: str) -> None:
    """Leaves a test out for want of a tool, or fails it where every tool must be there."""
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{reason}, and {REQUIRE}=1 asks for it")
    pytest.skip(reason)


class Browser:
    """A page in Chromium.

    Attributes:
        driver: Selenium's driver.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Loads a file; what was logged before is forgotten."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.resolve().as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        """Runs a script as the body of a function, and returns its result."""
        return self.driver.execute_script(script, *arguments)

    def problems(self) -> list[str]:
        """What the page wrote to the console."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that the page asked for, its own file and data inside it left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        own = self.driver.current_url.partition("#")[0]
        addresses = [one["request"]["url"] for one in sent]
        return [address for address in addresses if address != own and not address.startswith("data:")]

    def prefer(self, scheme: str) -> None:
        """Sets what `prefers-color-scheme` says: `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Selenium's driver of a running Chromium."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        missing("selenium is not installed")
    for program in (CHROMIUM, DRIVER):
        if not program.is_file():
            missing(f"{program} is not there")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any) -> Browser:
    """The browser, as light as most are."""
    found = Browser(chromium)
    found.prefer("light")
    return found
