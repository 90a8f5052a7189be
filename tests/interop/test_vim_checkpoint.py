"""Vim's `.pth` files: read with an allow-list, imported, and written back."""

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.interop.directory import export_directory, import_directory
from hybridgen.interop.vim import FACTORIES, spec_document, to_upstream, upstream_config
from hybridgen.interop.vim_checkpoint import read_checkpoint
from tests.checkpoint.tiny import same

SMALL = {"img_size": 32, "patch_size": 8, "stride": 8, "depth": 2, "embed_dim": 16, "d_state": 4, "num_classes": 10}
FACTORY = next(iter(FACTORIES))
ARGS = {"model": FACTORY, "input_size": 224, "drop": 0.0, "drop_path": 0.05, "nb_classes": 1000, "lr": 1e-3}


def build(config, seed=0):
    spec = hg.ModelSpec.model_validate(spec_document(config))
    return hg.build(spec, seed=seed)


def theirs(model):
    return to_upstream(model.state_dict(), model.spec)


def write(path, model, args=None, average=None):
    """Writes what upstream's training script writes."""
    parameters = theirs(model)
    content = {"model": parameters, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
               "lr_scheduler": {"base_values": [0.1]}, "epoch": 299}  # fmt: skip
    if average is not None:
        content["model_ema"] = theirs(average)
    if args is not None:
        content["args"] = argparse.Namespace(**args)
    torch.save(content, path)
    return parameters


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as the published ones are, with the tiny model's shapes, fine-tuned on 7 classes of 64 x 64 pixels."""
    path = tmp_path_factory.mktemp("published") / "vim_t_midclstok_76p1acc.pth"
    model = build({"model": FACTORY, "num_classes": 7, "img_size": 64, "drop_path_rate": 0.05}, seed=1)
    average = build({"model": FACTORY, "num_classes": 7, "img_size": 64}, seed=2)
    write(path, model, ARGS, average)
    return path, model, average


def test_a_file_is_imported_by_the_options_in_it(published, tmp_path):
    path, model, _ = published
    done = import_directory(path, tmp_path / "out")
    found = hg.load(tmp_path / "out", verify=True)
    assert (done.system, done.other) == ("vim", ())
    # The shapes correct the options, which say 1000 classes and 224 pixels.
    assert found.spec == model.spec
    assert (found.spec.head.num_classes, found.spec.input.image_size) == (7, 64)
    assert same(found, model)


def test_a_directory_with_the_file_is_imported(published, tmp_path):
    path, model, _ = published
    import_directory(path.parent, tmp_path / "out")
    assert same(hg.load(tmp_path / "out"), model)


def test_the_average_is_imported_if_asked(published, tmp_path):
    path, _, average = published
    import_directory(path, tmp_path / "out", ema=True)
    assert same(hg.load(tmp_path / "out"), average)


def test_an_unchanged_import_goes_back_whole(published, tmp_path):
    path, _, _ = published
    import_directory(path, tmp_path / "ours")
    export_directory(tmp_path / "ours", tmp_path / "theirs", "vim")
    original = read_checkpoint(path).weights
    # Without an allow-list: there is nothing but tensors in it.
    content = torch.load(tmp_path / "theirs/model.pth", weights_only=True)
    assert content.keys() == {"model"}
    assert content["model"].keys() == original.keys()
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in original.items())
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    assert config == {
        "model": FACTORY, "img_size": 64, "num_classes": 7, "drop_rate": 0.0, "drop_path_rate": 0.05
    }  # fmt: skip
    import_directory(tmp_path / "theirs", tmp_path / "again")
    assert same(hg.load(tmp_path / "again"), hg.load(tmp_path / "ours"))


@pytest.mark.parametrize("change", [{}, {"if_rope": True, "if_cls_token": False}, {"use_double_cls_token": True}])
def test_models_of_ours_are_exported_and_come_back(tmp_path, change):
    model = build({**SMALL, **change}, seed=4)
    hg.save(model, tmp_path / "ours")
    export_directory(tmp_path / "ours", tmp_path / "theirs", "vim")
    assert json.loads((tmp_path / "theirs/config.json").read_text()) == upstream_config(model.spec)
    done = import_directory(tmp_path / "theirs", tmp_path / "back")
    assert done.other == (("rope.freqs_cos", "rope.freqs_sin") if "if_rope" in change else ())
    back = hg.load(tmp_path / "back")
    assert (back.spec, same(back, model)) == (model.spec, True)


