"""Overrides in Hydra's grammar: what they change, where their faults are placed, and plain words for bad ones."""

import pytest

from hybridgen.errors import SpecError
from hybridgen.spec.load import load_text
from hybridgen.spec.places import Place

TEXT = """\
backbone:
  n_layer: 12
  ssm: {type: mamba2, d_state: 64}
  changes: [1, 2, {window: 3}]
  mlp: null
"""


def backbone(*overrides):
    return load_text(TEXT, "c.yaml", overrides).data["backbone"]


def faults_of(*overrides):
    with pytest.raises(SpecError) as error:
        load_text(TEXT, "c.yaml", overrides)
    return [str(fault) for fault in error.value.faults]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("backbone.n_layer=24", "n_layer", 24),
        ("backbone.eps=1e-5", "eps", 1e-5),
        ("+backbone.eps=1e-5", "eps", 1e-5),
        ("++backbone.n_layer=24", "n_layer", 24),
        ("++backbone.eps=null", "eps", None),
        ('backbone.attn_layer_idx="3::4"', "attn_layer_idx", "3::4"),
        ("backbone.attn_layer_idx=3::4", "attn_layer_idx", "3::4"),
        ("backbone.attn_layer_idx=[1,3]", "attn_layer_idx", [1, 3]),
        ("backbone.pattern='(m*3 a)*5'", "pattern", "(m*3 a)*5"),
        ("backbone.attn.window=512", "attn", {"window": 512}),
        ("backbone.mlp.d=5", "mlp", {"d": 5}),
        ("backbone.ssm={d_state: 16, norm: {eps: 1}}", "ssm", {"type": "mamba2", "d_state": 16, "norm": {"eps": 1}}),
        ("+backbone.ssm={expand: 2}", "ssm", {"type": "mamba2", "d_state": 64, "expand": 2}),
        ("backbone.ssm=7", "ssm", 7),
        ("backbone.changes.2.window=4", "changes", [1, 2, {"window": 4}]),
        ("backbone.changes.0={a: 1}", "changes", [{"a": 1}, 2, {"window": 3}]),
        ("~backbone.changes.1", "changes", [1, {"window": 3}]),
        ("backbone.copy=${backbone.n_layer}", "copy", 12),
        ("backbone.copy='L${backbone.n_layer}'", "copy", "L12"),
        ("backbone.empty=", "empty", ""),
        ("backbone.text='é ü'", "text", "é ü"),
        ("backbone._target_=os.system", "_target_", "os.system"),
    ],
)
def test_what_an_override_changes(override, key, value):
    assert backbone(override)[key] == value


@pytest.mark.parametrize("override", ["~backbone.n_layer", "~backbone.n_layer=12", "~backbone.ssm"])
def test_deleting(override):
    assert override[1:].partition("=")[0].partition(".")[2] not in backbone(override)


def test_overrides_apply_in_order_and_references_see_their_values():
    assert backbone("backbone.n_layer=1", "backbone.a=${backbone.n_layer}", "backbone.n_layer=2")["a"] == 2


def test_changed_values_are_located_at_their_override():
    overrides = ["backbone.ssm={d_state: 16}", "backbone.attn.window=512", "backbone.changes.0=9"]
    document = load_text(TEXT, "c.yaml", overrides)
    for path, number in [
        (("backbone", "ssm", "d_state"), 1),
        (("backbone", "attn"), 2),
        (("backbone", "attn", "window"), 2),
        (("backbone", "attn", "not_there"), 2),
        (("backbone", "changes", 0), 3),
    ]:
        place = Place(f"override {number}: {overrides[number - 1]}")
        assert document.locate(path) == place
        assert document.locate(path, key=True) == place
    assert document.locate(("backbone", "ssm", "type"))[:3] == ("c.yaml", 3, 15)
    assert document.locate(("backbone", "changes", 1))[:3] == ("c.yaml", 4, 16)


