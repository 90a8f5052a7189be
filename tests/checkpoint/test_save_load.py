"""A saved model comes back: bits, dtypes, ties, spec; the layout is Hugging Face's."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import hybridgen as hg
from tests.checkpoint.tiny import listing, model, same, spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_round_trip_keeps_bits_and_dtypes(tmp_path, dtype):
    original = model(dtype=dtype)
    hg.save(original, tmp_path / "out")
    loaded = hg.load(tmp_path / "out", verify=True)
    assert same(original, loaded)
    assert loaded.spec == original.spec
    assert loaded.dtype == getattr(torch, dtype)


def test_loaded_model_runs_and_trains(tmp_path):
    original = model()
    hg.save(original, tmp_path / "out")
    loaded = hg.load(str(tmp_path / "out"))
    ids = torch.randint(61, (2, 9))
    assert torch.equal(original(ids), loaded(ids))
    assert all(p.requires_grad for p in loaded.parameters())
    before = (tmp_path / "out/model.safetensors").read_bytes()
    loaded(ids).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert not same(original, loaded)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


def test_saving_over_the_files_a_model_is_mapped_from(tmp_path):
    hg.save(model(seed=1), tmp_path / "out")
    loaded = hg.load(tmp_path / "out")
    hg.save(loaded, tmp_path / "out")
    assert same(loaded, model(seed=1))
    assert same(hg.load(tmp_path / "out", verify=True), model(seed=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", torch.bfloat16])
def test_load_converts_and_keeps_what_needs_float32(tmp_path, dtype):
    original = model()
    hg.save(original, tmp_path / "out")
    loaded = hg.load(tmp_path / "out", dtype=dtype)
    kinds = loaded.parameter_dtypes(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == kinds[name]
        assert torch.equal(parameter, original.get_parameter(name).to(kinds[name]))


def test_load_to_meta_and_to_a_device_that_is_not_there(tmp_path):
    hg.save(model(), tmp_path / "out")
    assert all(p.is_meta for p in hg.load(tmp_path / "out", device="meta").parameters())
    with pytest.raises(hg.HybridgenError, match="cuda:99"):
        hg.load(tmp_path / "out", device="cuda:99")
    with pytest.raises(hg.HybridgenError, match="dtype must be one of"):
        hg.load(tmp_path / "out", dtype="int8")


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    hg.save(model(), tmp_path / "tied")
    loaded = hg.load(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied/model.safetensors")
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight
    untied = model(head={"type": "lm", "tie_embeddings": False})
    hg.save(untied, tmp_path / "untied")
    assert same(untied, hg.load(tmp_path / "untied"))
    assert "lm_head.weight" in load_file(tmp_path / "untied/model.safetensors")


def test_noncontiguous_weights_are_saved_by_value(tmp_path):
    original = model()
    weight = original.backbone.layers[2].mlp.fc1.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    hg.save(original, tmp_path / "out")
    assert same(original, hg.load(tmp_path / "out"))


def test_config_records_spec_dtype_and_hashes(tmp_path):
    original = model(dtype="bfloat16")
    hg.save(original, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["format"], config["format_version"], config["model_type"]) == ("hybridgen", 1, "hybridgen")
    assert config["hybridgen_version"] == hg.__version__
    assert config["dtype"] == "bfloat16"
    assert config["spec"] == original.spec.document()
    assert config["files"].keys() == {"config.yaml", "model.safetensors"}
    assert config["files"]["model.safetensors"]["bytes"] == (tmp_path / "out/model.safetensors").stat().st_size
    assert hg.load_spec(tmp_path / "out/config.yaml") == original.spec
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert listing(tmp_path) == ["out/config.json", "out/config.yaml", "out/model.safetensors"]


def test_shards_have_hugging_faces_layout(tmp_path):
    original = model()
    hg.save(original, tmp_path / "out", max_shard_size="20KB")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    for shard in shards:
        stored = load_file(shard)
        assert sum(t.nbytes for t in stored.values()) <= 20_000 or len(stored) == 1
        assert all(index["weight_map"][name] == shard.name for name in stored)
    weights = {p.data_ptr(): p for p in original.parameters()}.values()
    assert index["metadata"] == {
        "total_parameters": sum(p.numel() for p in weights), "total_size": sum(p.nbytes for p in weights)
    }  # fmt: skip
    assert same(original, hg.load(tmp_path / "out", verify=True))
    assert same(original, hg.load(tmp_path / "out", dtype="float32"))


def test_old_shards_disappear_and_foreign_files_stay(tmp_path):
    out = tmp_path / "out"
    hg.save(model(), out, max_shard_size="20KB")
    (out / "notes.txt").write_text("mine")
    (out / "runs/1").mkdir(parents=True)
    (out / "runs/1/log").write_text("also mine")
    (out / "link").symlink_to("notes.txt")
    (out / "empty").mkdir()
    inode = (out / "notes.txt").stat().st_ino
    hg.save(model(seed=2), out)
    assert listing(tmp_path) == [
        f"out/{name}" for name in ("config.json", "config.yaml", "link", "model.safetensors", "notes.txt", "runs/1/log")
    ]
    assert (out / "notes.txt").stat().st_ino == inode
    assert (out / "link").is_symlink()
    assert (out / "empty").is_dir()
    assert same(hg.load(out, verify=True), model(seed=2))


def test_save_through_a_link_replaces_what_it_names(tmp_path):
    (tmp_path / "run_5").mkdir()
    (tmp_path / "latest").symlink_to("run_5")
    hg.save(model(seed=3), tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert same(hg.load(tmp_path / "run_5"), model(seed=3))


def test_save_makes_parents_and_keeps_the_mode(tmp_path):
    hg.save(model(), tmp_path / "a/b/out")
    (tmp_path / "a/b/out").chmod(0o750)
    hg.save(model(), tmp_path / "a/b/out")
    assert (tmp_path / "a/b/out").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("ends", "shape"),
    [
        ({"input": {"type": "hidden"}, "head": {"type": "none"}}, None),
        ({"input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 11}, "head": {"type": "codebooks"}}, 3),
    ],
)
def test_other_ends(tmp_path, ends, shape):
    original = model(**ends)
    hg.save(original, tmp_path / "out")
    assert same(original, hg.load(tmp_path / "out"))
    assert hg.load(tmp_path / "out").spec == spec(**ends)
