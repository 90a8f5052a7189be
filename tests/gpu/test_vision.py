"""Image models on CUDA: the same as on the CPU in every order of scan, gradients included, and from kernels."""

from typing import Any

import pytest
import torch

import hybridgen as hg
from hybridgen.vision import create_model

SCANS: dict[str, dict[str, Any]] = {
    "v1": {"type": "mamba1", "bidirectional": "v1"},
    "v2": {"type": "mamba1", "bidirectional": "v2", "divide_out": True, "gate_activation": "gelu"},
    "vmamba": {"type": "mamba1", "scan": "vmamba", "scan_share": ["conv"]},
    "mamba2": {"type": "mamba2", "d_state": 64, "headdim": 32, "chunk_size": 64, "bidirectional": "v2"},
}


def _document(scan: str, **backbone: Any) -> dict[str, Any]:
    return {
        "input": {"type": "patches", "image_size": [64, 80], "patch_size": 16, "stride": 8, "cls_token": "middle"},
        "backbone": {
            "d_model": 64, "n_layer": 4, "attn_layer_idx": [2], "ssm": SCANS[scan], "attn": {"num_heads": 4},
            **backbone,
        },
        "head": {"type": "classifier", "num_classes": 10},
    }  # fmt: skip


def _images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scan", SCANS)
def test_logits_and_gradients_are_those_of_the_cpu(scan: str) -> None:
    results = {}
    for device in ("cpu", "cuda"):
        model = create_model(_document(scan), device=device, seed=3)
        logits = model(_images().to(device))
        logits.square().sum().backward()
        results[device] = [logits.detach().cpu(), *(weight.grad.cpu() for weight in model.parameters())]
    for wanted, given in zip(results["cpu"], results["cuda"], strict=True):
        torch.testing.assert_close(given, wanted, atol=2e-3 * float(wanted.abs().max()) + 1e-5, rtol=2e-3)


def test_pairs_rotation_and_maps() -> None:
    document = _document("v2", bidirectional="layers")
    document["input"] |= {"cls_token": "head", "rotary": "residual"}
    on_cpu, on_gpu = (create_model(document, device=device, seed=3).eval() for device in ("cpu", "cuda"))
    with torch.no_grad():
        wanted = on_cpu.forward_intermediates(_images(), [1, 3])[1]
        given = on_gpu.forward_intermediates(_images().cuda(), [1, 3])[1]
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_and_plain_path_agree(dtype: str, needs_kernel) -> None:
    needs_kernel("causal_conv1d", "selective_scan")
    model = create_model(_document("v2"), device="cuda", dtype=dtype).eval()
    images = _images().to("cuda", model.dtype)
    tolerance = {"float32": 2e-3, "bfloat16": 5e-2}[dtype]
    with torch.no_grad():
        with hg.use_backend("torch"):
            wanted = model(images)
        with hg.use_backend("mamba_ssm"):
            given = model(images)
    torch.testing.assert_close(given.float(), wanted.float(), atol=tolerance, rtol=tolerance)
