"""Directories that cannot be loaded: every one gets words, and nothing is unpickled."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from tests.checkpoint.tiny import model


@pytest.fixture
def saved(tmp_path):
    hg.save(model(), tmp_path / "out")
    return tmp_path / "out"


def _fails(directory, words, **options):
    with pytest.raises(hg.CheckpointError, match=words) as error:
        hg.load(directory, **options)
    return str(error.value)


def _change_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def _change_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def test_missing_directory_names_the_nearest(saved):
    _fails(saved.parent / "uot", r"uot: there is no such directory; closest is .*/out$")
    _fails(saved.parent / "no/such/place", r"place: there is no such directory$")
    _fails(saved / "config.yaml", r"config.yaml: is a file; name the directory that holds config.json")


@pytest.mark.parametrize("name", ["config.json", "config.yaml", "model.safetensors"])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    _fails(saved, f"{name}.* is missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", "[" * 100_000, "null", '"x"'])
def test_bad_config_json(saved, text):
    (saved / "config.json").write_text(text)
    _fails(saved, r"config.json: (cannot be read as JSON|must hold a JSON object)")


def test_other_formats_and_versions(saved):
    _change_config(saved, format_version=2)
    _fails(saved, "format_version is 2; hybridgen .* reads 1")
    _change_config(saved, format="other")
    assert "import" not in _fails(saved, 'does not say "format": "hybridgen"')


def test_spec_that_differs_from_config_yaml_is_shown(saved):
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("num_heads: 4", "num_heads: 2"))
    words = _fails(saved, r"config.yaml and the spec in config.json differ")
    assert "num_heads: config.yaml says 2, config.json says 4" in words
    assert words.count("\n") == 1
    _change_config(saved, spec=None)
    _fails(saved, "the document: config.yaml says")


def test_faults_in_config_yaml_keep_their_place(saved):
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("num_heads: 4", "num_haeds: 4"))
    with pytest.raises(hg.SpecError, match=r"config.yaml:\d+:\d+: .*num_haeds"):
        hg.load(saved)


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_truncated_weights(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    _fails(saved, r"model.safetensors: is not a whole safetensors file")


def test_one_changed_bit_is_found_on_request(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    hg.load(saved)
    _fails(saved, r"model.safetensors: is not as it was saved: .* sha256", verify=True)


def test_verify_checks_every_file(saved):
    hg.save(model(), saved, max_shard_size="20KB")
    (saved / "model.safetensors.index.json").write_text((saved / "model.safetensors.index.json").read_text() + " ")
    _fails(saved, r"index.json: is not as it was saved", verify=True)
    (saved / "model-00002-of-00008.safetensors").unlink()
    _fails(saved, r"model-00002-of-00008.safetensors: the file is missing")
    for files in (None, [], {"x": 1}):
        _change_config(saved, files=files)
        _fails(saved, "files must map names to hashes", verify=True)
    _change_config(saved, files={"../../x": {"sha256": "", "bytes": 0}})
    _fails(saved, "the file is missing", verify=True)


def test_differences_of_names_are_listed_together(saved):
    def change(weights):
        weights["backbone.layers.0.mixer.A_lgo"] = weights.pop("backbone.layers.0.mixer.A_log")
        weights["backbone.layers.2.norm.weight"] = torch.ones(31)
        weights["zebra"] = torch.ones(2, 3)

    _change_weights(saved, change)
    words = _fails(saved, "the weights do not fit the model of this spec")
    assert words.splitlines()[1:] == [
        "  1 missing (the model needs these):",
        "    backbone.layers.0.mixer.A_log (4)",
        "  2 unexpected (the model has no such weights):",
        "    backbone.layers.0.mixer.A_lgo (4); closest missing name is backbone.layers.0.mixer.A_log",
        "    zebra (2, 3)",
        "  1 of the wrong shape (found against needed):",
        "    backbone.layers.2.norm.weight: (31), the model needs (32)",
    ]


def test_long_lists_are_cut(saved):
    _change_weights(saved, lambda weights: weights.update({f"extra.{i}": torch.ones(1) for i in range(25)}))
    words = _fails(saved, "25 unexpected")
    assert words.endswith("    ... and 15 more")
    assert words.count("extra.") == 10


def test_weights_must_be_floating_point(saved):
    def change(weights):
        weights["backbone.norm_f.weight"] = torch.ones(32, dtype=torch.int8)

    _change_weights(saved, change)
    _fails(saved, "backbone.norm_f.weight is stored as torch.int8; weights are floating point")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"d_model": 32, "n_layer": 2, "vocab_size": 61},
        {"backbone": {"d_model": 32}, "prefix_conditioner": {}},
    ],
)
def test_directories_of_other_systems_point_to_import(tmp_path, config):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    _fails(tmp_path, f"for weights of mamba-ssm or Zonos: hybridgen import {tmp_path} -o OUT")
