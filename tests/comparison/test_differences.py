"""What differs between two models."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings

import hybridgen as hg
from hybridgen.comparison import Change, ModelDiff, differences
from hybridgen.comparison.differences import changes_between
from tests.spec.documents import IMAGE, LONG, SHORT, changed, documents

ATTENTION = {"type": "attention", "num_heads": 8, "num_heads_kv": 2, "rotary_emb_dim": 64}


def spec(document: dict[str, Any]) -> hg.ModelSpec:
    return hg.ModelSpec.model_validate(document)


def changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[Change, ...]:
    return changes_between(spec(a), spec(b))


def with_end(document: dict[str, Any], end: str, **fields: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    document[end] |= fields
    return document


def sections(**fields: Any) -> dict[str, Any]:
    """The short document with other fields in one section of its backbone."""
    return changed(SHORT, **{name: SHORT["backbone"].get(name, {}) | more for name, more in fields.items()})


def test_short_and_long_form_of_a_model_are_one() -> None:
    long = changed(SHORT, attn_layer_idx=..., ssm=..., attn=..., attn_mlp_d_intermediate=..., n_layer=...)
    mamba = {"type": "mamba2", "d_state": 64}
    long["backbone"]["blocks"] = {
        "x": {"mixer": mamba},
        "y": {"mixer": {**ATTENTION, "causal": True}, "mlp": {"d_intermediate": 2048}},
    }
    long["backbone"]["pattern"] = "x x x y (x*3 y)*2"
    found = hg.diff(spec(SHORT), spec(long))
    assert (found.changes, found.is_same) == ((), True)
    assert all(metric.difference == 0 for metric in found.metrics().values())


def plain(document: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A resolved document without the names of its blocks."""
    stack = document["backbone"]
    layers = [layer.model_dump(mode="json") for layer in spec(document).backbone.layers]
    rest = {name: value for name, value in stack.items() if name not in ("blocks", "pattern")}
    return {**document, "backbone": rest}, layers


