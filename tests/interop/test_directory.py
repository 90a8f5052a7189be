"""Whole directories: in, and back out as they were."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from hybridgen.interop.directory import UPSTREAM_OTHER, export_directory, import_directory
from hybridgen.interop.upstream_source import detect_system
from hybridgen.weight_files import parse_size, write_weights
from tests.checkpoint.tiny import listing, same
from tests.helpers.golden import NAMES, load_case

OTHER = {
    "embeddings.0.weight": torch.randn(11, 32),
    "heads.0.weight": torch.randn(10, 32),
    "prefix_conditioner.conditioners.0.project.weight": torch.randn(3, 2).bfloat16(),
}


def mamba_directory(path, name="lm_mamba1", save=None):
    case = load_case(f"mamba_ssm/{name}")
    path.mkdir()
    (path / "config.json").write_text(json.dumps(case.config, indent=4))
    weights = dict(case.parameters)
    if "lm_head.weight" in weights:
        weights["lm_head.weight"] = weights["backbone.embedding.weight"]
    torch.save(weights, path / "pytorch_model.bin", **(save or {}))
    return case


def zonos_directory(path, other=None, metadata=None, prefix="backbone."):
    case = load_case("zonos/zonos_hybrid")
    path.mkdir()
    config = {"backbone": case.config, "prefix_conditioner": {"conditioners": [], "projection": "linear"},
              "eos_token_id": 1024, "masked_token_id": 1025}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config, indent=1))
    weights = {prefix + name: tensor for name, tensor in case.parameters.items()}
    save_file({**weights, **(OTHER if other is None else other)}, path / "model.safetensors", metadata)
    return case


def identical(first, second):
    assert listing(first) == listing(second)
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in listing(first))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mamba_ssm")])
@pytest.mark.parametrize("save", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_mamba_directory_comes_in_and_goes_out(tmp_path, name, save):
    case = mamba_directory(tmp_path / "in", name.split("/")[1], save)
    done = import_directory(tmp_path / "in", tmp_path / "model")
    model = hg.load(tmp_path / "model", verify=True)
    assert (done.system, done.spec, done.other) == ("mamba_ssm", model.spec, ())
    assert done.parameters == sum(p.numel() for p in model.parameters())
    assert same(model, case.model())
    export_directory(tmp_path / "model", tmp_path / "back", "mamba_ssm")
    assert (tmp_path / "back/config.json").read_bytes() == (tmp_path / "in/config.json").read_bytes()
    found = torch.load(tmp_path / "back/pytorch_model.bin", weights_only=True)
    assert found.keys() == case.parameters.keys()
    assert all(torch.equal(found[key], value) for key, value in case.parameters.items())
    if "lm_head.weight" in found:
        assert found["lm_head.weight"].data_ptr() == found["backbone.embedding.weight"].data_ptr()
    stored = sum(t.nbytes for key, t in found.items() if key != "lm_head.weight")
    assert (tmp_path / "back/pytorch_model.bin").stat().st_size < stored + 30_000


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("has_head", [True, False])
def test_mamba_directory_of_safetensors(tmp_path, shard_size, has_head):
    case = load_case("mamba_ssm/lm_mamba2attn")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/config.json").write_text(json.dumps(case.config))
    weights = {key: value for key, value in case.parameters.items() if has_head or key != "lm_head.weight"}
    write_weights(tmp_path / "in", weights, parse_size(shard_size))
    import_directory(tmp_path / "in", tmp_path / "model", max_shard_size=shard_size)
    assert same(hg.load(tmp_path / "model"), case.model())


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "note": "ü"}])
@pytest.mark.parametrize("other", [None, {}], ids=["whole", "backbone-only"])
@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_zonos_directory_comes_back_byte_by_byte(tmp_path, metadata, other, prefix):
    case = zonos_directory(tmp_path / "in", other, metadata, prefix)
    done = import_directory(tmp_path / "in", tmp_path / "model")
    assert sorted(done.other) == sorted(OTHER if other is None else {})
    assert same(hg.load(tmp_path / "model", verify=True), case.model())
    again = export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert sorted(again.other) == sorted(done.other)
    assert identical(tmp_path / "in", tmp_path / "back")


def test_trained_zonos_model_keeps_the_rest_of_the_original(tmp_path):
    zonos_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    model = hg.load(tmp_path / "model")
    model.backbone.norm_f.weight.data += 1
    hg.save(model, tmp_path / "model")
    export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    before, after = load_file(tmp_path / "in/model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["backbone.norm_f.weight"]


def test_another_model_in_the_place_of_an_import_gets_nothing_of_the_original(tmp_path):
    zonos_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    spec = hg.load(tmp_path / "model").spec
    document = spec.document()
    document["backbone"]["norm"]["eps"] = 1e-6
    hg.save(hg.build(hg.ModelSpec.model_validate(document)), tmp_path / "model")
    done = export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert done.other == ()
    assert json.loads((tmp_path / "back/config.json").read_text())["backbone"]["norm_epsilon"] == 1e-6
    assert not any(name.startswith("embeddings") for name in load_file(tmp_path / "back/model.safetensors"))


def test_importing_again_replaces_the_first_import(tmp_path):
    zonos_directory(tmp_path / "in")
    mamba_directory(tmp_path / "other")
    import_directory(tmp_path / "in", tmp_path / "model")
    (tmp_path / "model/notes").write_text("mine")
    import_directory(tmp_path / "other", tmp_path / "model")
    import_directory(tmp_path / "in", tmp_path / "model")
    export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert identical(tmp_path / "in", tmp_path / "back")
    assert (tmp_path / "model/notes").read_text() == "mine"


def test_built_model_is_exported_and_imported(tmp_path):
    case = load_case("zonos/zonos_transformer_torch")
    model = case.model()
    export_directory(model, tmp_path / "out", "zonos")
    import_directory(tmp_path / "out", tmp_path / "model")
    assert same(hg.load(tmp_path / "model"), model)
    case = load_case("mamba_ssm/lm_mamba2attn")
    export_directory(case.model(), tmp_path / "mamba", "mamba_ssm")
    import_directory(tmp_path / "mamba", tmp_path / "mamba_model")
    assert same(hg.load(tmp_path / "mamba_model"), case.model())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("x_transformers")])
def test_x_transformers_directory_comes_back_byte_by_byte(tmp_path, name):
    case = load_case(name)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/config.json").write_text(json.dumps(case.config))
    save_file(case.parameters, tmp_path / "in/model.safetensors")
    done = import_directory(tmp_path / "in", tmp_path / "model")
    assert (done.system, done.other) == ("x_transformers", ())
    assert same(hg.load(tmp_path / "model", verify=True), case.model())
    export_directory(tmp_path / "model", tmp_path / "back", "x_transformers")
    assert (tmp_path / "back/config.json").read_bytes() == (tmp_path / "in/config.json").read_bytes()
    back = load_file(tmp_path / "back/model.safetensors")
    assert back.keys() == case.parameters.keys()
    assert all(torch.equal(back[key], value) for key, value in case.parameters.items())
    export_directory(case.model(), tmp_path / "built", "x_transformers")
    import_directory(tmp_path / "built", tmp_path / "again")
    assert same(hg.load(tmp_path / "again"), case.model())


def test_faults_of_x_transformers_arguments_name_the_file(tmp_path):
    config = {"num_tokens": 9, "max_seq_len": 4, "attn_layers": {"dim": 8, "depht": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hg.SpecError, match=r"config.json: attn_layers.depht: .*closest is 'depth'"):
        import_directory(tmp_path, tmp_path / "out")


def test_import_keeps_smaller_types(tmp_path):
    case = load_case("zonos/zonos_hybrid")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/config.json").write_text(json.dumps(case.config))
    save_file({name: t.bfloat16() for name, t in case.parameters.items()}, tmp_path / "in/model.safetensors")
    import_directory(tmp_path / "in", tmp_path / "model")
    model = hg.load(tmp_path / "model")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(torch.randn(1, 3, 32).bfloat16()).isfinite().all()
    export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert identical(tmp_path / "in", tmp_path / "back")


def test_directories_that_hold_something_are_not_overwritten(tmp_path):
    mamba_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    for target in ("in", "model"):
        with pytest.raises(hg.CheckpointError, match=rf"{target}: holds a config.json already; remove it"):
            export_directory(tmp_path / "model", tmp_path / target, "mamba_ssm")
    with pytest.raises(hg.CheckpointError, match=r"in: holds config.json, not written by hybridgen"):
        import_directory(tmp_path / "in", tmp_path / "in")
    assert same(hg.load(tmp_path / "model", verify=True), load_case("mamba_ssm/lm_mamba1").model())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"format": "hybridgen"}, "is a model saved by hybridgen already"),
        ({"model_type": "gpt2", "d_model": 8}, r"is a Hugging Face directory \(gpt2\)"),
        ({"hello": 1}, "is the configuration of none of huggingface, mamba_ssm, vim, x_transformers, zonos"),
    ],
)
def test_other_directories_are_told_apart(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hg.CheckpointError, match=words):
        import_directory(tmp_path, tmp_path / "out")


def test_systems_are_detected(tmp_path):
    configs = {"mamba_ssm": [{"d_model": 8}, {"vocab_size": 8}, {"embed_dim": 8, "num_heads": 2}],
               "vim": [{"img_size": 32, "embed_dim": 8}, {"d_model": 8, "bimamba_type": "v2"}],
               "x_transformers": [{"attn_layers": {}}, {"num_tokens": 3, "attn_layers": {"dim": 8}}],
               "zonos": [{"backbone": {}}, {"d_model": 8, "norm_epsilon": 1e-5}]}  # fmt: skip
    for system, examples in configs.items():
        for config in examples:
            (tmp_path / "config.json").write_text(json.dumps(config))
            assert detect_system(tmp_path) == system
    with pytest.raises(hg.CheckpointError, match="there is no such directory"):
        detect_system(tmp_path / "no")
    with pytest.raises(
        hg.HybridgenError, match="must be one of huggingface, mamba_ssm, vim, x_transformers, zonos; given 'x'"
    ):
        import_directory(tmp_path, tmp_path / "out", system="x")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": Bomb()}, protocol=2), "cannot be read as a state dict of tensors"),
        (b"", "cannot be read as a state dict of tensors"),
        (b"PK\x03\x04 not a zip", "cannot be read as a state dict of tensors"),
        (pickle.dumps([1, 2], protocol=2), "(cannot be read as|must hold) a state dict"),
    ],
    ids=["code", "empty", "broken-zip", "no-dict"],
)
def test_pickles_run_no_code_and_damaged_ones_are_worded(tmp_path, content, words):
    mamba_directory(tmp_path / "in")
    (tmp_path / "in/pytorch_model.bin").write_bytes(content)
    with pytest.raises(hg.CheckpointError, match=words):
        import_directory(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_state_dict_with_something_else_in_it(tmp_path):
    mamba_directory(tmp_path / "in")
    torch.save({"a": torch.ones(1), "step": 3}, tmp_path / "in/pytorch_model.bin")
    with pytest.raises(hg.CheckpointError, match="must hold a state dict, that is tensors by name, and nothing else"):
        import_directory(tmp_path / "in", tmp_path / "out")


def test_missing_and_wrong_weights_are_named(tmp_path):
    zonos_directory(tmp_path / "in")
    weights = load_file(tmp_path / "in/model.safetensors")
    weights["backbone.layers.0.norm.wieght"] = weights.pop("backbone.layers.0.norm.weight")
    save_file(weights, tmp_path / "in/model.safetensors")
    with pytest.raises(
        hg.CheckpointError, match=r"norm.wieght \(32\); closest missing name is backbone.layers.0.norm.weight"
    ):
        import_directory(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/model.safetensors").unlink()
    with pytest.raises(hg.CheckpointError, match=r"holds neither model.safetensors nor .* nor pytorch_model.bin"):
        import_directory(tmp_path / "in", tmp_path / "out")


def test_damaged_remainder_of_an_import_is_worded(tmp_path):
    zonos_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    (tmp_path / "model" / UPSTREAM_OTHER).write_bytes(b"junk")
    with pytest.raises(hg.CheckpointError, match=rf"{UPSTREAM_OTHER}: is not a whole safetensors file"):
        export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert not (tmp_path / "back").exists()


def test_export_lists_what_cannot_be_expressed_and_writes_nothing(tmp_path):
    case = load_case("mamba_ssm/lm_mamba1")
    with pytest.raises(hg.UnsupportedError, match=r"Zonos cannot express this model"):
        export_directory(case.model(), tmp_path / "out", "zonos")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.long(), lambda t: t.bool(), lambda t: t.to(torch.complex64), lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.to(torch.complex128), lambda t: t.to_sparse(),
    ],
    ids=["int64", "bool", "complex64", "fp8", "complex128", "sparse"],
)  # fmt: skip
def test_weights_that_no_model_has_are_refused(tmp_path, change):
    mamba_directory(tmp_path / "in")
    weights = torch.load(tmp_path / "in/pytorch_model.bin", weights_only=True)
    weights["backbone.norm_f.weight"] = change(weights["backbone.norm_f.weight"])
    torch.save(weights, tmp_path / "in/pytorch_model.bin")
    with pytest.raises(
        hg.CheckpointError, match=r"backbone.norm_f.weight is (of torch.*; weights are of float32, |a sparse)"
    ):
        import_directory(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [b"hello", b"\x80\x02h\x05.", b"\x80\x02}q\x00(X\x01", b"\x80\x02]", b"\x80\x02K\x01K\x02\x93.", b"(" * 9999],
)
def test_damaged_pickles_are_worded(tmp_path, content):
    mamba_directory(tmp_path / "in")
    (tmp_path / "in/pytorch_model.bin").write_bytes(content)
    with pytest.raises(hg.CheckpointError, match=r"pytorch_model.bin: cannot be read as a state dict of tensors: \w+"):
        import_directory(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("save", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_nobody_is_told_how_to_run_the_code_of_a_pickle(tmp_path, save):
    mamba_directory(tmp_path / "in")
    torch.save({"a": Bomb()}, tmp_path / "in/pytorch_model.bin", **save)
    with pytest.raises(hg.CheckpointError, match="cannot be read as a state dict of tensors: Unsupported") as error:
        import_directory(tmp_path / "in", tmp_path / "out")
    for word in ("weights_only", "allowlist", "safe_globals", "\x1b", "\n"):
        assert word not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin", "model.safetensors"])
def test_pipes_are_not_read(tmp_path, name):
    mamba_directory(tmp_path / "in")
    (tmp_path / "in" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "in" / name)
    with pytest.raises(hg.CheckpointError, match=f"{name}: is a pipe or a device, not a file"):
        import_directory(tmp_path / "in", tmp_path / "out")


NOTE = {"system": "zonos", "metadata": {}, "is_prefixed": True}


@pytest.mark.parametrize(
    "metadata",
    [
        {}, {"upstream": "x"}, {"upstream": "[]"}, {"upstream": "null"}, {"upstream": "{}"},
        {"upstream": "[" * 100_000},
        *({"upstream": json.dumps({**NOTE, **change})} for change in (
            {"metadata": 5}, {"metadata": {"a": 1}}, {"is_prefixed": "no"}, {"system": []}, {"system": "other"},
        )),
    ],
)  # fmt: skip
def test_changed_notes_of_an_import_are_worded(tmp_path, metadata):
    zonos_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    save_file(OTHER, tmp_path / "model" / UPSTREAM_OTHER, metadata)
    with pytest.raises(hg.CheckpointError, match=rf"{UPSTREAM_OTHER}: is not as an import wrote it"):
        export_directory(tmp_path / "model", tmp_path / "back", "zonos")
    assert not (tmp_path / "back").exists()


def test_kept_weights_cannot_take_the_place_of_the_models(tmp_path):
    zonos_directory(tmp_path / "in")
    import_directory(tmp_path / "in", tmp_path / "model")
    other = {**OTHER, "backbone.norm_f.weight": torch.zeros(32)}
    save_file(other, tmp_path / "model" / UPSTREAM_OTHER, {"upstream": json.dumps(NOTE)})
    with pytest.raises(hg.CheckpointError, match=rf"{UPSTREAM_OTHER}: is not as an import wrote it"):
        export_directory(tmp_path / "model", tmp_path / "back", "zonos")
