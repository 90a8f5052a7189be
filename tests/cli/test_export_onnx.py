"""`hybridgen onnx`."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import hybridgen as hg
from tests.cli.conftest import Program


def test_file_runs_in_onnxruntime(hybridgen: Program, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    done = hybridgen("onnx", saved, "-o", path, "--batch-size", 3, "--sequence-length", 20)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{path}: ")
    assert done.out.endswith("input_ids (3, 20) -> logits\n")
    ids = torch.randint(1000, (3, 20), generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids.numpy()})
    with torch.no_grad():
        expected = hg.load(saved)(ids).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_missing_length_and_wrong_batch_are_said(hybridgen: Program, saved: Path, tmp_path: Path) -> None:
    missing = hybridgen("onnx", saved, "-o", tmp_path / "model.onnx")
    assert missing.status != 0
    assert "--sequence-length" in missing.err
    wrong = hybridgen("onnx", saved, "-o", tmp_path / "model.onnx", "--batch-size", "all")
    assert wrong.status != 0
    assert "a number, 1 or more, or dynamic; given all" in wrong.err
