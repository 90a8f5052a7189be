"""The browser for tests of pages, and a page of a report in it."""

from pathlib import Path
from typing import Any

import pytest

from hybridgen.reports.page import report_page
from tests.helpers.browser import Browser, browser, chromium  # noqa: F401
from tests.helpers.report_data import report_data
from tests.reports.page_tools import Open, wait


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Open:  # noqa: F811
    """Opens the report of so many points, and returns its data."""

    def open_report(points: int = 10, data: dict[str, Any] | None = None, address: str = "") -> dict[str, Any]:
        data = report_data(points) if data is None else data
        path = tmp_path / "report.html"
        path.write_text(report_page(data), encoding="utf-8")
        browser.open(path)
        if address:
            browser.driver.get("about:blank")
            browser.driver.get(f"{path.resolve().as_uri()}#{address}")
        wait(browser, "return performance.getEntriesByName('ready').length > 0")
        return data

    return open_report
