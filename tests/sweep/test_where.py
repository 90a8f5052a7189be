"""Conditions: what they mean, and that a wrong one is answered with a caret and the nearest name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen import cost, load_spec
from hybridgen.errors import HybridgenError
from hybridgen.sweep.where import METRICS, OF_LENGTH, parse_amount, parse_condition
from tests.cli.conftest import TINY

COSTS = {"params": 150_000_000, "state_bytes": 64 * 2**20, "kv_bytes": 10, "ssm_bytes": 0, "decode_flops": 7}


def holds(text):
    def metric(name, length):
        return COSTS[name] * (1 if length is None else length)

    return parse_condition(text).holds(metric)


def error_of(text):
    with pytest.raises(HybridgenError) as error:
        parse_condition(text).holds(lambda *_: 0)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("params < 150M", False),
        ("params <= 150M", True),
        ("params == 0.15G", True),
        ("params != 150_000k", False),
        ("params > 1.5e8 - 1", True),
        ("state_bytes <= 64MiB and params < 151M", True),
        ("state_bytes(2) == 128MiB", True),
        ("decode_flops(8k) == 7 * 8192", True),
        ("100M < params < 200M", True),
        ("100M < params < 120M", False),
        ("params < 1 or kv_bytes == 10 and ssm_bytes == 0", True),
        ("(params < 1 or kv_bytes == 10) and ssm_bytes == 1", False),
        ("not params < 1", True),
        ("not not (params < 1)", False),
        ("kv_bytes + 2 * 3 == 16", True),
        ("(kv_bytes + 2) * 3 == 36", True),
        ("kv_bytes - 2 - 3 == 5", True),
        ("kv_bytes / 2 / 5 == 1", True),
        ("-kv_bytes < -9.5", True),
        ("ssm_bytes > 0 and kv_bytes / ssm_bytes > 2", False),
        ("state_bytes / params < 1", True),
        ("1KiB == 1024 and 1MiB == 1024KiB and 1GiB == 1024MiB and 1T == 1000G", True),
        ("  params\n<\t200M ", True),
    ],
)
def test_meaning(text, expected):
    assert holds(text) is expected


def test_names_are_those_of_the_costs():
    spec = load_spec(TINY)
    assert set(METRICS) == set(cost(spec).metrics())
    short, long = cost(spec, 512).metrics(), cost(spec, 2048).metrics()
    assert {name for name in METRICS if short[name] != long[name]} <= set(OF_LENGTH)


@pytest.mark.parametrize(
    ("text", "words", "caret"),
    [
        ("parms < 1", "there is no cost `parms`; did you mean params?", 0),
        ("params < 1 and stat_bytes(1) < 2", "did you mean state_bytes?", 15),
        ("params < 150Mi", "there is no unit `Mi`", 12),
        ("state_bytes < 64mib", "did you mean MiB?", 16),
        ("params < 7B", "write G for billions", 10),
        ("params", "a comparison belongs here", 0),
        ("params < 1 and kv_bytes", "a comparison belongs here", 15),
        ("not params", "a comparison belongs here", 4),
        ("(params < 1) + 2 < 3", "a number belongs here", 1),
        ("params(3) < 1", "does not depend on a length", 6),
        ("state_bytes(0) < 1", "a length is a whole number", 12),
        ("state_bytes(1.5) < 1", "a length is a whole number", 12),
        ("state_bytes(1KiB) < 1", "a length is a whole number", 12),
        ("state_bytes(params) < 1", "a length is a whole number", 12),
        ("state_bytes() < 1", "a length is a whole number", 12),
        ("state_bytes(1, 2) < 1", "has no meaning here", 13),
        ("params < 3MiB", "this is bytes, and what stands before it is a count", 9),
        ("params + kv_bytes < 3", "this is bytes", 9),
        ("params < 2 params", "here the condition should end", 11),
        ("params < 2)", "here the condition should end", 10),
        ("(params < 2", "this bracket is not closed", 0),
        ("params = 3", "write ==", 7),
        ("params < 1 & params < 2", "write and", 11),
        ("params < .5", "with a digit first", 9),
        ("params <", "not the end", 8),
        ("", "not the end", 0),
        ("1 / kv_bytes < 2", "nothing can be divided", 4),
        ("params < 'a'", "has no meaning here", 9),
        ("__import__('os')", "has no meaning here", 11),
        ("params < \x1b", "`\\x1b` has no meaning here", 9),
    ],
)
def test_faults(text, words, caret):
    message, shown, pointer = error_of(text).split("\n")
    assert words in message
    assert pointer == " " * (caret + 2) + "^"
    assert shown == "  " + text.replace("\x1b", "\\x1b")


def test_deep_and_long_ones_are_refused():
    assert "nest deeper" in error_of("(" * 150 + "params < 1" + ")" * 150)
    assert "nest deeper" in error_of("not " * 150 + "params < 1")
    assert "nest deeper" in error_of("-" * 150 + "params < 1")
    assert "at most 2,000 characters" in error_of("params < 1 and " * 500)
    assert "at most 400 names" in error_of("params < 1" + "+1" * 900)
    assert error_of("params < " + "1 + " * 100 + "x").count("\n") == 2
    assert holds("params < 1" + "+1M" * 198)


def test_numbers_beyond_bounds_are_worded():
    assert "too large" in error_of("params < " + "9" * 400 + " * 1.5")
    with pytest.raises(HybridgenError, match="too large"):
        parse_amount("9" * 400, "--match")


@given(st.text(alphabet="params(<)and or not12MiB*/+-.=state_bytes ", max_size=40))
def test_no_text_is_anything_but_a_condition_or_a_worded_fault(text):
    fault = "^"
    try:
        parse_condition(text).holds(lambda *_: 3)
    except HybridgenError as error:
        fault = str(error)
    assert fault.endswith("^")


def test_amounts():
    assert parse_amount("130M", "--match") == 130_000_000
    assert parse_amount("2 * 64MiB + 1", "--match") == 2**27 + 1
    for text in ("params", "130Q", "", "1 2", "1 < 2"):
        with pytest.raises(HybridgenError, match=r"^--match: "):
            parse_amount(text, "--match")
