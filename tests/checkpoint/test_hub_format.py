"""Directories of Hugging Face's format: they come back bit by bit, replace each other, and keep what is not ours."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import hybridgen as hg
from hybridgen.checkpoint_files import is_remakable
from hybridgen.hub.seal import is_untouched
from tests.checkpoint.tiny import listing, model, same

IMAGES = {
    "input": {"type": "patches", "image_size": 16, "patch_size": 8, "cls_token": "middle"},
    "backbone": {"d_model": 32, "n_layer": 2, "ssm": {"type": "mamba1", "bidirectional": "v2"}},
    "head": {"type": "classifier", "num_classes": 3},
}
FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_hybridgen.py"]


def save(given, out, **options):
    hg.save(given, out, format="hf", **options)


def config_of(out):
    return json.loads((out / "config.json").read_text())


def change(out, **values):
    (out / "config.json").write_text(json.dumps({**config_of(out), **values}))


class HubModel(nn.Module):
    """A stand-in for a model of `hybridgen.hf`: the same weights, a spec, and what transformers knows beside it."""

    base_model_prefix = "backbone"

    def __init__(self, inner, generation=None, without_prefix=False, **settings):
        super().__init__()
        self._spec = inner.spec
        parts = inner.backbone if without_prefix else inner
        for name, part in parts.named_children():
            self.add_module(name, part)
        self.config = SimpleNamespace(to_dict=lambda: {"hidden_size": 32, **settings})
        if generation is not None:
            self.generation_config = SimpleNamespace(to_json_string=lambda: json.dumps(generation))

    @property
    def spec(self):
        return self._spec


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": {"type": "lm", "tie_embeddings": False, "bias": True}},
        {"dtype": "bfloat16"},
        {"head": {"type": "classifier", "num_classes": 3}},
        {"head": {"type": "none"}},
        {"input": {"type": "hidden"}, "head": {"type": "none"}},
        IMAGES,
        {**IMAGES, "head": {"type": "classifier", "num_classes": 0}},
    ],
)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_round_trip_keeps_bits_dtypes_and_ties(tmp_path, options, shard):
    original = model(**options)
    save(original, tmp_path / "out", max_shard_size=shard)
    loaded = hg.load(tmp_path / "out")
    assert same(original, loaded)
    assert (loaded.spec, type(loaded)) == (original.spec, type(original))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1 or shard == "20KB"
    assert config_of(tmp_path / "out")["dtype"] == options.get("dtype", "float32")
    for alias in original.tied_weights():
        assert loaded.get_parameter(alias) is loaded.get_parameter(original.tied_weights()[alias])
    save(loaded, tmp_path / "out")
    assert same(original, hg.load(tmp_path / "out"))


def test_bfloat16_keeps_its_islands_of_float32(tmp_path):
    save(model(dtype="bfloat16"), tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert "lm_head.weight" not in stored
    assert stored["backbone.layers.0.mixer.A_log"].dtype == torch.float32
    assert stored["backbone.embedding.weight"].dtype == torch.bfloat16
    loaded = hg.load(tmp_path / "out", dtype="float16")
    assert loaded.dtype == torch.float16
    assert loaded.get_parameter("backbone.layers.0.mixer.A_log").dtype == torch.float32


def test_files_are_those_that_transformers_knows(tmp_path):
    save(model(), tmp_path / "out")
    assert listing(tmp_path / "out") == FILES
    assert "format" not in config_of(tmp_path / "out")
    assert "files" not in config_of(tmp_path / "out")
    assert "made_by" not in config_of(tmp_path / "out")
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"suppress_tokens": [61, 62, 63]}
    save(model(**IMAGES), tmp_path / "out")
    assert listing(tmp_path / "out") == [name for name in FILES if name != "generation_config.json"]


def test_what_save_pretrained_writes_is_loaded(tmp_path):
    """Other fields, no shim, no card, other names of shards; a base model leaves the name of the stack out."""
    out = tmp_path / "out"
    original = model(head={"type": "none"})
    save(original, out, max_shard_size="20KB")
    for name in ("README.md", "modeling_hybridgen.py"):
        (out / name).unlink()
    config = config_of(out)
    del config["auto_map"], config["hybridgen_version"]
    (out / "config.json").write_text(json.dumps({**config, "transformers_version": "5.23.0", "use_cache": True}))
    assert same(original, hg.load(out))
    for shard in out.glob("*.safetensors"):
        save_file({name.removeprefix("backbone."): value for name, value in load_file(shard).items()}, shard)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    index["weight_map"] = {name.removeprefix("backbone."): file for name, file in index["weight_map"].items()}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(original, hg.load(out))
    assert same(original, hg.load(out, dtype="float32"))


def test_formats_replace_each_other_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    hg.save(model(), out, max_shard_size="20KB")
    (out / "notes.txt").write_text("mine")
    save(model(seed=1), out)
    assert listing(out) == sorted([*FILES, "notes.txt"])
    assert same(hg.load(out), model(seed=1))
    save(model(seed=2), out, max_shard_size="20KB")
    hg.save(model(seed=3), out)
    assert listing(out) == ["config.json", "config.yaml", "model.safetensors", "notes.txt"]
    assert same(hg.load(out, verify=True), model(seed=3))
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("first", ["hybridgen", "hf", None])
def test_a_card_of_ones_own_is_never_lost(tmp_path, first):
    out = tmp_path / "out"
    out.mkdir()
    if first is not None:
        hg.save(model(), out, format=first)
    (out / "README.md").write_text("# my model\n")
    save(model(seed=1), out)
    assert (out / "README.md").read_text() == "# my model\n"
    hg.save(model(seed=2), out)
    assert (out / "README.md").read_text() == "# my model\n"


def test_a_card_that_was_completed_by_hand_is_kept_and_ours_follows_the_model(tmp_path):
    out = tmp_path / "out"
    save(model(), out, made_by="build")
    assert "freshly initialised" in (out / "README.md").read_text()
    save(model(dtype="bfloat16"), out)
    text = (out / "README.md").read_text()
    assert is_untouched(text)
    assert "bfloat16" in text
    assert "freshly initialised" not in text
    (out / "README.md").write_text(text + "\nTrained on my notes.\n")
    save(model(), out)
    assert (out / "README.md").read_text() == text + "\nTrained on my notes.\n"


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "modeling_hybridgen.py", "model.safetensors"]
)
def test_files_of_others_are_refused(tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "llama"}')
    with pytest.raises(hg.CheckpointError, match=f"holds {name}, not written by hybridgen"):
        save(model(), tmp_path)
    assert listing(tmp_path) == [name]
    if name in ("config.json", "model.safetensors"):
        with pytest.raises(hg.CheckpointError, match=f"holds {name}, not written by hybridgen"):
            hg.save(model(), tmp_path)
    else:
        hg.save(model(), tmp_path)
        with pytest.raises(hg.CheckpointError, match=f"holds {name}, not written by hybridgen"):
            save(model(), tmp_path)
        assert (tmp_path / name).read_text() == '{"model_type": "llama"}'
        assert same(hg.load(tmp_path), model())


def test_a_document_of_ones_own_stands_in_the_way_of_the_own_format_alone(tmp_path):
    save(model(), tmp_path)
    (tmp_path / "config.yaml").write_text("mine")
    save(model(seed=1), tmp_path)
    with pytest.raises(hg.CheckpointError, match=r"holds config.yaml, not written by hybridgen"):
        hg.save(model(), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert same(hg.load(tmp_path), model(seed=1))


def test_only_weights_that_a_command_made_are_replaced_unasked(tmp_path):
    out = tmp_path / "out"
    assert is_remakable(out)
    for shard in ("5GB", "20KB"):
        save(model(), out, max_shard_size=shard, made_by="build")
        assert is_remakable(out)
        save(model(), out, max_shard_size=shard)
        assert not is_remakable(out)
    save(model(), out, made_by="build")
    # Training writes the file of weights again, and keeps every field of config.json.
    save_file(load_file(out / "model.safetensors"), out / "model.safetensors", {"format": "pt"})
    assert not is_remakable(out)
    (out / "model.safetensors").write_bytes(b"damaged")
    assert not is_remakable(out)


def test_names_of_classes_and_sampling_stay_with_the_same_spec(tmp_path):
    out = tmp_path / "out"
    head = {"type": "classifier", "num_classes": 2}
    save(model(head=head), out)
    change(out, id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1}, pad_token_id=3, use_cache=True)
    save(model(head=head, seed=1), out)
    config = config_of(out)
    assert (config["id2label"]["1"], config["label2id"]["dog"], config["pad_token_id"]) == ("dog", 1, 3)
    assert "use_cache" not in config
    save(model(), out)
    assert "id2label" not in config_of(out)
    (out / "generation_config.json").write_text('{"eos_token_id": 5, "suppress_tokens": null}')
    save(model(seed=2), out)
    kept = json.loads((out / "generation_config.json").read_text())
    assert kept == {"eos_token_id": 5, "suppress_tokens": [61, 62, 63]}
    save(model(input={"type": "tokens", "vocab_size": 64}), out)
    assert json.loads((out / "generation_config.json").read_text()) == {"_from_model_config": True}


def test_models_of_transformers_are_saved_in_both_formats(tmp_path):
    given = HubModel(model(seed=4), {"eos_token_id": 7, "pad_token_id": None}, eos_token_id=7)
    for format in ("hf", "hybridgen"):
        hg.save(given, tmp_path / format, format=format)
        assert same(hg.load(tmp_path / format), model(seed=4))
    generation = json.loads((tmp_path / "hf/generation_config.json").read_text())
    assert generation == {"eos_token_id": 7, "suppress_tokens": [61, 62, 63]}
    config = config_of(tmp_path / "hf")
    assert config["eos_token_id"] == 7
    assert "hidden_size" not in config
    base = model(head={"type": "none"})
    hg.save(HubModel(base, without_prefix=True), tmp_path / "base", format="hf")
    assert same(hg.load(tmp_path / "base"), model(head={"type": "none"}))


def test_names_of_classes_come_from_the_model(tmp_path):
    head = {"type": "classifier", "num_classes": 2}
    hg.save(HubModel(model(head=head), id2label={0: "cat", 1: "dog"}), tmp_path, format="hf")
    assert config_of(tmp_path)["id2label"] == {"0": "cat", "1": "dog"}


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(hg.CheckpointError, match="this takes a HybridModel, not wrapped in anything; given Linear"):
        save(nn.Linear(2, 2), tmp_path / "out")
    with pytest.raises(hg.CheckpointError, match="format must be one of hybridgen, hf; given 'pt'"):
        hg.save(model(), tmp_path / "out", format="pt")
    codes = {"input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 11}, "head": {"type": "codebooks"}}
    with pytest.raises(hg.UnsupportedError, match="no class of transformers reads codes"):
        save(model(**codes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_there_are_no_hashes_to_verify(tmp_path):
    save(model(), tmp_path)
    with pytest.raises(hg.CheckpointError, match="cannot be verified, Hugging Face's format keeps no hashes"):
        hg.load(tmp_path, verify=True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, r"config.json: spec: a document must be a mapping; given nothing"),
        ([1], r"config.json: spec: a document must be a mapping"),
        ({}, r"config.json: spec: a document must be a mapping"),
        ({"backbone": {"d_model": 32, "n_layr": 2}}, r"config.json: spec.backbone.n_layr: unknown field"),
        ({"backbone": {"d_model": 0, "n_layer": 2}}, r"config.json: spec.backbone.d_model: .*given 0"),
    ],
)
def test_faults_of_the_spec_name_file_and_path(tmp_path, spec, words):
    save(model(), tmp_path)
    change(tmp_path, spec=spec)
    with pytest.raises(hg.SpecError, match=words):
        hg.load(tmp_path)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    save(model(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["backbone.norm.weight"] = weights.pop("backbone.norm_f.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(hg.CheckpointError, match=r"missing .*\n    backbone.norm_f.weight \(32\)"):
        hg.load(tmp_path)
    shutil.copy(tmp_path / "config.json", tmp_path / "other.json")
    with pytest.raises(hg.SpecError, match="this is the configuration of a saved model, not a document"):
        hg.load_spec(tmp_path / "other.json")


def test_damage_while_replacing_leaves_the_old_model(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save(model(), out)
    before = {name: (out / name).read_bytes() for name in listing(out)}
    monkeypatch.setattr("hybridgen.hub.card.card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(hg.CheckpointError, match="cannot be written: disk full"):
        save(model(seed=1), out)
    assert {name: (out / name).read_bytes() for name in listing(out)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
