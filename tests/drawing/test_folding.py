"""Folding a stack: the description is short, and says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen.drawing import folding
from hybridgen.drawing.folding import Leaf, fold, leaves
from hybridgen.spec.pattern import expand_pattern


def written(items, names) -> str:
    """A folded sequence as a pattern."""
    parts = []
    for item in items:
        if isinstance(item, Leaf):
            parts.append(names[item.places[0]])
            continue
        inner = written(item.items, names)
        parts.append(f"{inner}*{item.count}" if " " not in inner and "*" not in inner else f"({inner})*{item.count}")
    return " ".join(parts)


@pytest.mark.parametrize(
    ("pattern", "shortest"),
    [
        ("m*16", "m*16"),
        ("(a m*3)*11 a m", "(a m*3)*11 a m"),  # zonos-v0.1-hybrid
        ("m*9 (a m*8)*4 a m*10 a m*7", "m*9 (a m*8)*4 a m*10 a m*7"),  # mamba2attn-2.7b: no run is cut
        ("m m m a m m m m m m m a m m m m", "(m*3 a m*4)*2"),  # Jamba's order: here cutting a run is worth it
        ("((a b)*2 c)*3 d", "((a b)*2 c)*3 d"),
        ("a b c", "a b c"),
    ],
)
def test_the_shortest_description_is_found(pattern: str, shortest: str) -> None:
    names = expand_pattern(pattern)
    assert written(fold(names), names) == shortest


@pytest.mark.parametrize("exact", [True, False])
@given(names=st.lists(st.sampled_from("ab"), min_size=1, max_size=24) | st.lists(st.sampled_from("abc"), min_size=1))
def test_every_place_stands_in_the_line_of_its_layer(names: list[str], exact: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "_EXACT", 128 if exact else 0)
        items = fold(names)
    assert list(expand_pattern(written(items, names))) == names
    places = sorted(place for leaf in leaves(items) for place in leaf.places)
    assert places == list(range(len(names)))
    for leaf in leaves(items):
        assert len({names[place] for place in leaf.places}) == 1
        assert list(leaf.places) == sorted(leaf.places)


def test_thousands_of_layers_fold_in_a_moment() -> None:
    names = expand_pattern("(m*7 a)*1250")
    assert written(fold(names), names) == "(m*7 a)*1250"