def test_rotation_tables_of_the_original_come_back(tmp_path):
    """They may differ in the last bit from what this machine makes."""
    model = build({**SMALL, "if_rope": True, "if_cls_token": False})
    weights = theirs(model)
    weights["rope.freqs_cos"] = weights["rope.freqs_cos"] * (1 - 1e-7)
    (tmp_path / "in").mkdir()
    torch.save({"model": weights}, tmp_path / "in/x.pth")
    (tmp_path / "in/config.json").write_text(json.dumps(upstream_config(model.spec)))
    import_directory(tmp_path / "in", tmp_path / "ours")
    export_directory(tmp_path / "ours", tmp_path / "back", "vim")
    found = torch.load(tmp_path / "back/model.pth", weights_only=True)["model"]
    assert torch.equal(found["rope.freqs_cos"], weights["rope.freqs_cos"])
    assert (tmp_path / "back/config.json").read_bytes() == (tmp_path / "in/config.json").read_bytes()


@pytest.mark.parametrize("has_entry", [True, False], ids=["model", "bare"])
def test_a_configuration_given_beside_the_file(tmp_path, has_entry):
    model = build(SMALL)
    weights = theirs(model)
    torch.save({"model": weights, "args": argparse.Namespace(**ARGS)} if has_entry else weights, tmp_path / "x.pt")
    (tmp_path / "own.json").write_text(json.dumps(SMALL))
    import_directory(tmp_path / "x.pt", tmp_path / "out", config=tmp_path / "own.json")
    assert same(hg.load(tmp_path / "out"), model)


