"""Exported models give what the models give, with nothing but standard operations in their graphs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import hybridgen as hg
import hybridgen.export
from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError

# A traced batch size is no int, which the shape checks insist on.
pytestmark = pytest.mark.usefixtures("no_shape_checks")

T = 37
ATTENTION = {"num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 8}
MLP = {"attn_mlp_d_intermediate": 64}
IMAGES = {"type": "patches", "image_size": [12, 16], "patch_size": 4, "channels": 2, "cls_token": "middle"}
CLASSES = {"type": "classifier", "num_classes": 7}
TOKENS, LM = {"type": "tokens", "vocab_size": 40}, {"type": "lm"}

MAMBA2 = {"type": "mamba2", "headdim": 16, "d_state": 8}
SCORES = {"num_heads": 4, "logit_softcap": 5.0, "sink": True, "alibi": True, "selective": True}

CASES: dict[str, dict[str, Any]] = {
    "vim": {"ssm": {"type": "mamba1", "bidirectional": "v2", "divide_out": True, "gate_activation": "gelu"}},
    "image-hybrid": {
        "attn_layer_idx": [1],
        "ssm": {**MAMBA2, "scan": "vmamba", "scan_share": ["conv"]},
        "attn": {"num_heads": 4},
        "norm": {"type": "layer"},
        **MLP,
    },
    "token-hybrid": {"attn_layer_idx": [1], "ssm": {"type": "mamba1"}, "attn": ATTENTION, **MLP},
    "mamba2": {"ssm": {**MAMBA2, "ngroups": 2}, "n_layer": 1},
    "scores": {"attn_layer_idx": "all", "attn": SCORES, "n_layer": 1},
    "window": {"attn_layer_idx": "all", "attn": {"num_heads": 4, "window": 5}, "n_layer": 1},
}
INPUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vim": (IMAGES, CLASSES),
    "image-hybrid": (IMAGES, CLASSES),
    "token-hybrid": (TOKENS, LM),
}


def make(name: str) -> Any:
    """A small model that is far from its starting values, where many weights are zeros or ones."""
    source, head = INPUTS.get(name, ({"type": "hidden"}, {"type": "none"}))
    spec = {"input": source, "backbone": {"d_model": 32, "n_layer": 2, **CASES[name]}, "head": head}
    model = hg.build(hg.ModelSpec.model_validate(spec), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def example(model: Any, batch: int) -> torch.Tensor:
    """A random input."""
    generator = torch.Generator().manual_seed(batch)
    match model.spec.input.type:
        case "patches":
            return torch.randn(batch, 2, 12, 16, generator=generator)
        case "tokens":
            return torch.randint(40, (batch, T), generator=generator)
        case _:
            return torch.randn(batch, T, 32, generator=generator)


def length_of(model: Any) -> int | None:
    """The sequence length to export for."""
    return None if model.spec.input.type == "patches" else T


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_onnxruntime_gives_what_the_model_gives(name: str, tmp_path: Path) -> None:
    model, path = make(name), tmp_path / "model.onnx"
    done = hg.export_onnx(model, path, sequence_length=length_of(model))
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, returned.name, given.shape[0]) == (done.input, done.output, "batch")
    for batch in (1, 2, 5):
        x = example(model, batch)
        (found,) = session.run(None, {given.name: x.numpy()})
        expected = model(x).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_program_holds_no_operator_of_ours(name: str) -> None:
    model = make(name)
    program = hg.export_program(model, sequence_length=length_of(model))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {target for target in targets if "hybridgen" in target}
    assert any(target.startswith("aten.") for target in targets)
    run = program.module()
    for batch in (1, 3):
        x = example(model, batch)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_batch_size_can_be_fixed(tmp_path: Path) -> None:
    model, path = make("mamba2"), tmp_path / "new" / "model.onnx"
    done = hg.export_onnx(model, path, batch_size=1, sequence_length=T)
    assert done.shape == (1, T, 32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, T, 32]
    x = example(model, 1)
    np.testing.assert_allclose(session.run(None, {done.input: x.numpy()})[0], model(x).numpy(), rtol=1e-4, atol=1e-4)


def test_file_names_no_local_file_and_is_no_larger_than_its_weights_need(tmp_path: Path) -> None:
    model = make("mamba2")
    done = hg.export_onnx(model, tmp_path / "model.onnx", sequence_length=T)
    assert b"hybridgen" not in done.path.read_bytes()
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert weights < done.size < weights + 400 * done.nodes
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = make("mamba2")
    model.train()
    model.backbone.layers[0].eval()
    hg.export_onnx(model, tmp_path / "model.onnx", sequence_length=T)
    assert model.training
    assert not model.backbone.layers[0].training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("mamba2", {}, "sequence_length is missing"),
        ("vim", {"sequence_length": 3}, "images have 13 tokens"),
        ("mamba2", {"sequence_length": 0}, "1 or more; given 0"),
        ("mamba2", {"sequence_length": 3, "batch_size": 0}, "1 or more; given 0"),
    ],
)
def test_wrong_sizes_are_refused(name: str, arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=said):
        hg.export_onnx(make(name), tmp_path / "model.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_other_dtypes_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"model\.float\(\)"):
        hg.export_onnx(make("mamba2").bfloat16(), tmp_path / "model.onnx", sequence_length=3)
    with pytest.raises(HybridgenError, match="is a directory; name a file"):
        hg.export_onnx(make("mamba2"), tmp_path, sequence_length=3)


def test_missing_packages_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybridgen.export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HybridgenError, match=r"pip install 'hybridgen\[onnx\]'"):
        hg.export_onnx(make("mamba2"), tmp_path / "model.onnx", sequence_length=3)


def test_old_file_stays_if_the_new_one_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def refuse(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        hg.export_onnx(make("mamba2"), path, sequence_length=3)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_but_files_is_replaced(tmp_path: Path) -> None:
    """A pipe or a device of the name stays what it is: under root, /dev/null would be gone."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HybridgenError, match="is no regular file, and would be replaced by one"):
        hg.export_onnx(make("vim"), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    for wrong in (None, 3, b"x.onnx", "a\0b"):
        with pytest.raises(HybridgenError, match="name of a file must be"):
            hg.export_onnx(make("vim"), wrong)  # type: ignore[arg-type]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    for other in (torch.nn.Linear(2, 2), "model", None):
        with pytest.raises(HybridgenError, match=r"model of hybridgen's, from hg\.build or hg\.load; given"):
            hg.export_onnx(other, target)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="device meta, where weights have no values"):
        hg.export_onnx(hg.build(make("vim").spec, device="meta"), target)
    with pytest.raises(ShapeError, match="at most 2147483647"):
        hg.export_onnx(make("vim"), target, batch_size=10**18)
    assert not target.exists()


def test_compiled_models_are_exported(tmp_path: Path) -> None:
    plain = hg.export_onnx(make("vim"), tmp_path / "plain.onnx")
    compiled = hg.export_onnx(torch.compile(make("vim"), backend="eager"), tmp_path / "c.onnx")
    assert compiled.nodes == plain.nodes