@settings(max_examples=60, deadline=None)
@given(documents(), documents())
def test_nothing_differs_where_documents_are_equal_but_for_names_of_blocks(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    first, second = spec(a), spec(b)
    assert changes_between(first, spec(first.document())) == ()
    assert (changes_between(first, second) == ()) == (plain(first.document()) == plain(second.document()))


@settings(max_examples=60, deadline=None)
@given(documents(), documents())
def test_the_other_way_round_says_the_opposite(a: dict[str, Any], b: dict[str, Any]) -> None:
    there, back = changes_between(spec(a), spec(b)), changes_between(spec(b), spec(a))
    singles = [{(one.field, repr(one.a), repr(one.b)) for one in there if one.part != "layers"}]
    singles += [{(one.field, repr(one.b), repr(one.a)) for one in back if one.part != "layers"}]
    assert singles[0] == singles[1]
    assert any(one.matters for one in there) == any(one.matters for one in back)


@settings(max_examples=60, deadline=None)
@given(documents(), documents())
def test_changes_turn_one_stack_into_the_other(a: dict[str, Any], b: dict[str, Any]) -> None:
    first, second = ([layer.model_dump(mode="json") for layer in spec(one).backbone.layers] for one in (a, b))
    found = [change for change in changes(a, b) if change.part == "layers"]
    gone = {layer for change in found if change.kind == "removed" for layer in change.layers_a}
    new = {layer: change.b for change in found if change.kind == "added" for layer in change.layers_b}
    kept = iter([copy.deepcopy(layer) for number, layer in enumerate(first) if number not in gone])
    built = [copy.deepcopy(new[number]) if number in new else next(kept) for number in range(len(second))]
    for change in found:
        for number in change.layers_b if change.kind == "changed" else ():
            part, _, field = change.field.partition(".")
            part = {"attn": "mixer", "ssm": "mixer"}.get(part, part)
            target, key = (built[number][part], field) if field else (built[number], part)
            assert target[key] == change.a
            target[key] = change.b
    assert built == second


@pytest.mark.parametrize(
    ("other", "part", "field", "values"),
    [
        (with_end(SHORT, "input", vocab_size=2000), "input", "input.vocab_size", (1000, 2000)),
        (with_end(SHORT, "head", tie_embeddings=False), "head", "head.tie_embeddings", (True, False)),
        (changed(SHORT, d_model=1024, attn={**ATTENTION, "num_heads": 8}), "stack", "d_model", (512, 1024)),
        (changed(SHORT, norm={"eps": 1e-6}), "stack", "norm.eps", (1e-5, 1e-6)),
        (changed(SHORT, norm_placement="post"), "stack", "norm_placement", ("pre", "post")),
        (changed(SHORT, residual_attn={"every": 2}), "stack", "residual_attn", (None, 2)),
        (changed(SHORT, init={"initializer_range": 0.1}), "stack", "init.initializer_range", (0.02, 0.1)),
    ],
)
def test_single_values(other: dict[str, Any], part: str, field: str, values: tuple[Any, Any]) -> None:
    (change,) = changes(SHORT, other)
    after = change.b["every"] if field == "residual_attn" else change.b
    assert (change.part, change.kind, change.field, change.matters) == (part, "changed", field, True)
    assert (change.a, after) == values


@pytest.mark.parametrize(
    ("other", "field", "values", "layers"),
    [
        (sections(attn={"window": 1024}), "attn.window", (None, 1024), (3, 7, 11)),
        (sections(ssm={"d_state": 16}), "ssm.d_state", (64, 16), (0, 1, 2, 4, 5, 6, 8, 9, 10)),
        (changed(SHORT, attn_mlp_d_intermediate=4096), "mlp.d_intermediate", (2048, 4096), (3, 7, 11)),
        (changed(SHORT, overrides=[{"layers": [1], "ssm": {"d_conv": 2}}]), "ssm.d_conv", (4, 2), (1,)),
    ],
)
def test_fields_of_layers(other: dict[str, Any], field: str, values: tuple[Any, Any], layers: tuple[int, ...]) -> None:
    (change,) = changes(SHORT, other)
    assert (change.part, change.kind, change.field, change.matters) == ("layers", "changed", field, True)
    assert (change.a, change.b, change.layers_a, change.layers_b) == (*values, layers, layers)


def test_another_mixer_is_one_change_with_both_mixers() -> None:
    mixer, mlp = changes(SHORT, changed(SHORT, attn_layer_idx=[3, 7]))
    assert (mixer.field, mixer.a["type"], mixer.b["type"], mixer.layers_a) == ("mixer", "attention", "mamba2", (11,))
    assert (mlp.field, mlp.a["d_intermediate"], mlp.b, mlp.layers_b) == ("mlp", 2048, None, (11,))


def test_a_layer_put_in_between_changes_no_other() -> None:
    count, added = changes(LONG, changed(LONG, pattern="m*3 a f m*3 a f"))
    assert (count.field, count.a, count.b) == ("n_layer", 9, 10)
    assert (added.kind, added.field, added.layers_a, added.layers_b) == ("added", None, (), (4,))
    assert added.b["mixer"] is None
    assert added.b["mlp"]["d_intermediate"] == 1024


def test_layers_behind_one_that_is_gone_are_paired_with_what_they_were() -> None:
    other = changed(LONG, pattern="m*2 a m*3 a f")
    other["backbone"]["blocks"]["a"]["mixer"]["window"] = 64
    count, gone, window = changes(LONG, other)
    assert (count.field, gone.kind, len(gone.layers_a), gone.layers_b) == ("n_layer", "removed", 1, ())
    assert gone.layers_a[0] in (0, 1, 2)
    assert (window.field, window.layers_a, window.layers_b) == ("attn.window", (3, 7), (2, 6))


@pytest.mark.parametrize(
    ("a", "b", "fields"),
    [
        (SHORT, SHORT | {"name": "other"}, ["name"]),
        (SHORT, sections(ssm={"chunk_size": 64}), ["ssm.chunk_size"]),
        (sections(attn={"num_heads_kv": None}), sections(attn={"num_heads_kv": 8}), ["attn.num_heads_kv"]),
        (SHORT, sections(attn={"head_dim": 64, "softmax_scale": 0.125}), ["attn.head_dim", "attn.softmax_scale"]),
        (SHORT, sections(ssm={"d_ssm": 1024}), ["ssm.d_ssm"]),
        (LONG, changed(LONG, norm={"bias": False}), ["norm.bias"]),
        (SHORT, sections(mlp={"multiple_of": 64, "out_bias": False}), ["mlp.out_bias", "mlp.multiple_of"]),
        (SHORT, changed(SHORT, attn_mlp_d_intermediate=2000), ["mlp.d_intermediate"]),
        (SHORT, with_end(SHORT, "input", pad_vocab_size_multiple=4), ["input.pad_vocab_size_multiple"]),
        (IMAGE, with_end(IMAGE, "input", stride=4, image_size=[32, 32]), ["input.image_size", "input.stride"]),
        (IMAGE, with_end(IMAGE, "input", mean=[0.0, 0.0, 0.0]), ["input.mean"]),
        (IMAGE, with_end(IMAGE, "head", pool="cls"), ["head.pool"]),
        (
            IMAGE,
            changed(IMAGE, ssm={"type": "mamba1", "scan": ["row", "row_reverse"]}),
            ["ssm.bidirectional", "ssm.scan"],
        ),
    ],
)
def test_what_changes_no_weight_and_no_result_is_marked(
    a: dict[str, Any], b: dict[str, Any], fields: list[str]
) -> None:
    found = hg.diff(spec(a), spec(b))
    assert found.is_same
    assert sorted(change.field for change in found.changes) == sorted(fields)
    assert not any(change.matters for change in found.changes)
    assert found.metrics()["params"].difference == 0


def test_the_same_field_matters_where_its_meaning_differs() -> None:
    (change,) = changes(SHORT, sections(attn={"num_heads_kv": None}))
    assert (change.field, change.a, change.b, change.matters) == ("attn.num_heads_kv", 2, None, True)
    (change,) = changes(SHORT, changed(SHORT, attn_mlp_d_intermediate=1920))
    assert change.matters


def test_costs_are_those_of_both_models() -> None:
    a, b = spec(SHORT), spec(changed(SHORT, n_layer=16))
    metrics = hg.diff(a, b, seq_len=1024).metrics()
    first, second = hg.cost(a, 1024).metrics(), hg.cost(b, 1024).metrics()
    assert {name: (change.a, change.b) for name, change in metrics.items()} == {
        name: (first[name], second[name]) for name in first
    }
    params = metrics["params"]
    assert params.difference == second["params"] - first["params"] > 0
    assert params.percent == pytest.approx(100 * second["params"] / first["params"] - 100)


def test_models_of_images_are_costed_at_their_own_length() -> None:
    found = hg.diff(spec(IMAGE), spec(SHORT), seq_len=2048)
    assert (found.cost_a.setting.seq_len, found.cost_b.setting.seq_len) == (65, 2048)
    assert found.metrics()["kv_bytes"].percent is None


def test_plain_data_is_json_and_holds_everything() -> None:
    found = hg.diff(spec(SHORT), spec(sections(attn={"window": 1024})))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["same"] is False
    assert data["changes"] == [
        {
            "part": "layers", "kind": "changed", "field": "attn.window", "a": None, "b": 1024,
            "layers_a": [3, 7, 11], "layers_b": [3, 7, 11], "matters": True,
        }
    ]  # fmt: skip
    assert data["costs"]["seq_len"] == {"a": 4096, "b": 4096}
    assert data["costs"]["metrics"].keys() == hg.cost(spec(SHORT)).metrics().keys()
    assert data["costs"]["metrics"]["kv_bytes"].keys() == {"a", "b", "difference", "percent"}


def test_public_names_are_those_of_the_package() -> None:
    assert isinstance(hg.diff(spec(SHORT), spec(SHORT)), hg.ModelDiff)
    assert hg.ModelDiff is ModelDiff


def test_documents_are_refused_with_words() -> None:
    with pytest.raises(hg.HybridgenError, match=r"diff takes two resolved specs.*given dict"):
        hg.diff(spec(SHORT), SHORT)


def test_layers_are_read_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    count, read = 30, []
    meanings = differences.meanings
    monkeypatch.setattr(differences, "meanings", lambda *of: read.append(of) or meanings(*of))

    def different(conv: int) -> hg.ModelSpec:
        mixers = [{"type": "mamba1", "d_state": 8 + number, "d_conv": conv} for number in range(count)]
        blocks = {f"b{number}": {"mixer": mixer} for number, mixer in enumerate(mixers)}
        backbone = {"d_model": 8, "pattern": list(blocks), "blocks": blocks}
        return hg.ModelSpec.model_validate({"input": {"type": "hidden"}, "backbone": backbone})

    found = changes_between(different(3), different(4))
    assert [(change.field, change.layers_a) for change in found] == [("ssm.d_conv", tuple(range(count)))]
    assert len(read) < 3 * count  # not count * count: a thousand layers took twenty seconds
