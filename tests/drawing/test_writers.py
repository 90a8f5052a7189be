"""What is written: PNG with letters, mermaid that follows its grammar, text that fits, pages that are whole."""

import builtins
import io
import json
import re
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from tests.cli.conftest import CONFIGS
from tests.drawing.conftest import irregular, shipped, stack

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
HOSTILE = "</script><b>\"&'#`]"


def renamed(spec: ModelSpec, name: str) -> ModelSpec:
    """The spec with a name that no document can have."""
    return ModelSpec.model_construct(**{**dict(spec), "name": name})


@pytest.fixture
def no_resvg(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "resvg_py":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def pixels(path: Path):
    from PIL import Image

    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def test_png_has_letters(tmp_path: Path) -> None:
    """Where no font is found, text is left out without a word: dark pixels where the title stands say that it is."""
    image = pixels(hg.draw(shipped("mamba-130m"), tmp_path / "stack.png"))
    title = image.crop((56, 40, 360, 90)).convert("L")
    dark = sum(title.histogram()[:100]) / (title.width * title.height)
    assert 0.05 < dark < 0.6


def test_png_is_as_wide_as_asked_and_dark_when_asked(tmp_path: Path) -> None:
    image = pixels(hg.draw(shipped("mamba-130m"), tmp_path / "stack.png", theme="dark", width=500))
    assert image.width == 500
    assert image.getpixel((2, 2)) == (13, 17, 23)


@pytest.mark.usefixtures("no_resvg")
def test_png_without_resvg_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(HybridgenError, match=re.escape("pip install 'hybridgen[draw]'")):
        hg.draw(shipped("mamba-130m"), tmp_path / "stack.png")
    assert not list(tmp_path.iterdir())


LABEL = r'"(?:[^"<>&`#]|<br/>|#\w+;)*"'
MERMAID = [re.compile(f"^ *{form}$") for form in (
    rf"(?P<node>\w+)\[{LABEL}\]", rf"subgraph (?P<frame>r\d+)\[{LABEL}\]", "end", r"\w+(?: ==> \w+)+",
    r"\w+ -\. [\w ]+ \.->? ?\w+", r"\w+ -\. [\w ]+ \.- \w+", r"style r\d+ fill:none,stroke:#\w{6}",
    r"classDef \w+ fill:#\w{6},stroke:#\w{6},color:#\w{6}", r"class \w+(?:,\w+)* \w+",
)]  # fmt: skip


def check_mermaid(text: str) -> None:
    """A strict part of mermaid's grammar: every line has one of the known forms, frames close, nodes are declared."""
    head, _, body = text.partition("---\nflowchart TB\n")
    assert re.fullmatch(r'---\ntitle: "(?:[^"\\]|\\.)*"\nconfig:\n  flowchart:\n    wrappingWidth: 420\n', head)
    nodes, depth = set(), 0
    for line in body.splitlines():
        assert any(form.match(line) for form in MERMAID), line
        words = line.split()
        depth += words[0] == "subgraph"
        depth -= words[0] == "end"
        assert depth >= 0
        if found := MERMAID[0].match(line):
            assert found["node"] not in nodes
            nodes.add(found["node"])
    assert depth == 0
    stream = next(line for line in body.splitlines() if "==>" in line)
    assert set(re.findall(r"\w+", stream)) == nodes
    for source, target in re.findall(r"^ *(\w+) -\. [\w ]+ \.->? ?(\w+)$", body, re.MULTILINE):
        assert {source, target} <= nodes


@pytest.mark.parametrize("name", SHIPPED)
def test_mermaid_follows_its_grammar(name: str) -> None:
    check_mermaid(hg.picture(shipped(name), "mermaid"))


def test_mermaid_of_paths_and_hostile_names() -> None:
    text = hg.picture(renamed(irregular(), HOSTILE), "mermaid", theme="dark")
    check_mermaid(text)
    assert re.search(r"l\d+ -\. scores \.-> l\d+", text)
    assert "fill:#10294a" in text


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", SHIPPED)
def test_text_fits_its_width(name: str, width: int) -> None:
    lines = hg.picture(shipped(name), "txt", width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == name


@pytest.mark.parametrize("count", [1, 4, 100])
def test_text_of_an_irregular_stack_fits_and_names_all_kinds(count: int) -> None:
    spec = irregular(count)
    text = hg.picture(spec, "txt")
    assert max(map(len, text.splitlines())) <= 80
    if count == 100:
        assert {f"[{name}]" for name in spec.backbone.blocks} == set(re.findall(r"\[\w\]", text))
        assert len(text.splitlines()) < 150
        assert text.count("Handed on: ") == 2


def test_text_draws_the_rows_with_norms_brackets_and_costs() -> None:
    text = hg.picture(stack("m*3 a", residual_attn=True), "txt")
    rows = text.splitlines()
    first = next(row for row in rows if "Mamba-2" in row)
    assert first.split()[:5] == ["┌", "├─RMS─→┃", "Mamba-2", "layers", "0–2"]
    parameters = hg.cost(stack("m*3 a"), None).layers[0].parameters.total
    assert f"{parameters / 1000:.1f} k" in first
    assert any(row.startswith(" ×3│") or row.startswith("×3│") for row in rows)
    assert sum("┃ MLP" in row for row in rows) == 1


def test_text_says_what_is_handed_on() -> None:
    text = hg.picture(stack("a m a m a", residual_attn=True), "txt")
    assert "takes and hands on scores" in text or ("takes scores" in text and "hands on scores" in text)


@pytest.mark.parametrize("name", ["zonos-v0.1-hybrid", "tour-vision"])
def test_a_page_asks_for_nothing_and_its_data_is_json(name: str) -> None:
    page = hg.picture(renamed(shipped(name), HOSTILE), "html")
    addresses = set(re.findall(r"""(?:https?:)?//[^\s"'<>]+""", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1)
    assert set(json.loads(data)) >= {"-1", "-2", "0"}
    assert page.count("<script") == page.count("</script>") == 2
    assert HOSTILE not in page


def test_svg_escapes_hostile_names() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(hg.picture(renamed(shipped("tour"), HOSTILE), "svg"))
    assert HOSTILE in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_can_ask_for_a_width() -> None:
    text = hg.picture(shipped("tour"), "svg", width=600)
    assert re.search(r'<svg [^>]*width="600"', text)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("stack.pdf", {}, "pictures end in one of .svg, .png, .html, .htm, .mmd, .mermaid, .txt; given .pdf"),
        ("stack", {}, "given no ending"),
        ("stack.txt", {"theme": "dark"}, "txt has no colours; given theme dark"),
        ("stack.svg", {"theme": "pink"}, "a theme is one of light, dark, auto; given 'pink'"),
        ("stack.mmd", {"width": 100}, "mermaid is as wide as its reader shows it; leave width out"),
        ("stack.html", {"width": 100}, "html is as wide as its reader shows it; leave width out"),
        ("stack.txt", {"width": 20}, "the width of txt must be a whole number from 60 to 200; given 20"),
        ("stack.png", {"width": 10**6}, "the width of png must be a whole number from 100 to 20000"),
        ("stack.svg", {"width": 10**5000}, "the width of svg must be a whole number from 100 to 20000; given one far"),
        ("stack.svg", {"seq_len": 0}, "seq_len"),
        ("stack.mmd", {"seq_len": 0}, "mermaid shows no costs; leave seq_len out"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, options: dict, words: str) -> None:
    with pytest.raises(HybridgenError, match=re.escape(words)):
        hg.draw(shipped("tour"), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["stack.svg", "stack.png", "stack.mmd", "stack.txt", "stack.html"])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HybridgenError, match=r"pictures are of a resolved spec, from hg\.load_spec .* given dict"):
        hg.draw({}, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(HybridgenError, match=r"a picture is one of svg, html, mermaid, txt; given 'png'"):
        hg.picture(shipped("tour"), "png")


def test_the_pictures_of_the_docs_are_up_to_date() -> None:
    from scripts.draw_pictures import PICTURES, drawn

    expected = drawn()
    assert {path: path.read_text(encoding="utf-8") for path in PICTURES.glob("*.svg")} == expected
    page = (PICTURES.parent / "drawing.md").read_text(encoding="utf-8")
    for path, text in expected.items():
        assert f"](pictures/{path.name})" in page
        assert len(text) < 60_000


def test_a_png_too_large_to_be_drawn_names_a_width_that_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hybridgen.drawing.png._MOST_PIXELS", 100_000)
    with pytest.raises(HybridgenError, match=r"is too large, 100,000 are the most; write \.svg, or give a") as refused:
        hg.draw(stack("m"), tmp_path / "stack.png")
    assert not list(tmp_path.iterdir())
    width = int(str(refused.value).rpartition(" ")[2])
    with pytest.raises(HybridgenError, match="is too large"):
        hg.draw(stack("m"), tmp_path / "stack.png", width=width + 2)
    assert hg.draw(stack("m"), tmp_path / "stack.png", width=width).is_file()
