"""The layout: everything inside the picture, texts inside boxes, rows and lanes apart; folded, wide and narrow."""

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hybridgen as hg
from hybridgen.drawing.draw import figure
from hybridgen.drawing.figure import Box, Figure, Line, Part, Plus, Rect, Text, text_width
from hybridgen.drawing.sheet import Stack
from hybridgen.drawing.svg import svg_text
from hybridgen.spec import ModelSpec
from tests.cli.conftest import CONFIGS
from tests.drawing.conftest import irregular, shipped, stack

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def drawn(spec: ModelSpec) -> Figure:
    return figure(Stack(spec), hg.cost(spec, None))


def boxes(one: Figure) -> list[Box]:
    return [mark for mark in one.all() if isinstance(mark, Box)]


def texts(one: Figure) -> list[str]:
    loose = [mark.text for mark in one.all() if isinstance(mark, Text)]
    return loose + [text.text for box in boxes(one) for text in box.texts]


def check(one: Figure) -> None:
    """Everything lies inside the picture, texts inside their boxes, and no two boxes overlap."""

    def inside(x: float, y: float) -> None:
        assert -0.5 <= x <= one.width + 0.5
        assert -0.5 <= y <= one.height + 0.5

    for mark in one.all():
        if isinstance(mark, Line):
            for point in mark.points:
                inside(*point)
        elif isinstance(mark, Rect):
            inside(mark.x, mark.y)
            inside(mark.x + mark.width, mark.y + mark.height)
        elif isinstance(mark, Plus):
            inside(mark.x, mark.y)
        elif isinstance(mark, Text):
            for end in mark.span():
                inside(end, mark.y)
        elif isinstance(mark, Box):
            rect = mark.rect
            for text in mark.texts:
                left, right = text.span()
                assert rect.x <= left, text.text
                assert right <= rect.x + rect.width, text.text
                assert rect.y < text.y < rect.y + rect.height, text.text
    places = [box.rect for box in boxes(one)]
    for index, a in enumerate(places):
        for b in places[:index]:
            apart = a.x >= b.x + b.width or b.x >= a.x + a.width or a.y >= b.y + b.height or b.y >= a.y + a.height
            assert apart, (a, b)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_have_their_place(name: str) -> None:
    check(drawn(shipped(name)))


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from("msaf"), min_size=1, max_size=60),
    placement=st.sampled_from(["pre", "post", "sandwich", "residual"]),
    scores=st.booleans(),
    values=st.sampled_from(["none", "half"]),
)
def test_any_stack_has_its_place(names: list[str], placement: str, scores: bool, values: str) -> None:
    values = values if "a" in names else "none"
    scores = scores and "a" in names
    check(drawn(stack(names, norm_placement=placement, residual_attn=scores, value_residual=values)))


@pytest.mark.parametrize("count", [1, 4, 46, 100, 300])
def test_irregular_stacks_show_every_layer(count: int) -> None:
    spec = irregular(count)
    one = drawn(spec)
    check(one)
    parts = {mark.index for mark in one.all() if isinstance(mark, Part)}
    assert parts == {-2, -1, *range(len(Stack(spec).rows))}
    assert one.width < 1000 + 12 * count
    assert one.height < 2200


def test_the_columns_of_a_long_stack_are_about_equally_long() -> None:
    one = drawn(irregular(100))
    streams = [mark for mark in one.marks if isinstance(mark, Line) and mark.width == 2.0 and len(mark.points) == 2]
    assert len({line.points[0][0] for line in streams}) >= 3


def test_equal_words_are_told_apart_by_the_field_that_differs() -> None:
    words = texts(drawn(shipped("tour")))
    assert sum("conv_bias false" in text for text in words) == 1
    assert sum("conv_bias true" in text for text in words) == 1


def test_dimensions_stand_in_the_blocks() -> None:
    words = texts(drawn(shipped("zonos-v0.1-hybrid")))
    assert "16 heads × 128 · 4 KV heads · rotary 128" in words
    assert "64 heads × 64 · d_state 128 · expand 2 · d_conv 4" in words
    assert "d_intermediate 8,192 · SwiGLU" in words
    assert {"×11", "×3", "layers 0, 4, …, 40", "layers 1–3, 5–7, …, 41–43"} <= set(words)


def test_bars_are_as_long_as_the_costs() -> None:
    spec = shipped("zonos-v0.1-hybrid")
    one, cost = drawn(spec), hg.cost(spec, None)
    bars = [mark for mark in one.marks if isinstance(mark, Rect) and mark.height == 12]
    x = min(bar.x for bar in bars)
    rows = sorted({bar.y for bar in bars})
    lengths = [sum(bar.width for bar in bars if bar.y == y and bar.x < x + 100) for y in rows]
    sizes = [cost.layers[index].parameters.total for index in (0, 1, 44, 45)]
    assert [length / lengths[0] for length in lengths] == pytest.approx([size / sizes[0] for size in sizes])


def blocks_and_norms(placement: str) -> tuple[float, float, list[tuple[float, float]]]:
    """Where the stream runs, where the block begins, and where the norms of a one-layer model stand."""
    one = drawn(stack("m", norm_placement=placement))
    stream = next(mark.x for mark in one.all() if isinstance(mark, Plus))
    block = next(box for box in boxes(one) if box.accent)
    chips = [box.rect for box in boxes(one) if any(text.text == "RMS" for text in box.texts)]
    places = [(chip.x + chip.width / 2 - stream, chip.y + chip.height / 2 - block.rect.y) for chip in chips]
    return stream, block.rect.height, places


