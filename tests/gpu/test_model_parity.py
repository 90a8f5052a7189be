"""Whole tiny models on CUDA: the same on the CPU, and the same with the kernels as with plain PyTorch."""

import pytest
import torch

import hybridgen as hg

OPS = ("causal_conv1d", "causal_conv1d_update", "selective_scan", "selective_state_update", "ssd_scan", "ssd_update")
SSM = {
    "mamba1": {"type": "mamba1"},
    "mamba2": {"type": "mamba2", "d_state": 64, "headdim": 32, "chunk_size": 64},
}


def _spec(ssm: str) -> hg.ModelSpec:
    backbone = {
        "d_model": 128,
        "n_layer": 4,
        "attn_layer_idx": [1],
        "ssm": SSM[ssm],
        "attn": {"num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 32},
        "attn_mlp_d_intermediate": 256,
    }
    document = {"input": {"type": "tokens", "vocab_size": 100}, "backbone": backbone, "head": {"type": "lm"}}
    return hg.ModelSpec.model_validate(document)


def _ids(device: str = "cuda") -> torch.Tensor:
    return torch.randint(0, 100, (2, 129), generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("ssm", SSM)
def test_weights_and_logits_are_those_of_the_cpu(ssm: str) -> None:
    on_cpu, on_gpu = (hg.build(_spec(ssm), device=device, seed=3) for device in ("cpu", "cuda"))
    for name, weight in on_gpu.state_dict().items():
        assert torch.equal(weight.cpu(), on_cpu.state_dict()[name])
    with torch.no_grad(), hg.use_backend("torch"):
        torch.testing.assert_close(on_gpu(_ids()).cpu(), on_cpu(_ids("cpu")), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("ssm", SSM)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_and_plain_path_agree(ssm: str, dtype: str, needs_kernel) -> None:
    needs_kernel(*OPS)
    model = hg.build(_spec(ssm), device="cuda", dtype=dtype)
    tolerance = {"float32": 2e-3, "bfloat16": 5e-2}[dtype]
    with torch.no_grad():
        with hg.use_backend("torch"):
            wanted = model(_ids())
        with hg.use_backend("mamba_ssm"):
            given = model(_ids())
    torch.testing.assert_close(given.float(), wanted.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("ssm", SSM)
def test_prefill_and_steps_equal_the_full_pass(ssm: str) -> None:
    model = hg.build(_spec(ssm), device="cuda")
    ids = _ids()
    with torch.no_grad():
        whole = model(ids)
        state = model.init_state(2, ids.shape[1])
        parts = [model(ids[:, :100], state=state)]
        parts += [model(ids[:, t : t + 1], state=state) for t in range(100, ids.shape[1])]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=2e-3, rtol=2e-3)


def test_generation_repeats_with_its_seed() -> None:
    model = hg.build(_spec("mamba2"), device="cuda", dtype="bfloat16")
    first, second = (hg.generate(model, _ids()[:, :5], max_new_tokens=20, seed=7) for _ in range(2))
    assert first.shape == (2, 25)
    assert torch.equal(first, second)
