"""A tool that is missing leaves tests out, and fails them where every tool must be there."""

import pytest

from tests.helpers import browser


def test_tests_without_their_tool_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(browser.REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        browser.missing("no browser")


def test_tests_without_their_tool_fail_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(browser.REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match=f"no browser, and {browser.REQUIRE}=1 asks for it"):
        browser.missing("no browser")
