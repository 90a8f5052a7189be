"""Pictures and pages of curves."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import hybridgen as hg
from hybridgen.curves import CurveSet, Range, cost_curves, save_curves
from hybridgen.curves.figure import COLORS, draw, spread, style
from hybridgen.curves.ticks import linear_ticks, log_ticks, power_ticks
from hybridgen.errors import HybridgenError
from tests.helpers.browser import Browser

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "model"
SPECS = {name: hg.load_spec(CONFIGS / f"{name}.yaml") for name in ("mamba2attn-2.7b", "llama-like-1b", "mamba-2.8b")}


@pytest.fixture(scope="module")
def curves() -> CurveSet:
    return cost_curves({**SPECS, "<b>$a$ & b": SPECS["llama-like-1b"]}, "seq_len", "decode_flops")


def _texts(svg: Path) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_svg_holds_its_text(curves: CurveSet, tmp_path: Path) -> None:
    texts = _texts(save_curves(curves, tmp_path / "a.svg"))
    for text in (*SPECS, "<b>$a$ & b", "1k", "4k", "1M", "100 G", "Tokens in the sequence"):
        assert text in texts
    assert "FLOPs of decoding one more token" in texts


def test_same_curves_give_the_same_file(curves: CurveSet, tmp_path: Path) -> None:
    for ending in ("svg", "html", "png"):
        one, other = (save_curves(curves, tmp_path / f"{name}.{ending}") for name in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_png_is_a_picture(curves: CurveSet, tmp_path: Path) -> None:
    with Image.open(save_curves(curves, tmp_path / "a.PNG")) as picture:
        assert picture.size == (1600, 960)
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    for color in COLORS[:4]:
        assert tuple(bytes.fromhex(color[1:])) in colors


def test_labels_lie_inside_and_apart(curves: CurveSet) -> None:
    with style():
        drawing = draw(curves)
        names = {curve.label for curve in curves.curves}
        boxes = [text.get_window_extent() for text in drawing.axes.texts if text.get_text() in names]
    assert len(boxes) == 4
    assert all(box.x1 <= drawing.figure.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


def test_users_settings_do_not_count(curves: CurveSet, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = save_curves(curves, tmp_path / "a.svg").read_bytes()
    with mpl.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 30, "axes.facecolor": "black"}):
        assert save_curves(curves, tmp_path / "b.svg").read_bytes() == before
        assert mpl.rcParams["lines.linewidth"] == 9


def test_zero_on_a_logarithmic_axis_is_said(tmp_path: Path) -> None:
    none = cost_curves({name: SPECS[name] for name in ("mamba-2.8b", "llama-like-1b")}, "seq_len", "kv_bytes")
    texts = _texts(save_curves(none, tmp_path / "a.svg"))
    assert any(text.endswith("mamba-2.8b: 0") for text in texts)
    assert "mamba-2.8b" not in texts
    assert "mamba-2.8b" in _texts(save_curves(none, tmp_path / "b.svg", "x"))
    alone = cost_curves({"m": SPECS["mamba-2.8b"]}, "seq_len", "kv_bytes")
    assert any(text.endswith("m: 0") for text in _texts(save_curves(alone, tmp_path / "c.svg")))


@pytest.mark.parametrize("log", ["x", "y", "xy", "none"])
@pytest.mark.parametrize(("x", "values"), [("seq_len", (7,)), ("n_layer", (22, 44)), ("d_model", (512, 2048))])
def test_every_axis_can_be_logarithmic(log: str, x: str, values: tuple[int, ...], tmp_path: Path) -> None:
    few = cost_curves({"l": SPECS["llama-like-1b"]}, x, "train_flops", Range(values))
    texts = _texts(save_curves(few, tmp_path / "a.svg", log))
    assert f"{values[0]:,}" in texts


def test_marks_are_drawn(tmp_path: Path) -> None:
    one = cost_curves({"h": SPECS["mamba2attn-2.7b"]}, "seq_len", "state_bytes")
    texts = _texts(save_curves(one, tmp_path / "a.svg"))
    assert one.marks[0].text in texts
    assert "Keys and values" in texts


def test_page_works_without_network(curves: CurveSet, tmp_path: Path, browser: Browser) -> None:
    browser.open(save_curves(curves, tmp_path / "a.html"))
    assert browser.run("return getComputedStyle(document.getElementById('tip')).display") == "none"
    script = """const box = document.querySelector('#picture svg').getBoundingClientRect();
    const event = new PointerEvent('pointermove', {clientX: box.left + box.width * arguments[0], bubbles: true});
    document.getElementById('picture').dispatchEvent(event);
    const tip = document.getElementById('tip');
    return [tip.innerText, tip.getBoundingClientRect().right <= window.innerWidth];"""
    for share, x, length in ((0.0, "1k", 1024), (0.99, "1M", 2**20)):
        text, inside = browser.run(script, share)
        assert text.startswith(f"{x} tokens")
        assert inside
        number = hg.cost(SPECS["llama-like-1b"], length).metrics()["decode_flops"]
        assert f"<b>$a$ & b\t{number / 1e9:.3g} G" in text
        assert f"{number:,}" in browser.run("return document.querySelector('details').textContent")
    browser.run("document.getElementById('picture').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    assert browser.run("return document.getElementById('tip').innerText").startswith("512k tokens")
    assert browser.run("return document.querySelectorAll('b').length") == 0
    assert browser.problems() == []
    assert browser.requests() == []


def test_refusals(curves: CurveSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HybridgenError, match=r"a\.pdf: ends in \.pdf; name a file that ends in \.png, \.svg, \.html"):
        save_curves(curves, tmp_path / "a.pdf")
    with pytest.raises(HybridgenError, match="is a directory"):
        save_curves(curves, tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(HybridgenError, match=r"needs matplotlib; install it with `pip install 'hybridgen\[plot\]'`"):
        save_curves(curves, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_loaded(tmp_path: Path) -> None:
    code = f"""import sys, hybridgen as hg
from hybridgen.curves import cost_curves, save_curves
spec = hg.load_spec({str(CONFIGS / "tiny-hybrid.yaml")!r})
save_curves(cost_curves({{"a": spec}}, "n_layer", "params"), {str(tmp_path / "a.html")!r})
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ticks() -> None:
    assert power_ticks(1000, 2**20) == [2.0**exponent for exponent in (10, 12, 14, 16, 18, 20)]
    assert power_ticks(5, 7) == []
    assert log_ticks(2e9, 3e11, "flops") == [3e9, 1e10, 3e10, 1e11, 3e11]
    assert log_ticks(1.1e9, 1.3e9, "flops") == linear_ticks(1.1e9, 1.3e9, "flops")
    assert linear_ticks(0, 3 * 2**30, "bytes") == [index * 2**29 for index in range(7)]
    assert linear_ticks(0, 0, "count") == [0]
    for low, high in ((1, 2), (1, 1e3), (5, 1e12), (1e9, 1e10), (3e7, 2**50)):
        for scale in ("bytes", "flops", "count"):
            ticks = log_ticks(low, high, scale)
            assert 2 <= len(ticks) <= 10
            assert all(low <= tick <= high for tick in ticks)


def test_spread() -> None:
    assert spread([10, 50], 15, 0, 100) == [10, 50]
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([0, 1, 30], 10, 0, 100) == [0, 10, 30]
    assert spread([99, 98, 97], 10, 0, 100) == [100, 90, 80]
    assert spread([12, 5, 19], 10, 0, 100) == [12, 2, 22]
    assert spread([1, 2, 3], 10, 0, 10) == [-5, 5, 15]  # there is no room
