"""Text that was written to do harm, and random text: it loads or it is a SpecError, and soon."""

import contextlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridgen.errors import SpecError
from hybridgen.spec.load import load_document, load_spec, load_text

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
DEEP = 10_000


def load(text, overrides=()):
    """The text of the error, or None; fails where anything but a SpecError comes up."""
    try:
        load_text(text, "c.yaml", overrides)
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "with its aliases expanded the document has more than 20,000 values"),
        ("a: " + "[" * DEEP + "]" * DEEP, "nest deeper than 64 levels"),
        ("a: " + "[" * DEEP, "nest deeper than 64 levels"),
        ("a: " + "{a: " * DEEP, "nest deeper than 64 levels"),
        ("- " * DEEP, "nest deeper than 64 levels"),
        ("? " * DEEP, "nest deeper than 64 levels"),
        ("\n".join(" " * i + "k:" for i in range(1000)), "nest deeper than 64 levels"),
        (
            "a: &a [0]\n" + "".join(f"b{i}: &b{i} [*b{i - 1}]\n" for i in range(1, 100)).replace("*b0", "*a"),
            "nest deeper",
        ),
        ("a: [" + "1," * 400_000 + "]", "more than 20,000 values"),
        ("\n".join(f"k{i}: {i}.5" for i in range(60_000)), "more than 20,000 values"),
        ("a: [" + "&x 1, *x, " * 15_000 + "]", "more than 20,000 values"),
        ("a: &a\n  <<: *a\n", "stands inside the value that it names"),
        ("a: '" + "${" * DEEP + "'", "references nest deeper"),
        ("a: '" + "${a" * DEEP + "}" * DEEP + "'", "references nest deeper"),
        ("a: ${" + "." * DEEP + "a}", "is no reference"),
        ("a: ${a" + "[0]" * DEEP + "}", "references run in a circle"),
        ("a: 1\n" * 15_000, "… and 14,899 more faults"),
        ("a: [" + "!x 1, " * 15_000 + "]", "… and 14,900 more faults"),
        ('"' + "\\" * 100_000, "is never closed"),
        ("? " + "a" * 900_000 + "\n: 1", "a key has at most 256 characters, given 900,000"),
        ("a: !!python/object/apply:os.system ['echo no']", "tags are refused"),
        ("!!python/object/new:os.system\nargs: [echo no]", "tags are refused"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\na: !object:os.system x", "tags are refused"),
        ("a: !!binary aGVsbG8=\nb: !!set {x}\nc: !!timestamp 2020-01-01\nd: !!omap [a: 1]", "tags are refused"),
    ],
    ids=lambda value: value[:12].replace("\n", " "),
)
def test_hostile_text_is_a_short_error_soon(text, words):
    began = time.perf_counter()
    error = load(text)
    assert words in error
    assert len(error) < 60_000
    assert time.perf_counter() - began < 10  # all take well below a second; the bound is for a busy machine


@pytest.mark.parametrize(
    "text",
    ["a: '" + "x" * 1_000_000 + "'", "a: " + "9" * 1_000_000, "a" * 256 + ": 1", "# " + "x" * 900_000 + "\na: 1"],
)
def test_large_but_simple_texts_load(text):
    assert load(text) is None


@pytest.mark.parametrize("text", ["a: " + "9" * 5000, "a: 1e999", "a: 0x" + "f" * 60, "a: " + ":".join(["1"] * 30)])
def test_extreme_numbers_load_and_are_left_to_the_rules(text):
    assert load(text) is None


YAMLISH = st.text(st.sampled_from(list("ab1.-:,[]{}#&*!|>'\"%@`?~$<\n\n  \t\\/é\x85\u2028\ufeff\0=+e_")), max_size=60)
LINES = st.lists(
    st.sampled_from(
        ["a: 1", "b:", "  c: ${a}", "  - x", "d: &x {e: 1}", "f: *x", "<<: *x", "g: [1, '${b.c}']", "a: ${g[1]}", "? k"]
    ),
    max_size=8,
).map("\n".join)
OVERRIDES = st.lists(
    st.one_of(st.text(max_size=20), st.text(st.sampled_from(list("ab.01=+~[]{},:'\"$() -\\@/")), max_size=24)),
    max_size=3,
)
SLOW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(st.one_of(st.text(max_size=80), YAMLISH, LINES))
def test_any_text_loads_or_is_a_spec_error(text):
    load(text)


@SLOW
@given(LINES, OVERRIDES)
def test_any_override_applies_or_is_a_spec_error(text, overrides):
    load(text, overrides)


@SLOW
@given(st.one_of(st.binary(max_size=80), YAMLISH.map(str.encode), LINES.map(str.encode)))
def test_any_bytes_load_or_are_a_spec_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    for loader in (load_document, load_spec):
        with contextlib.suppress(SpecError):
            loader(path)