HOW = "write `key=value`, `+key=value` or `~key`, and quote special characters: key='\"a b\"'"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "+backbone.n_layer=3",
            "backbone.n_layer: `+` adds a key, and there already is one, with the value 12; "
            "change it with `backbone.n_layer=3`, or force it with `++backbone.n_layer=3`",
        ),
        ("~backbone.x", "backbone.x: there is nothing to delete; leave this override out"),
        ("~backbone.x.y", "backbone.x: there is nothing to delete; leave this override out"),
        (
            "~backbone.n_layer=3",
            "backbone.n_layer: it is not deleted, since it is the value 12; write `~backbone.n_layer`",
        ),
        (
            "backbone.n_layer.x=1",
            "backbone.n_layer: the key goes on with `.x`, but here is the value 12; override it as a whole",
        ),
        (
            "backbone.changes.7=1",
            "backbone.changes: the list has 3 elements, so there is no element 7; "
            "count from 0, or override the whole list",
        ),
        ("backbone.changes.x=1", "backbone.changes: here is a list, and `x` is no index; count its elements from 0"),
        (
            "backbone.attn_layer_idx=1,3",
            "several values, as for a sweep, cannot be given to one model; "
            "for a list, put them in brackets: `backbone.attn_layer_idx=[1,3]`",
        ),
        (
            "a=choice(1,2)",
            "`choice(...)` gives several values, as for a sweep; one model takes one; write one value: `a=value`",
        ),
        (
            "a=range(1,10)",
            "`range(...)` gives several values, as for a sweep; one model takes one; write one value: `a=value`",
        ),
        (
            "a=glob(*)",
            "`glob(...)` gives several values, as for a sweep; one model takes one; write one value: `a=value`",
        ),
        ("hydra.run.dir=x", "Hydra's own settings are no part of a model; leave it out"),
        ("hydra/launcher=x", "Hydra's own settings are no part of a model; leave it out"),
        (
            "db/x=1",
            "`/` and `@` choose from a config group, and this document has no such group; "
            "write dots between keys: `backbone.d_model=512`",
        ),
        ("", f"the override is empty; {HOW}"),
        ("a", f"there is no `=`; {HOW}"),
        ("=1", f"there is no key in front of `=`; {HOW}"),
        ("a b=1", "a key has no spaces; write `key=value`"),
        ("a[0]=1", "brackets cannot stand in a key; write a list element as `key.0=value`"),
        ("a.-1=1", "a key has no negative index and no leading `-`; count from 0, as in `key.0=value`"),
        (".a=1", "the key `.a` is not understood; write names with single dots between them"),
        ("a=(m*3 a)*5", "the value is not understood (extraneous input '('); put text in quotes: a='\"text\"'"),
        ("a=${b.${c}}", "this reference is not understood; put the value in quotes: a='\"${b.${c}}\"'"),
        ("a='x", "a quote is not closed; write a='\"text\"'"),
        ("a={0: 1}", 'a key must be text, given 0; write "0"'),
        ("a={true: 1}", 'a key must be text, given true; write "true"'),
        ("a=" + "[" * 17 + "]" * 17, "brackets nest deeper than 16 levels; put the value into the file"),
        ("a=" + "9" * 80, "a whole number has at most 64 digits; write a smaller one"),
        ("a=${nope}", "a: `${nope}` refers to nothing: there is no `nope`; there are: backbone, a"),
        ("a=???", "a: a value is missing: `???` must be filled in; write the value here"),
    ],
)
def test_bad_overrides(override, fault):
    assert faults_of(override) == [f"override 1: {override}: {fault}"]


@pytest.mark.parametrize(
    "override", ["a=" + "x" * 9000, "a=" + "[" * 5000, "a" + ".a" * 3000 + "=1", "a=" + "9" * 5000, "a=" + "(" * 4000]
)
def test_long_and_deep_overrides_end_in_one_short_fault(override):
    (fault,) = faults_of(override)
    assert fault.startswith(f"override 1: {override[:119]}…: ")
    assert len(fault) < 400


def test_all_bad_overrides_are_reported_with_the_faults_of_the_file():
    with pytest.raises(SpecError) as error:
        load_text("a: 1\na: !x 2\n", "c.yaml", ["x y=1", "a.b=2", "b=2", "c"])
    places = [(fault.file, fault.line) for fault in error.value.faults]
    expected = [("c.yaml", 2), ("c.yaml", 2), ("override 1: x y=1", None), ("override 2: a.b=2", None)]
    assert places == [*expected, ("override 4: c", None)]


def test_what_is_no_text_is_a_fault_and_a_single_text_is_one_override():
    assert faults_of(5, None)[1].startswith("override 2: None: an override is text, given NoneType; ")
    assert load_text(TEXT, overrides="backbone.n_layer=3").data["backbone"]["n_layer"] == 3
