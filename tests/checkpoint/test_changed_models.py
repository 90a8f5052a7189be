"""Saving a model that is not as its spec says: refused before anything is written. Compiled ones are as it says."""

import pytest
import torch
from torch import nn

import hybridgen as hg
from hybridgen.interop.directory import export_directory
from tests.checkpoint.tiny import listing, model, same


def _compile_all(original):
    return torch.compile(original, backend="eager")


def _compile_part(original):
    original.backbone = torch.compile(original.backbone, backend="eager")
    return original


def _compile_layers(original):
    for index, layer in enumerate(original.backbone.layers):
        original.backbone.layers[index] = torch.compile(layer, backend="eager")
    return torch.compile(original, backend="eager")


@pytest.mark.parametrize("wrap", [_compile_all, _compile_part, _compile_layers])
def test_compiled_models_are_saved_under_their_own_names(tmp_path, wrap):
    hg.save(wrap(model()), tmp_path / "out")
    assert same(hg.load(tmp_path / "out", verify=True), model())


def test_compiled_models_are_exported(tmp_path):
    spec = hg.ModelSpec.model_validate({"d_model": 32, "n_layer": 1, "vocab_size": 61})
    original = hg.build(spec)
    export_directory(torch.compile(original, backend="eager"), tmp_path / "out", "mamba_ssm")
    stored = torch.load(tmp_path / "out/pytorch_model.bin", weights_only=True)
    assert stored.keys() == original.state_dict().keys()


def _replaced(changed):
    changed.backbone.layers[2].mlp.fc2 = nn.Linear(64, 32, bias=False)


def _removed(changed):
    del changed.backbone.layers[0].mixer.A_log


def _resized(changed):
    changed.backbone.embedding = nn.Embedding(72, 32)
    changed.tie_weights()


def _added(changed):
    changed.extra = nn.Linear(3, 2, bias=False)


def _buffer(changed):
    changed.backbone.register_buffer("seen", torch.zeros(1))


def _integer(changed):
    norm = changed.backbone.norm_f
    norm.weight = nn.Parameter(torch.ones(32, dtype=torch.int32), requires_grad=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_replaced, r"1 of the wrong shape .*\n    backbone.layers.2.mlp.fc2.weight: \(32, 64\), the model needs"),
        (_removed, r"1 missing .*\n    backbone.layers.0.mixer.A_log"),
        (_resized, r"2 of the wrong shape .*\n    backbone.embedding.weight: \(72, 32\), the model needs \(64, 32\)"),
        (_added, r"1 unexpected .*\n    extra.weight \(2, 3\)"),
        (_buffer, r"1 unexpected .*\n    backbone.seen \(1\)"),
        (_integer, r"backbone.norm_f.weight is of torch.int32; weights are floating point"),
    ],
)
def test_changed_models_are_refused(tmp_path, change, words):
    changed = model()
    change(changed)
    with pytest.raises(hg.CheckpointError, match=rf"out: not saved: .*(\n.*)*{words}"):
        hg.save(changed, tmp_path / "out")
    assert listing(tmp_path) == []
    hg.save(model(), tmp_path / "out")
    with pytest.raises(hg.CheckpointError, match="not saved"):
        hg.save(changed, tmp_path / "out")
    assert same(hg.load(tmp_path / "out", verify=True), model())


@pytest.mark.parametrize("given", [nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2)), {"a": torch.ones(1)}, "out"])
def test_something_else_is_refused(tmp_path, given):
    with pytest.raises(hg.CheckpointError, match=f"takes a HybridModel.*; given {type(given).__name__}"):
        hg.save(given, tmp_path / "out")


def _untie(value):
    untied = model()
    untied.lm_head.weight = nn.Parameter(value(untied.lm_head.weight.detach()))
    return untied


def _one_bit(weight):
    weight = weight.clone()
    weight[3, 5] = 0.0
    return weight


@pytest.mark.parametrize("value", [lambda w: w + 1, _one_bit, lambda w: w.bfloat16(), lambda w: w.to("meta")])
def test_broken_ties_are_refused(tmp_path, value):
    words = (
        r"the spec ties lm_head.weight to backbone.embedding.weight, but their values differ; "
        r"untie them in the spec \(tie_embeddings: false\), or call model.tie_weights\(\)$"
    )
    untied = _untie(value)
    with pytest.raises(hg.CheckpointError, match=words):
        hg.save(untied, tmp_path / "out")
    with pytest.raises(hg.CheckpointError, match=words):
        export_directory(untied, tmp_path / "out", "mamba_ssm")
    assert listing(tmp_path) == []
    untied.tie_weights()
    hg.save(untied, tmp_path / "out")
    assert same(hg.load(tmp_path / "out"), untied)


def test_zeros_of_other_sign_are_other_bits(tmp_path):
    tied = model()
    tied.backbone.embedding.weight.data[0, 0] = 0.0
    tied.lm_head.weight = nn.Parameter(tied.lm_head.weight.detach().clone())
    tied.lm_head.weight.data[0, 0] = -0.0
    with pytest.raises(hg.CheckpointError, match="their values differ"):
        hg.save(tied, tmp_path / "out")


@pytest.mark.parametrize("value", [torch.clone, lambda w: w.T.contiguous().T], ids=["copy", "other-layout"])
def test_copies_of_a_tied_weight_are_as_good(tmp_path, value):
    copied = model()
    copied.backbone.embedding.weight.data[0, 0] = torch.nan
    copied.lm_head.weight = nn.Parameter(value(copied.lm_head.weight.detach()))
    hg.save(copied, tmp_path / "out")
    loaded = hg.load(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight


def test_models_filled_by_assignment_are_saved(tmp_path):
    assigned = hg.build(model().spec, device="meta")
    assigned.load_state_dict({name: value.clone() for name, value in model(seed=4).state_dict().items()}, assign=True)
    hg.save(assigned, tmp_path / "out")
    assert same(hg.load(tmp_path / "out"), model(seed=4))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bias_of_dt_stays_in_float32(tmp_path, dtype):
    hg.save(model(), tmp_path / "out")
    for loaded in (hg.load(tmp_path / "out", dtype=dtype), model(dtype=dtype)):
        wide = {name for name, p in loaded.named_parameters() if p.dtype == torch.float32}
        mixers = "backbone.layers.0.mixer.", "backbone.layers.1.mixer."
        assert wide == {
            *(mixers[0] + name for name in ("A_log", "D", "dt_bias")),
            *(mixers[1] + name for name in ("A_log", "D", "dt_proj.bias")),
        }
        hg.save(loaded, tmp_path / "again")
        assert same(hg.load(tmp_path / "again"), loaded)
