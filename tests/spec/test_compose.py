"""`defaults:` lists: composed by Hydra, with places, with the checks of any document, and within bounds."""

import os
import warnings

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase, getbase

from hybridgen.errors import SpecError
from hybridgen.spec.load import load_document, load_text

BASE = """\
base_name: hi
backbone:
  d_model: 8
  ssm: {type: mamba2, d_state: 4}
  list: [1, "${base_name}"]
  n_layer: ${backbone.d_model}
"""
MAIN = """\
defaults:
  - base
  - blocks@backbone.blocks: one
  - head: lm
  - _self_
name: x-${base_name}
backbone:
  d_model: 512
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "main.yaml": MAIN,
        "base.yaml": BASE,
        "blocks/one.yaml": "m: {mixer: {type: attention}}\n",
        "blocks/two.yaml": "a: {mixer: null}\n",
        "head/lm.yaml": "type: lm\n",
        "head/none.yaml": "type: none\n",
    }
    for name, text in files.items():
        write(name, text)
    return tmp_path


def write(name, text):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as file:
        file.write(text)


def faults_of(*overrides, main="main.yaml"):
    with pytest.raises(SpecError) as error:
        load_document(main, overrides)
    return [str(fault).splitlines()[0] for fault in error.value.faults]


def test_files_are_composed_in_order_and_references_see_the_result(folder):
    assert load_document("main.yaml").data == {
        "base_name": "hi",
        "name": "x-hi",
        "backbone": {
            "d_model": 512,
            "ssm": {"type": "mamba2", "d_state": 4},
            "list": [1, "hi"],
            "n_layer": 512,
            "blocks": {"m": {"mixer": {"type": "attention"}}},
        },
        "head": {"type": "lm"},
    }


@pytest.mark.parametrize(("order", "d_model"), [("[_self_, base]", 8), ("[base, _self_]", 512), ("[base]", 512)])
def test_self_decides_who_wins(folder, order, d_model):
    write("main.yaml", f"defaults: {order}\nbackbone: {{d_model: 512}}\n")
    assert load_document("main.yaml").data["backbone"]["d_model"] == d_model


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("backbone",), ("main.yaml", 8, 3), ("main.yaml", 7, 1)),
        (("backbone", "d_model"), ("main.yaml", 8, 12), ("main.yaml", 8, 3)),
        (("backbone", "ssm"), ("base.yaml", 4, 8), ("base.yaml", 4, 3)),
        (("backbone", "list", 1), ("base.yaml", 5, 13), ("base.yaml", 5, 13)),
        (("backbone", "blocks"), ("blocks/one.yaml", 1, 1), ("blocks/one.yaml", 1, 1)),
        (("backbone", "blocks", "m", "mixer", "type"), ("blocks/one.yaml", 1, 19), ("blocks/one.yaml", 1, 13)),
        (("head", "type"), ("head/lm.yaml", 1, 7), ("head/lm.yaml", 1, 1)),
        (("head", "nope"), ("head/lm.yaml", 1, 1), ("head/lm.yaml", 1, 1)),
        (("name",), ("main.yaml", 6, 7), ("main.yaml", 6, 1)),
    ],
)
def test_every_part_is_located_in_the_file_that_it_came_from(folder, path, value, key):
    document = load_document("main.yaml")
    assert document.locate(path)[:3] == value
    assert document.locate(path, key=True)[:3] == key


def test_files_are_named_as_the_user_named_the_document(folder):
    document = load_document(str(folder / "main.yaml"))
    assert document.locate(("backbone", "ssm")).file == str(folder / "base.yaml")


def test_a_mapping_replaces_a_scalar_and_the_reverse(folder):
    write("base.yaml", "a: {x: 1}\nb: 2\nc: [1]\nd: {y: 1}\n")
    write("main.yaml", "defaults: [base, _self_]\na: 5\nb: {z: 1}\nc: [2, 3]\nd: null\n")
    assert load_document("main.yaml").data == {"a": 5, "b": {"z": 1}, "c": [2, 3], "d": None}


def test_a_package_header_and_a_missing_value(folder):
    write("head/lm.yaml", "# a comment\n# @package _global_\nname: named\nhead: {type: '???'}\n")
    write("main.yaml", "defaults: [{head: lm}, _self_]\nhead: {bias: true}\n")
    assert load_document("main.yaml", ["head.type=lm"]).data == {"name": "named", "head": {"type": "lm", "bias": True}}
    assert faults_of() == [
        "head/lm.yaml:4:14: head.type: a value is missing: `???` must be filled in; write the value here"
    ]


def test_overrides_choose_files_and_change_fields(folder):
    data = load_document("main.yaml", ["head=none", "blocks@backbone.blocks=two", "backbone.d_model=3"]).data
    assert (data["head"], data["backbone"]["blocks"], data["backbone"]["d_model"]) == (
        {"type": "none"},
        {"a": {"mixer": None}},
        3,
    )
    assert "head" not in load_document("main.yaml", ["~head"]).data
    assert load_document("main.yaml", ["+head@other=none"]).data["other"] == {"type": "none"}
    assert load_document("main.yaml", ["head={type: none}"]).data["head"] == {"type": "none"}


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("head=lmm", "override 1: head=lmm: there is no file `head/lmm.yaml`; did you mean `lm`? there are: lm, none"),
        ("hed/x=lm", "override 1: hed/x=lm: there is no config group (folder) `hed/x`; did you mean `head`?"),
        ("hed@x=lm", "override 1: hed@x=lm: there is no config group (folder) `hed`; did you mean `head`?"),
        ("head=5", "override 1: head=5: a config group takes the name of one of its files; there are: lm, none"),
        ("++head=lm", "override 1: ++head=lm: `++` is for fields, this is a config group; write `head=lm`"),
        (
            "blocks@x=one",
            "override 1: blocks@x=one: the list cannot be composed: Could not override 'blocks@x'. "
            "Did you mean to override blocks@backbone.blocks? To append to your default list use +blocks@x=one",
        ),
    ],
)
def test_bad_choices(folder, override, fault):
    assert faults_of(override) == [fault]


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        (
            "[bsae]",
            "main.yaml:1:12: defaults: there is no file `bsae.yaml`; did you mean `base`? there are: base, main",
        ),
        (
            "[head: lmm]",
            "main.yaml:1:18: defaults: there is no file `head/lmm.yaml`; did you mean `lm`? there are: lm, none",
        ),
        ("base", "main.yaml:1:11: defaults: `defaults` must be a list; write one `- ` line per file"),
        ("[5]", "main.yaml:1:12: defaults[0]: an entry is text, given 5; write a file's name, or `group: file`"),
        (
            "[{head: lm, base: x}]",
            "main.yaml:1:12: defaults[0]: an entry has one key, given 2; write a file's name, or `group: file`",
        ),
        (
            "[head: [lm, 3]]",
            "main.yaml:1:12: defaults[0]: an entry is text, given 3; write a file's name, or `group: file`",
        ),
        (
            "['head: ${oc.env:HOME}']",
            "main.yaml:1:12: defaults[0]: `head: ${oc.env:HOME}` is not the name of a file or group; "
            "write a file's name, or `group: file`",
        ),
        (
            "[hydra/launcher: basic]",
            "main.yaml:1:12: defaults[0]: Hydra's own settings are no part of a model; remove this entry",
        ),
        (
            "[head: '???']",
            "main.yaml:1:12: defaults[0]: `???` is not the name of a file or group; "
            "write a file's name, or `group: file`",
        ),
        (
            "[main]",
            "main.yaml:1:1: defaults: the `defaults:` lists include each other in a circle, or far too many files",
        ),
        (
            "[head: lm, head: none]",
            "main.yaml:1:1: defaults: the list cannot be composed: Multiple values for head. "
            "To override a value use 'override head: none'",
        ),
    ],
)
def test_bad_lists(folder, entries, fault):
    write("main.yaml", f"defaults: {entries}\nname: x\n")
    (found,) = faults_of()
    assert found.startswith(fault)  # Hydra 1.4 adds to some of its words


def test_all_missing_files_of_a_list_come_together(folder):
    write("main.yaml", "defaults: [bsae, base, head: lmm, blocks@backbone.blocks: one, deep/mid, nope.yaml]\n")
    write("deep/mid.yaml", "defaults: [x, /base]\n")
    assert [fault.partition("; ")[0] for fault in faults_of()] == [
        "main.yaml:1:12: defaults: there is no file `bsae.yaml`",
        "main.yaml:1:30: defaults: there is no file `head/lmm.yaml`",
        "main.yaml:1:74: defaults: there is no file `nope.yaml`",
        "deep/mid.yaml:1:12: defaults: there is no file `deep/x.yaml`",
    ]


def test_an_override_chooses_another_file_than_one_that_is_missing(folder):
    write("main.yaml", "defaults: [base, optional head/x@y: nope, head: lmm]\n")
    assert load_document("main.yaml", ["head=lm"]).data["head"] == {"type": "lm"}


@pytest.mark.parametrize("name", ["../base", "blocks/../base", "{head: ../../x}", "{absolute}"])
def test_files_outside_the_folder(folder, name):
    name = name.format(absolute=folder / "base.yaml") if name == "{absolute}" else name
    write("main.yaml", f"defaults: [{name}, _self_]\n")
    (fault,) = faults_of()
    assert "lies outside the document's folder; files are looked up in the document's folder and below" in fault


def test_every_file_passes_the_checks_of_a_document_before_hydra_sees_it(folder):
    write("main.yaml", "defaults: [base]\n")
    write("base.yaml", "a: !!python/object/apply:os.system [ls]\na: 1\nhydra: {run: 1}\n")
    assert faults_of() == [
        "base.yaml:1:4: a: tags are refused, given `!!python/object/apply:os.system`; write the plain value",
        "base.yaml:2:1: a: the key is written twice, first in line 1; remove one of the two",
        "base.yaml:3:1: hydra: Hydra's own settings are no part of a model; remove it",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n\tb: 1\n", "base.yaml:2:1: a tab cannot indent YAML"),
        ("", "base.yaml: the file is empty"),
        ("\0", "base.yaml: this is binary data"),
        ("a: " + "[" * 500, "base.yaml:1:67: lists and mappings nest deeper"),
        ("x" * 2_000_000, "base.yaml: the file has 2,000,000 bytes"),
        ("a: ${hydra:run.dir}", "base.yaml:1:4: a: the resolver `${hydra:run.dir}` is refused"),
    ],
)
def test_hostile_files_in_a_list(folder, text, words):
    write("base.yaml", text)
    assert faults_of()[0].startswith(words)


def test_lists_that_double_at_every_step_are_refused(folder):
    for level in range(40):
        write(f"f{level}.yaml", f"defaults: [f{level + 1}@x, f{level + 1}@y]\n")
    write("f40.yaml", "a: 1\n")
    assert faults_of(main="f0.yaml") == [
        "f0.yaml:1:1: defaults: the `defaults:` lists include each other in a circle, or far too many files"
    ]


def test_values_as_deep_as_allowed_can_be_composed(folder):
    write("main.yaml", "defaults: [base]\n")
    write("base.yaml", "a: " + "{a: " * 62 + "1" + "}" * 62)
    assert load_document("main.yaml").data["a"]["a"]["a"]


def test_a_document_without_a_list_is_not_composed(folder):
    write("main.yaml", "name: x\nhead: lm\n")
    assert load_document("main.yaml", ["head=none"]).data["head"] == "none"
    with pytest.raises(SpecError, match="a `defaults:` list needs a file"):
        load_text("defaults: [base]\n")


def test_json_and_yml_files_take_part(folder):
    write("main.json", '{"defaults": ["other"], "name": "x"}')
    write("other.yml", "head: none\n")
    assert load_document("main.json").data == {"head": "none", "name": "x"}


def test_a_running_hydra_application_stays_as_it_is(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with hydra.initialize_config_dir(str(folder / "head"), version_base=None):
            base = VersionBase.instance()
            base.version_base = other = type(base.version_base)("1.2")
            running = GlobalHydra.instance()
            held = running.hydra
            load_document("main.yaml")
            faults_of("head=lmm")
            assert GlobalHydra.instance() is running
            assert running.hydra is held
            assert getbase() == other
            assert hydra.compose("lm") == {"type": "lm"}
    load_document("main.yaml")
    assert not GlobalHydra.instance().is_initialized()
