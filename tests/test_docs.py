"""The pages of docs/ lead where they say, run, are up to date, and make a site."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hybridgen as hg
from hybridgen.cli.app import app
from hybridgen.curves import QUANTITIES
from tests.cli.conftest import CONFIGS, Program, hybridgen  # noqa: F401
from tests.helpers.browser import Browser, browser, chromium  # noqa: F401

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
PLOTTING = (DOCS / "plotting.md").read_text(encoding="utf-8")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_site = _script("make_site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    make_site.build(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert make_site.broken_links(page) == []


def test_links_are_found_and_broken_ones_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_site, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    (tmp_path / "b.md").write_text("# One two\n\n```sh\n# No heading\n```\n## `A_b`, (c)!\n## Twice\n## Twice\n")
    good = "[x](b.md) [x](b.md#one-two) [x](b.md#a_b-c) [x](b.md#twice-1) [x](https://a.b/c) `[x](no)` [x](#here)"
    page.write_text(f"# Here\n\n{good}\n\n```\n[x](no)\n```\n")
    assert make_site.broken_links(page) == []
    page.write_text(
        '![x](no.png)\n[x](b.md#three)\n[x](b.md#no-heading)\n<img alt="x" src="no.svg">\n[x](../..)\n[x](#no)'
    )
    assert [fault.split(": ")[:2] for fault in make_site.broken_links(page)] == [
        ["a.md:1", "no.png"],
        ["a.md:2", "b.md#three"],
        ["a.md:3", "b.md#no-heading"],
        ["a.md:4", "no.svg"],
        ["a.md:5", "../.."],
        ["a.md:6", "#no"],
    ]


def test_page_without_a_place_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n")
    (tmp_path / "mkdocs.yml").write_text("nav: [{Home: index.md}]\n")
    monkeypatch.setattr(make_site, "ROOT", tmp_path)
    monkeypatch.setattr(make_site, "DOCS", tmp_path / "docs")
    with pytest.raises(
        make_site.BrokenLinkError, match=r"index\.md: there is no such page\n.*give docs/lost\.md a place"
    ):
        make_site.stage(tmp_path / "out")


def test_site_has_every_page_and_files_from_outside(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    tour = (site / "files/configs/model/tour.yaml.html").read_text(encoding="utf-8")
    assert "residual_attn" in tour
    assert 'href="files/configs/model/tour.yaml.html"' in (site / "grammar.html").read_text(encoding="utf-8")


def test_site_asks_for_nothing_elsewhere(site: Path, browser: Browser) -> None:  # noqa: F811
    browser.open(site / "tutorial.html")
    assert browser.run("return document.querySelector('h1').innerText").startswith("Tutorial")
    asked = browser.requests()
    assert any(address.endswith(".css") for address in asked)
    assert [address for address in asked if not address.startswith("file:")] == []


def test_colours_follow_the_system(site: Path, browser: Browser) -> None:  # noqa: F811
    brightness = []
    for scheme in ("light", "dark", "light"):
        browser.prefer(scheme)
        browser.open(site / "index.html")
        color = browser.run("return getComputedStyle(document.body).backgroundColor")
        brightness.append(int(re.findall(r"[0-9]+", color)[0]))
    assert brightness[0] == brightness[2] > 200
    assert brightness[1] < 60


def test_pages_are_as_wide_as_a_phone(site: Path, browser: Browser) -> None:  # noqa: F811
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for name in ("index", "tutorial", "plotting", "cli", "api", "spec_reference", "benchmarks", "architecture"):
            browser.open(site / f"{name}.html")
            assert browser.run("return document.documentElement.scrollWidth") <= 390, name
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_commands_and_interface_are_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == _script("docs_cli").cli_text()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == _script("docs_api").api_text()


def test_pages_hold_every_command_and_name(hybridgen: Program) -> None:  # noqa: F811
    commands, interface = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("cli", "api"))
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        section = commands.split(f"\n## hybridgen {name}\n")[1].split("\n## ")[0]
        flags = set(re.findall(r"--[a-z][a-z-]+", re.sub(r"\s+", " ", hybridgen(name, "--help").out))) - {"--help"}
        assert flags, name
        assert {flag for flag in flags if f"`{flag}`" not in section} <= set(re.findall(r"--[a-z-]+", section)), name
    for name in set(hg.__all__) - {"__version__"}:
        assert f"\n### {name}\n" in interface


def test_plotting_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybridgen: Program) -> None:  # noqa: F811
    for name in ("llama-like-1b", "mamba2attn-2.7b", "zonos-v0.1-hybrid", "mamba2-1.3b"):
        shutil.copy(CONFIGS / f"{name}.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", PLOTTING, re.DOTALL | re.MULTILINE)
    for line in commands.splitlines():
        assert hybridgen(*shlex.split(line)[1:]).status == 0
    for name in ("decode.svg", "state.svg"):  # the pictures on the page are what its commands draw
        drawn = re.findall(r"<text[^>]*>(.*?)</text>", Path(name).read_text(encoding="utf-8"))
        assert drawn == re.findall(r"<text[^>]*>(.*?)</text>", (DOCS / "plots" / name).read_text(encoding="utf-8"))
    (code,) = re.findall(r"^```python\n(.*?)^```$", PLOTTING, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/plotting.md", "exec"), {})
    assert Path("caches.html").is_file()
    assert all(f"`{name}`" in PLOTTING for name in QUANTITIES)


def test_zensical_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test of links does not know, such as a heading that the site names otherwise, ends the build."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[x](#b---c)\n\n## B - C\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: a\nnav: [{Home: index.md}]\n")
    monkeypatch.setattr(make_site, "ROOT", tmp_path)
    monkeypatch.setattr(make_site, "DOCS", tmp_path / "docs")
    assert make_site.broken_links(tmp_path / "docs" / "index.md") == []
    monkeypatch.setattr(sys, "argv", ["make_site.py", "--check"])
    assert make_site.main() == 1