@pytest.mark.parametrize(
    ("placement", "in_front", "behind", "on_stream"),
    [("pre", 1, 0, 1), ("post", 0, 1, 1), ("sandwich", 1, 1, 1), ("residual", 0, 0, 1)],
)
def test_norms_stand_where_they_are_computed(placement: str, in_front: int, behind: int, on_stream: int) -> None:
    _, height, places = blocks_and_norms(placement)
    assert sum(x > 1 and y < height / 2 for x, y in places) == in_front
    assert sum(x > 1 and height / 2 < y < height for x, y in places) == behind
    assert sum(abs(x) <= 1 and y > height for x, y in places) == on_stream


def dashes(spec: ModelSpec) -> set[str]:
    return {mark.dash for mark in drawn(spec).all() if isinstance(mark, Line) and mark.stroke == "path"}


def test_each_kind_of_path_has_a_line_of_its_own() -> None:
    assert dashes(stack("a*3")) == set()
    assert dashes(stack("a*3", residual_attn=True)) == {"solid"}
    assert dashes(stack("a*3", value_residual="half")) == {"dotted"}
    assert dashes(shipped("hybrid-selective")) == {"dashed"}


def test_pairs_show_both_directions_and_their_sum() -> None:
    backbone = {"d_model": 64, "n_layer": 8, "ssm": {"type": "mamba1"}, "bidirectional": "layers"}
    one = drawn(ModelSpec.model_validate({"backbone": backbone}))
    check(one)
    assert {"Mamba-1  →", "Mamba-1  ←", "sum", "×4", "layers 0–7", "per pair of layers"} <= set(texts(one))
    assert len({mark.x for mark in one.all() if isinstance(mark, Plus)}) == 2


def test_scans_show_their_directions() -> None:
    words = texts(drawn(shipped("tour-vision")))
    assert {"Mamba-1  → ←", "Mamba-2  → ↓ ← ↑", "Mamba-1  zigzag → ↓ ← ↑"} <= set(words)


def test_a_shared_weight_is_a_dashed_line() -> None:
    def tied(name: str) -> bool:
        return any(
            isinstance(mark, Line) and mark.dash == "dashed" and mark.stroke == "muted"
            for mark in drawn(shipped(name)).all()
        )

    assert tied("mamba-130m")
    assert not tied("llama-like-1b")


def test_no_letter_is_wider_than_in_dejavu_sans() -> None:
    fonts = pytest.importorskip("fontTools.ttLib")
    from importlib import resources

    for bold, name in ((False, "DejaVuSans.ttf"), (True, "DejaVuSans-Bold.ttf")):
        with resources.as_file(resources.files("hybridgen.drawing") / "fonts" / name) as path:
            font = fonts.TTFont(path)
        for code, glyph in font.getBestCmap().items():
            advance = font["hmtx"][glyph][0] / font["head"].unitsPerEm
            assert advance <= text_width(chr(code), 1.0, bold) < advance + 0.002


def test_every_letter_of_shipped_pictures_is_in_the_font_of_png() -> None:
    fonts = pytest.importorskip("fontTools.ttLib")
    from importlib import resources

    with resources.as_file(resources.files("hybridgen.drawing") / "fonts" / "DejaVuSans.ttf") as path:
        known = set(map(chr, fonts.TTFont(path).getBestCmap()))
    for name in SHIPPED:
        assert set("".join(texts(drawn(shipped(name))))) <= known


def test_svg_is_well_formed_and_its_text_is_text() -> None:
    root = ElementTree.fromstring(svg_text(drawn(shipped("tour"))))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "tour" in words
    assert "Mamba-2" in words
    assert not any("href" in name for element in root.iter() for name in element.attrib)


def test_grey_print_tells_the_bars_apart() -> None:
    from hybridgen.drawing.colours import DARK, LIGHT

    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    for colours in (LIGHT, DARK):
        for kind in ("mamba1", "mamba2", "attention"):
            assert abs(lightness(colours[kind]) - lightness(colours["rest"])) > 0.12
            # Contrast of the letters in a block (WCAG asks for 4.5).
            pair = sorted(lightness(colours[name]) + 0.05 for name in ("ink", f"{kind}-fill"))
            assert pair[1] / pair[0] > 4.5


def odd(blocks: dict, pattern: list[str], **document) -> ModelSpec:
    return ModelSpec.model_validate({"backbone": {"d_model": 64, "blocks": blocks, "pattern": pattern}, **document})


def test_long_names_and_many_kinds_have_their_place() -> None:
    names = [f"{'very_long_' * 8}{number}" for number in range(40)]
    blocks = {name: {"mixer": {"type": "mamba1", "d_state": index + 1}} for index, name in enumerate(names)}
    one = drawn(odd(blocks, names, name="n" * 200))
    check(one)
    assert one.width < 2500
    assert 0.3 < one.width / one.height < 3
    # A row is found again below by its tag, which no other has.
    tags = [text for text in texts(one) if text.startswith("#")]
    assert sorted(tags) == sorted(2 * [f"#{number}" for number in range(1, 41)])


def test_a_long_list_that_differs_does_not_widen_the_picture() -> None:
    slopes = [0.125 * number for number in range(1, 17)]
    attention = {"type": "attention", "num_heads": 16, "alibi": True}
    blocks = {
        "a": {"mixer": {**attention, "alibi_slopes": slopes}},
        "b": {"mixer": {**attention, "alibi_slopes": slopes[::-1]}},
    }
    one = drawn(odd(blocks, ["a", "b"]))
    check(one)
    assert one.width < 1000
