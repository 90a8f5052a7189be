"""The browser for tests of pages."""

from tests.helpers.browser import browser, chromium  # noqa: F401
