"""Liger's kernels in our models, where there is no GPU: what is replaced and what is said; the kernels interpreted."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import BackendUnavailableError, HybridgenError, UnsupportedError
from hybridgen.integrations import liger
from hybridgen.layers.mixers.base import runs_as_written
from hybridgen.layers.mlp import Mlp
from hybridgen.layers.norms import Norm
from tests.helpers import liger_cases as cases

ROOT = Path(__file__).parent.parent.parent
NEEDS_LIGER = pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="no liger-kernel")


@pytest.fixture
def available(monkeypatch):
    """Changes models without looking for a GPU."""
    monkeypatch.setattr(liger, "check_available", lambda: None)


@NEEDS_LIGER
def test_models_with_interpreted_kernels_equal_ours():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TRITON_INTERPRET": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/integrations/interpreted_liger.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 40
    assert "skipped" not in done.stdout


@NEEDS_LIGER
def test_asking_without_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = cases.build("transformer")
    with pytest.raises(BackendUnavailableError, match=r"needs a CUDA GPU and triton.*own kernels run without asking"):
        liger.apply(model)
    with pytest.raises(BackendUnavailableError, match="CUDA"):
        liger._apply_liger_kernel_to_hybridgen()
    assert all(runs_as_written(one, type(one)) for one in model.modules())


def test_asking_without_the_package(monkeypatch):
    monkeypatch.setattr(liger, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=re.escape("pip install 'hybridgen[liger]'")):
        liger.apply(cases.build("transformer"))


@NEEDS_LIGER
def test_a_package_that_does_not_load(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    with pytest.raises(BackendUnavailableError, match="does not load"):
        liger.apply(cases.build("transformer"))


def test_models_that_are_not_ours():
    with pytest.raises(HybridgenError, match="finds none in Linear"):
        liger.apply(torch.nn.Linear(2, 2))
    with pytest.raises(HybridgenError, match="finds none in str"):
        liger.apply("model")
    with pytest.raises(UnsupportedError, match="float64"):
        liger.apply(cases.build("transformer", dtype="float64"))


@pytest.mark.parametrize("option", ["rms_norm", "swiglu", "rope"])
def test_each_option_stands_alone(available, option):
    model = cases.build("transformer")
    others = {"rms_norm", "swiglu", "rope", "fused_linear_cross_entropy"} - {option}
    first = liger.apply(model, **dict.fromkeys(others, False))
    assert first == liger.apply(model, **dict.fromkeys(others, False))
    counts = dict(zip(("rms_norm", "swiglu", "rope"), cases.REPLACED["transformer"], strict=True))
    assert first.replaced == {option: counts[option]}
    # Paths that do several modules in one call step aside.
    for kind in (Norm, Mlp):
        taken = {"rms_norm": Norm, "swiglu": Mlp}.get(option) is kind
        found = [one for one in model.modules() if isinstance(one, kind)]
        assert found
        assert all(runs_as_written(one, kind) is not taken for one in found)
    assert all((layer.mixer.rotate is not None) is (option == "rope") for layer in model.backbone.layers)


def test_what_is_left_alone_is_said(available):
    mixer = {"type": "attention", "num_heads": 4, "rotary_emb_dim": 8, "rotary_emb_interleaved": True, "mlp_dim": 256}
    blocks = {
        "a": {"mixer": mixer, "mlp": {"d_intermediate": 8, "multiple_of": 8, "gate_activation": "gelu"}},
        "m": {"mixer": cases.SSM, "mlp": {"d_intermediate": 8, "multiple_of": 8, "gated": False}},
    }
    stack = {"d_model": 32, "blocks": blocks, "pattern": "a m", "norm": {"type": "layer", "bias": False}}
    report = liger.apply(hg.build(hg.ModelSpec.model_validate(cases.document(stack))))
    assert set(report.replaced.values()) == {0}
    assert report.left["backbone.layers.0.mlp"] == "Liger has no gated MLP with gelu"
    assert report.left["backbone.layers.1.mlp"] == "Liger has no plain MLP with silu"
    assert report.left["backbone.layers.1.mixer.norm"] == "Liger has no gated norm"
    assert report.left["backbone.norm_f"] == "Liger's layer norm always has a bias, and no unit offset"
    said = report.left["backbone.layers.0.mixer"]
    assert said == (
        "the MLP beside the attention is part of it; "
        "Liger rotates by halves, and rotary_emb_interleaved pairs neighbouring channels"
    )


def test_copies_run_by_themselves(available):
    """A copy's `forward` is bound to the copy."""
    changed, _ = cases.with_liger(cases.build("transformer"))
    again = cases.copy.deepcopy(changed)
    assert again.backbone.norm_f.forward.__self__ is again.backbone.norm_f
