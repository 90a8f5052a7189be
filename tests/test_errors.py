"""What an error prints: the place, the line with a caret, and never more than a person can read."""

from hybridgen.errors import Fault, SpecError


def fault(column, source, **more):
    return Fault("c.yaml", 3, column, "a.b", "is wrong", source=source, **more)


def test_a_fault_shows_its_line_with_a_caret():
    text = str(fault(5, "  b: 1", suggestion="write 2"))
    assert text == "c.yaml:3:5: a.b: is wrong; write 2\n  3 |   b: 1\n          ^"


def test_a_fault_without_a_line_is_one_line():
    assert str(Fault(None, None, None, "a.b", "is wrong")) == "a.b: is wrong"
    assert str(Fault("override 1: a=1", None, None, "a", "is wrong")) == "override 1: a=1: a: is wrong"


def test_the_caret_stays_under_its_column_after_a_tab_and_in_a_long_line():
    assert str(fault(3, "\t\tX")).splitlines()[1:] == ["  3 |   X", "        ^"]
    line, caret = str(fault(501, "a" * 500 + "X" + "a" * 500)).splitlines()[1:]
    assert line[caret.index("^")] == "X"
    assert len(line) < 180
    assert line.startswith("  3 | …a")
    assert line.endswith("a…")


def test_an_error_holds_all_faults_and_prints_the_first_hundred():
    error = SpecError(fault(1, "x") for _ in range(1234))
    assert len(error.faults) == 1234
    assert str(error).count("is wrong") == 100
    assert str(error).endswith("\n… and 1,134 more faults")


def test_nothing_that_a_terminal_would_obey_is_printed():
    hostile = Fault("a\x1b[31m\n.yaml", 1, 3, "k\ne\x1b[0m", "given \x07", "write \u202e", "k: \x1b[2J\u202e")
    head, line, caret = str(hostile).splitlines()
    assert head == "a\\x1b[31m\\n.yaml:1:3: k\\ne\\x1b[0m: given \\x07; write \\u202e"
    assert (line, caret) == ("  1 | k: ?[2J?", "        ^")
