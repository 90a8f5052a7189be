"""The pictures in a real browser: texts stay in their blocks, colours switch, pages answer and ask for nothing."""

import json
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.spec import ModelSpec
from tests.drawing.conftest import irregular, shipped
from tests.helpers.browser import Browser

MODELS = [
    "zonos-v0.1-hybrid", "mamba2attn-2.7b", "hybrid-selective", "realformer-base", "vim-tiny", "tour", "tour-vision",
]  # fmt: skip
# Texts that stick out of their block, of the picture, or into another text; half a pixel is rounding.
_STICKING_OUT = """
  const bad = [], inside = (a, b) => a.left >= b.left - .5 && a.right <= b.right + .5 && a.top >= b.top - .5
    && a.bottom <= b.bottom + .5;
  const page = document.querySelector('svg').getBoundingClientRect();
  for (const box of document.querySelectorAll('g.box')) {
    const area = box.querySelector('rect').getBoundingClientRect();
    for (const text of box.querySelectorAll('text'))
      if (!inside(text.getBoundingClientRect(), area)) bad.push('box: ' + text.textContent);
  }
  const texts = [...document.querySelectorAll('text')];
  const places = texts.map(text => text.getBoundingClientRect());
  texts.forEach((text, i) => {
    if (!inside(places[i], page)) bad.push('page: ' + text.textContent);
    for (let j = 0; j < i; j++) {
      const a = places[i], b = places[j];
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        bad.push(text.textContent + ' over ' + texts[j].textContent);
    }
  });
  return [texts.length, bad];
"""


def check_texts(browser: Browser) -> None:
    count, bad = browser.run(_STICKING_OUT)
    assert count > 10
    assert bad == []


@pytest.mark.parametrize("font", ["Liberation Sans", "DejaVu Sans"])
@pytest.mark.parametrize("name", [*MODELS, "irregular"])
def test_texts_lie_inside_their_blocks(browser: Browser, tmp_path: Path, name: str, font: str) -> None:
    spec = irregular() if name == "irregular" else shipped(name)
    path = tmp_path / "stack.svg"
    text = hg.picture(spec, "svg", theme="light")
    changed = text.replace("Helvetica, Arial, ", f"'{font}', ")
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    browser.open(path)
    check_texts(browser)
    assert browser.problems() == []


def ground(browser: Browser) -> str:
    return browser.run("return getComputedStyle(document.querySelector('svg > rect')).fill")


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_colours_follow_the_surroundings(browser: Browser, tmp_path: Path, ending: str) -> None:
    browser.open(hg.draw(shipped("tour"), tmp_path / f"stack.{ending}"))
    assert ground(browser) == "rgb(255, 255, 255)"
    browser.prefer("dark")
    assert ground(browser) == "rgb(13, 17, 23)"
    text = "return getComputedStyle(document.querySelector('text')).fill"
    assert browser.run(text) == "rgb(230, 237, 243)"


@pytest.mark.parametrize(("theme", "colour"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")])
@pytest.mark.parametrize("ending", ["svg", "html"])
def test_a_fixed_theme_stays(browser: Browser, tmp_path: Path, ending: str, theme: str, colour: str) -> None:
    browser.open(hg.draw(shipped("tour"), tmp_path / f"stack.{ending}", theme=theme))
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        assert ground(browser) == colour


def test_the_button_switches_the_theme(browser: Browser, tmp_path: Path) -> None:
    browser.open(hg.draw(shipped("tour"), tmp_path / "stack.html"))
    for colour in ("rgb(13, 17, 23)", "rgb(255, 255, 255)"):
        browser.run("document.getElementById('theme').click()")
        assert ground(browser) == colour
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == colour


def hover(browser: Browser, part: int) -> dict[str, dict[str, str]]:
    """Moves the mouse onto a part, and reads the panel: sections of names and values."""
    from selenium.webdriver.common.action_chains import ActionChains

    target = browser.driver.find_element("css selector", f'.part[data-part="{part}"] .area')
    browser.run("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(browser.driver).move_to_element(target).perform()
    return panel(browser)


def panel(browser: Browser) -> dict[str, dict[str, str]]:
    return browser.run("""
      const found = {title: document.querySelector('#panel h1').textContent};
      for (const heading of document.querySelectorAll('#panel h2')) {
        const names = [...heading.nextElementSibling.querySelectorAll('dt')];
        found[heading.textContent] = Object.fromEntries(names.map(n => [n.textContent, n.nextSibling.textContent]));
      }
      return found;
    """)


def test_hovering_shows_the_fields_and_the_cost_of_that_layer(browser: Browser, tmp_path: Path) -> None:
    spec = shipped("zonos-v0.1-hybrid")
    cost = hg.cost(spec, 1024)
    browser.open(hg.draw(spec, tmp_path / "stack.html", seq_len=1024))
    for part, layer in ((0, 0), (1, 1), (2, 44), (3, 45)):
        shown = hover(browser, part)
        assert shown["title"] == ["Layers 0, 4, …, 40", "Layers 1–3, 5–7, …, 41–43", "Layer 44", "Layer 45"][part]
        mixer = spec.backbone.layers[layer].mixer
        expected = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in mixer.model_dump(mode="json").items()
        }
        assert shown["mixer"] == expected
        parameters, prefill = cost.layers[layer].parameters, cost.layers[layer].prefill
        assert shown["parameters"]["total"] == f"{parameters.total:,}"
        assert shown["parameters"]["mixer"] == f"{parameters.mixer:,}"
        assert shown["FLOPs per token, reading 1,024"]["total"] == f"{prefill.total / 1024:,.0f}"
    assert hover(browser, -1)["input"]["type"] == "hidden"
    assert browser.problems() == []
    assert browser.requests() == []
    check_texts(browser)


def test_the_tab_key_walks_through_the_layers(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(hg.draw(shipped("tour"), tmp_path / "stack.html"))
    titles = []
    for _ in range(3):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        titles.append(panel(browser)["title"])
    assert titles == ["Input", "Layers 0–1", "Layer 2"]


def test_no_text_of_a_spec_becomes_markup(browser: Browser, tmp_path: Path) -> None:
    """Names cannot hold such letters; a page made of them is harmless all the same."""
    hostile = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;"
    tour = shipped("tour")
    spec = ModelSpec.model_construct(**{**dict(tour), "name": hostile})
    browser.open(hg.draw(spec, tmp_path / "stack.html"))
    assert browser.run("return document.title") == hostile
    shown = browser.run("return document.querySelector('svg text').textContent")
    assert hostile.startswith(shown.removesuffix("…"))
    assert len(shown) > 40
    assert browser.requests() == []