def test_faults_stand_where_upstream_has_them(tmp_path):
    write(tmp_path / "x.pth", build(SMALL))
    for change, place in (
        ({"depth": 3, "if_bidirectional": True}, "if_bidirectional"),
        ({"if_rope": True}, "if_rope"),
        ({"if_devide_out": True}, "if_devide_out"),
        ({"stride": 9}, "stride"),
        ({"img_size": 33}, "img_size"),
    ):
        (tmp_path / "own.json").write_text(json.dumps({**SMALL, **change}))
        with pytest.raises(hg.SpecError) as error:
            import_directory(tmp_path / "x.pth", tmp_path / "out", config=tmp_path / "own.json")
        assert [(f.file, f.path) for f in error.value.faults] == [(str(tmp_path / "own.json"), place)]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (None, r"does not say what its model is \(no args.model, no config.json\); give .* --config"),
        ({**ARGS, "model": "deit_tiny"}, "args.model is 'deit_tiny', which is none of Vim's factories"),
        ({**ARGS, "model": ["a"]}, "which is none of Vim's factories"),
        ({**ARGS, "if_random_cls_token_position": True}, "if_random_cls_token_position: puts the class token"),
        ({**ARGS, "drop": "0.1"}, "x.pth: drop_rate: must be a number"),
    ],
)
def test_files_that_do_not_say_what_they_are(tmp_path, args, words):
    write(tmp_path / "x.pth", build(SMALL), args)
    with pytest.raises(hg.HybridgenError, match=words):
        import_directory(tmp_path / "x.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_refused(tmp_path):
    write(tmp_path / "x.pth", build(SMALL), ARGS)
    with pytest.raises(hg.CheckpointError, match="of the wrong shape"):
        import_directory(tmp_path / "x.pth", tmp_path / "out")


class Hostile:
    """Makes a directory when it is unpickled as pickle would."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return (os.mkdir, (self.place,))


class HostileNamespace(argparse.Namespace):
    """A class that is not on the list."""


@pytest.mark.parametrize("save", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_hostile_pickle_runs_nothing(tmp_path, save):
    hostile = Hostile(tmp_path / "made")
    pickle.loads(pickle.dumps(hostile))
    assert (tmp_path / "made").is_dir()
    (tmp_path / "made").rmdir()
    for name, content in {
        "value": {"model": theirs(build(SMALL)), "args": argparse.Namespace(**ARGS, extra=hostile)},
        "weights": {"model": hostile},
        "class": {"model": {}, "args": HostileNamespace(**ARGS)},
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path, **save)
        words = r"cannot be read as a state dict of tensors: (Unsupported global|Trying to load unsupported GLOBAL)"
        with pytest.raises(hg.CheckpointError, match=words) as error:
            import_directory(path, tmp_path / "out")
        # Nobody is told how to run it.
        assert not [word for word in ("weights_only", "allowlist", "safe_globals", "\n") if word in str(error.value)]
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "out").exists()


def test_arguments_that_hold_themselves_are_refused(tmp_path):
    args, circle = argparse.Namespace(model=FACTORY), {}
    args.input_size, circle["round"] = args, circle
    for value in (args, argparse.Namespace(model=FACTORY, input_size=circle)):
        torch.save({"model": {"head.weight": torch.zeros(3, 4)}, "args": value}, tmp_path / "round.pth")
        with pytest.raises(hg.CheckpointError, match=r"round.pth: args holds values that are no arguments of a model"):
            import_directory(tmp_path / "round.pth", tmp_path / "out")


def test_the_list_is_not_left_open(published):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(published[0])
    assert set(torch.serialization.get_safe_globals()) == before
    assert argparse.Namespace not in before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(published[0], weights_only=True)


def test_what_the_program_has_allowed_stays_allowed(published):
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_checkpoint(published[0])
        assert argparse.Namespace in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "must hold a dict; found a list"),
        ({"model": {"a": 1}}, "model: must hold a state dict"),
        ({"epoch": 3}, "must hold a state dict"),
    ],
)
def test_files_without_weights_are_worded(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(hg.CheckpointError, match=words):
        import_directory(tmp_path / "x.pth", tmp_path / "out")


def test_sources_that_are_none_are_worded(tmp_path):
    write(tmp_path / "x.pth", build(SMALL))
    (tmp_path / "y.bin").write_bytes(b"")
    with pytest.raises(hg.CheckpointError, match="has no entry 'model_ema'; it holds epoch, lr_scheduler, model"):
        import_directory(tmp_path / "x.pth", tmp_path / "out", ema=True)
    with pytest.raises(hg.CheckpointError, match="is a file; a model of zonos is a directory"):
        import_directory(tmp_path / "x.pth", tmp_path / "out", system="zonos")
    with pytest.raises(hg.CheckpointError, match=r"is a file; what can be imported is a directory, or a \.pth"):
        import_directory(tmp_path / "y.bin", tmp_path / "out")
    with pytest.raises(hg.CheckpointError, match="there is no such directory or file"):
        import_directory(tmp_path / "z.pth", tmp_path / "out")
    (tmp_path / "z.pth").write_bytes((tmp_path / "x.pth").read_bytes())
    with pytest.raises(hg.CheckpointError, match=r"several checkpoints \(x.pth, z.pth\)"):
        import_directory(tmp_path, tmp_path / "out")
    for path in tmp_path.glob("*.pth"):
        Path(path).unlink()
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    with pytest.raises(hg.CheckpointError, match=r"holds neither a \.pth file nor model.safetensors"):
        import_directory(tmp_path, tmp_path / "out")
    with pytest.raises(hg.CheckpointError, match="has no moving average"):
        import_directory(tmp_path, tmp_path / "out", ema=True)


def test_an_export_overwrites_no_checkpoint(tmp_path):
    hg.save(build(SMALL), tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/model.pth").write_bytes(b"mine")
    with pytest.raises(hg.CheckpointError, match=r"holds a model\.pth already"):
        export_directory(tmp_path / "ours", tmp_path / "theirs", "vim")
    assert (tmp_path / "theirs/model.pth").read_bytes() == b"mine"


def test_moving_average_alone_is_named(tmp_path):
    torch.save({"model_ema": theirs(build(SMALL))}, tmp_path / "v.pth")
    with pytest.raises(hg.CheckpointError, match="no entry 'model', only 'model_ema'; take that with --ema"):
        read_checkpoint(tmp_path / "v.pth")
    assert read_checkpoint(tmp_path / "v.pth", ema=True).weights.keys() == theirs(build(SMALL)).keys()


def test_weights_without_values(tmp_path):
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 4, device="meta")}}, tmp_path / "v.pth")
    with pytest.raises(hg.CheckpointError, match="cls_token was saved from the device meta and has no values"):
        read_checkpoint(tmp_path / "v.pth")


@pytest.mark.filterwarnings("error")
def test_plain_pickles_run_nothing(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "v.pth").write_bytes(pickle.dumps(Code(), protocol=4))
    with pytest.raises(hg.CheckpointError, match="cannot be read as a state dict"):
        read_checkpoint(tmp_path / "v.pth")
    assert not (tmp_path / "made").exists()


def test_names_of_a_distributed_run_are_read(tmp_path):
    weights = theirs(build(SMALL))
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "v.pth")
    assert read_checkpoint(tmp_path / "v.pth").weights.keys() == weights.keys()
