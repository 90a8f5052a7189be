import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.spec.pattern import MAX_LAYERS, PatternError, compress_pattern, expand_pattern, expand_with_offsets

NAMES = st.sampled_from(["m", "a", "w", "ssm", "attn_2", "_x"])


@st.composite
def repeating(draw):
    """Lists made as a person would make a stack: pieces, repeated, side by side."""
    pieces = draw(
        st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=6), st.integers(1, 8)), min_size=1, max_size=5)
    )
    return [name for piece, times in pieces for name in piece * times]


@given(st.one_of(st.lists(NAMES, min_size=1, max_size=80), repeating()))
@settings(max_examples=300, deadline=None)
def test_expanding_inverts_compressing(names):
    text = compress_pattern(names)
    assert expand_pattern(text) == tuple(names)
    assert compress_pattern(expand_pattern(text)) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["m"], "m"),
        (["m"] * 3, "m*3"),
        (["m", "a"] * 3, "(m a)*3"),
        ((["m"] * 3 + ["a"]) * 5 + ["m"] * 3 + ["w"], "(m*3 a)*5 m*3 w"),
        (["attn" if i % 4 == 0 else "ssm" for i in range(46)], "(attn ssm*3)*11 attn ssm"),
        ((["m", "m", "a"] * 2 + ["w"]) * 4, "((m*2 a)*2 w)*4"),
        (["a", "b", "c"], "a b c"),
    ],
)
def test_compressed_patterns_read_as_a_person_would_write_them(names, text):
    assert compress_pattern(names) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(m*3 a)*2 w", "m m m a m m m a w"),
        ("  m\n a\t*  2 ", "m a a"),
        ("((a)*2)*3", "a a a a a a"),
        ("(a b)c*2", "a b c c"),
        ("a_1*2", "a_1 a_1"),
    ],
)
def test_grammar(text, names):
    assert expand_pattern(text) == tuple(names.split())


def test_every_layer_knows_the_place_of_its_name():
    assert expand_with_offsets("(m*2 a)*2") == (("m", 1), ("m", 1), ("a", 5), ("m", 1), ("m", 1), ("a", 5))


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "the pattern is empty"),
        ("   ", 0, "the pattern is empty"),
        ("(a", 0, "this '(' is never closed"),
        ("a b)", 3, "this ')' closes no '('"),
        ("a ()", 2, "empty brackets"),
        ("a, b", 1, "commas are not part of a pattern"),
        ("a*", 2, "'*' must be followed by a number"),
        ("a*b", 2, "'*' must be followed by a number"),
        ("a*0", 2, "a repeat must be at least 1; given 0"),
        ("a*-1", 2, "unexpected character '-'"),
        ("*3", 0, "'*' must follow a block name or a ')'"),
        ("a 3", 2, "'3' must follow a block name or a ')'"),
        ("3a", 0, "a name or a repeat cannot begin like this"),
        ("a-b", 1, "unexpected character '-'"),
        ("a*10001", 0, "a stack has at most 10000 layers; this makes more"),
        ("b ((a*100)*100)*2", 14, "a stack has at most 10000 layers; this makes more"),
        ("a*99999999999999999999", 0, "a stack has at most 10000 layers; this makes more"),
        ("(" * 40 + "a" + ")" * 40, 32, "brackets are nested deeper than 32"),
        ("é", 0, "unexpected character 'é'"),
    ],
)
def test_faults_say_what_and_where(text, offset, message):
    with pytest.raises(PatternError) as caught:
        expand_pattern(text)
    assert (str(caught.value), caught.value.offset) == (message, offset)


@pytest.mark.parametrize("text", ["(" * 100_000, "a*9999 " * 1000, "((((a*10)*10)*10)*10)*10", "a " * 100_000])
def test_hostile_patterns_fail_fast(text):
    start = time.process_time()
    with pytest.raises(PatternError):
        expand_pattern(text)
    assert time.process_time() - start < 2


def test_the_longest_stacks_are_compressed_in_time():
    start = time.process_time()
    names = [f"b{i % 7}" if i % 11 else "w" for i in range(MAX_LAYERS)]
    assert expand_pattern(compress_pattern(names)) == tuple(names)
    assert time.process_time() - start < 5
