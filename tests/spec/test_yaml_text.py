"""YAML text: values as OmegaConf reads them, places of keys and values, and plain words for what is no YAML."""

import itertools
import string

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hybridgen.spec import source_tree, yaml_text
from hybridgen.spec.places import Place
from hybridgen.spec.yaml_text import parse_yaml


def data_of(text):
    parsed = parse_yaml(text, "c.yaml")
    assert parsed.faults == []
    return source_tree.plain(parsed.root)


def faults_of(text):
    return [str(fault).splitlines()[0] for fault in parse_yaml(text, "c.yaml").faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("1.0e-5", 1e-5),
        (".5", 0.5),
        ("1_000", 1000),
        ("017", 15),
        ("0x1f", 31),
        ("1:30", 90),
        ("+1", 1),
        ("-.inf", float("-inf")),
        ("true", True),
        ("on", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("'8'", "8"),
        ('"true"', "true"),
        ("2020-01-01", "2020-01-01"),
        ("3::4", "3::4"),
        ("0x_", "0x_"),
        ("y", "y"),
        ("mamba2", "mamba2"),
        ("=", "="),
        ("9" * 65, "9" * 65),
    ],
)
def test_scalars_mean_what_omegaconf_says(text, value):
    read = data_of(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


def assert_read_as_omegaconf_does(texts):
    """Values and their types; OmegaConf also keeps a list of texts as it is."""
    written = "\n".join(f"- {text}" for text in texts)
    ours, theirs = data_of(f"values:\n{written}")["values"], OmegaConf.to_container(OmegaConf.create(written))
    assert [(value, type(value)) for value in ours] == [(value, type(value)) for value in theirs]


def test_short_words_are_read_as_omegaconf_does():
    letters = string.ascii_letters
    assert_read_as_omegaconf_does(["".join(word) for n in (1, 2) for word in itertools.product(letters, repeat=n)])
    words = ["yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "none", "lm", "rms", "auto", "silu"]
    cases = [[word, word.upper(), word.capitalize(), word[0] + word[1:].upper()] for word in words]
    assert_read_as_omegaconf_does([text for case in cases for text in case if text not in ("nan", "NaN")])


@given(st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{0,22})?([eE][-+]?[0-9]{1,3})?", fullmatch=True))
@example("-0")
@example("-0.0")
@example("00")
@example("1.")
@example("1.5e-5")
@settings(max_examples=300, deadline=None)
def test_numbers_are_read_as_omegaconf_does(text):
    assert_read_as_omegaconf_does([text, "x"])


def test_a_list_of_all_kinds_of_scalars_keeps_its_order():
    assert data_of("k: [0b_, 1, x, 1.5, null, on, 0x_]") == {"k": ["0b_", 1, "x", 1.5, None, True, "0x_"]}


def test_json_is_read_too():
    assert data_of('{\n\t"a": [1, 2.5e3, null, true],\n\t"b": {"c": "x"}\n}\n') == {
        "a": [1, 2500.0, None, True],
        "b": {"c": "x"},
    }


def test_anchors_aliases_and_merge_keys():
    text = "x: &x {p: 1, q: 2}\ny: {<<: *x, q: 3}\nz: {<<: [*x, {p: 9, r: 5}]}\nw: [*x, *x]\n"
    read = data_of(text)
    assert read["y"] == {"q": 3, "p": 1}
    assert read["z"] == {"p": 1, "q": 2, "r": 5}
    assert read["w"] == [{"p": 1, "q": 2}] * 2
    assert read["w"][0] is not read["w"][1]


def test_every_key_and_value_has_its_place():
    lines = ["backbone:", "  ssm: {type: mamba2, d_state: 64}", "  idx:", "    - 1", "    - [2, 3]", "ü: 'x'"]
    root = parse_yaml("\r\n".join(lines), "c.yaml").root

    def at(*path, key=False):
        return source_tree.locate(root, path, key)

    assert at("backbone", key=True) == Place("c.yaml", 1, 1, lines[0])
    assert at("backbone") == Place("c.yaml", 2, 3, lines[1])
    assert at("backbone", "ssm", "d_state", key=True) == Place("c.yaml", 2, 23, lines[1])
    assert at("backbone", "ssm", "d_state") == Place("c.yaml", 2, 32, lines[1])
    assert at("backbone", "idx", 1, 1) == Place("c.yaml", 5, 11, lines[4])
    assert at("ü") == Place("c.yaml", 6, 4, lines[5])


def test_what_is_not_there_is_located_at_its_nearest_ancestor():
    root = parse_yaml("backbone:\n  ssm: {}\n", "c.yaml").root
    assert source_tree.locate(root, ("backbone", "ssm", "x", 3))[1:3] == (2, 3)
    assert source_tree.locate(root, ("nope",), key=True)[1:3] == (1, 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a:\n\tb: 1", "c.yaml:2:1: a tab cannot indent YAML; use spaces"),
        ("a:\n  b: 1\n\tc: 2", "c.yaml:3:1: a tab cannot indent YAML; use spaces"),
        ("a:1\nb: 2", "c.yaml:1:3: no space after `a:`; write `key: value`, with a space after the colon"),
        ("a: 1\nb:2\nc: 3", "c.yaml:2:3: no space after `b:`; write `key: value`, with a space after the colon"),
        ("a: b: c", "c.yaml:1:5: a second `: ` in one line; put the value in quotes, or begin a new, indented line"),
        (
            "a: 1\n  b: 2",
            "c.yaml:2:3: this line is indented deeper than the line above allows, which already has a value; "
            "give both lines the same indentation",
        ),
        (
            "a:\n    b: 1\n  c: 2",
            "c.yaml:3:3: this line does not line up with the lines above it, which begin in column 1; "
            "use the same number of spaces for all keys of one mapping",
        ),
        (
            "a: [1, 2\nb: 3",
            "c.yaml:2:2: here a `,` or `]` should be: the `[` opened in line 1, column 4 is not closed; "
            "close it with `]`, or separate its elements with commas",
        ),
        ("a: 1\nb: [", "c.yaml:2:5: a value or a closing bracket is missing here; close every bracket that is open"),
        ('a: "abc\nb: 3', 'c.yaml:1:4: the quote " is never closed; end the text with "'),
        ("a: @x", "c.yaml:1:4: a value cannot begin with '@'; put the value in quotes"),
        ("a: *", "c.yaml:1:4: `*` begins an anchor or alias and needs a name; put the value in quotes"),
        ('a: "\\d"', "c.yaml:1:5: an unknown backslash sequence in double quotes; use single quotes, or write \\\\"),
        ("a:\n- 1\nb: 2\n- 3", "c.yaml:4:1: a list element among the keys of a mapping; indent the list under its key"),
        ("a: [1]]", "c.yaml:1:7: nothing may follow the value here, given `]`; remove it, or use quotes"),
        ("a: [${x}]", 'c.yaml:1:5: a reference inside [ needs quotes; write "${...}"'),
        ("a: - 1", "c.yaml:1:4: a list element `- ` cannot begin here; begin a new line for it, or write [a, b]"),
        ("a: 1\n...\nb: 2", "c.yaml:3:1: text after the end of the document; remove it, or the line `...` above it"),
        (
            "a: 1\n<<<<<<< HEAD\nb: 2",
            "c.yaml:2:1: this line is neither `key: value` nor `- element`; "
            "write `key: value`, with a space after the colon",
        ),
        (
            "%FOO\n---\na: 1",
            "c.yaml:1:1: a line that begins with `%` is a YAML directive, and this one is unknown; remove it",
        ),
        ("a: |x\n b", "c.yaml:1:4: `|` and `>` begin a text on the following lines; put the value in quotes"),
        ("a: [???]", "c.yaml:1:5: inside brackets a value cannot begin with `?`; put the value in quotes"),
        (": 1", "c.yaml:1:1: there is no key before this colon; write `key: value`, with a space after the colon"),
    ],
)
def test_syntax_errors_are_explained_where_they_are(text, fault):
    assert faults_of(text) == [fault]


@pytest.mark.parametrize(
    "text", ["a:\n\tb: 1", "a:1\nb: 2", "a: [1, 2\nb: 3", 'a: "abc', "a: [${x}]", "a: - 1", "a: ["]
)
def test_pythons_own_yaml_parser_gives_the_same_words(text, monkeypatch):
    with_libyaml = faults_of(text)
    monkeypatch.setattr(yaml_text, "_LOADER", yaml.SafeLoader)
    assert faults_of(text) == with_libyaml


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a: 1\nb: 2\na: 3", ["c.yaml:3:1: a: the key is written twice, first in line 1; remove one of the two"]),
        (
            "a: !!python/object:os.system x",
            ["c.yaml:1:4: a: tags are refused, given `!!python/object:os.system`; write the plain value"],
        ),
        (
            "a: !foo {b: !!int '8'}",
            [
                "c.yaml:1:4: a: tags are refused, given `!foo`; write the plain value",
                "c.yaml:1:13: a.b: tags are refused, given `!!int`; write the plain value",
            ],
        ),
        ("on: 1", ['c.yaml:1:1: a key must be text, YAML reads `on` as true or false; write "on"']),
        ("b: {1: x}", ['c.yaml:1:5: b: a key must be text, YAML reads `1` as a number; write "1"']),
        ("b: {~: x}", ['c.yaml:1:5: b: a key must be text, YAML reads `~` as nothing; write "~"']),
        ("? [a]\n: 1", ["c.yaml:1:3: a key must be text, given a list or a mapping; write `key: value`"]),
        ("a: *b", ["c.yaml:1:4: a: there is no anchor &b; defined above: none; put the text in quotes"]),
        ("a: &a [*a]", ["c.yaml:1:8: a[0]: the alias *a stands inside the value that it names; write the value out"]),
        ("a: {<<: 3}", ["c.yaml:1:5: a.<<: `<<` merges mappings, given something else; give it an alias of a mapping"]),
        ("a: 1\n---\nb: 2", ["c.yaml:2:1: a second document begins here; keep one document per file"]),
        (
            "- a",
            [
                "c.yaml:1:1: the document must be a mapping of fields, given a list; "
                "begin with `backbone:` and indent its fields below"
            ],
        ),
        (
            "a = 1",
            [
                "c.yaml:1:1: the document must be a mapping of fields, given the text `a = 1`; "
                "begin with `backbone:` and indent its fields below"
            ],
        ),
        ("# nothing", ["c.yaml: the document is empty; begin with `backbone:` and indent its fields below"]),
        ("a: \x1b[31m", ["c.yaml:1:4: the character U+001B is not allowed in YAML; remove it"]),
    ],
)
def test_valid_yaml_that_is_no_spec(text, faults):
    assert faults_of(text) == faults


def test_all_faults_of_a_text_are_found_in_one_run():
    text = "a: 1\na: 2\nb: !x 3\n4: 5\nc: *d\n"
    assert [fault.line for fault in parse_yaml(text, "c.yaml").faults] == [2, 3, 4, 5]
