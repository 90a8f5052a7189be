"""On CUDA, models with Liger's kernels compute what they compute with ours, gradients included."""

import importlib.util

import pytest
import torch

from hybridgen.integrations import liger
from hybridgen.ops.linear_cross_entropy import linear_cross_entropy
from tests.helpers import liger_cases as cases
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed"
)


@pytest.mark.parametrize("name", cases.STACKS)
@pytest.mark.parametrize("padded", [False, True])
def test_models_in_float32(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model = cases.build(name, "cuda")
    changed, report = cases.with_liger(model)
    assert tuple(report.replaced.values()) == (*cases.REPLACED[name], 0)
    options = {"mask": cases.left_padding().cuda()} if padded else {}
    given, expected = (cases.outcome(one, "cuda", **options) for one in (changed, model))
    torch.testing.assert_close(given[0], expected[0], atol=1e-3, rtol=1e-3)
    for key, gradient in expected[1].items():
        torch.testing.assert_close(
            given[1][key], gradient, atol=5e-3, rtol=5e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", cases.STACKS)
def test_models_in_bfloat16(name: str) -> None:
    """As near to float32 as ours are: Liger rounds the open gate before the product."""
    exact = cases.build(name, "cuda")
    model = cases.build(name, "cuda", "bfloat16")
    model.load_state_dict(exact.state_dict())
    changed, _ = cases.with_liger(model)
    expected = cases.outcome(exact, "cuda")[0]
    given, ours = ((cases.outcome(one, "cuda")[0].float() - expected).norm() for one in (changed, model))
    assert given < 2 * ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"logit_scale": 0.3, "logit_softcap": 2.0}], ids=str)
@pytest.mark.parametrize("head_alone", [False, True])
def test_loss(dtype: torch.dtype, options: dict[str, float], head_alone: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator).to("cuda", dtype) for shape in ((300, 64), (1000, 64), (1000,))
    )
    labels = torch.randint(0, 1000, (300,), generator=generator).cuda()
    labels[::5] = -100
    leaves = [weight, bias] if head_alone else [hidden, weight, bias]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for op in (liger.linear_cross_entropy, linear_cross_entropy):
        loss = op(hidden, weight, labels, bias, **options)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for a, e in zip(*results, strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e, dtype)
