"""Residual addition and norm: the kernels against the reference, and what they promise to autograd and compile."""

import pytest
import torch
from torch import Tensor

from hybridgen.errors import BackendUnavailableError, ShapeError
from hybridgen.ops import native
from hybridgen.ops.add_norm import add_norm, norm
from hybridgen.ops.add_norm.reference import add_norm_reference
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")

OPS = native.OPS
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
# Dtypes of branch, residual, weight and sum.
MIXTURES = [(F64,) * 4, (F32,) * 4, (BF16,) * 4, (F16,) * 4, (BF16, F32, BF16, F32), (F16, F32, F32, F32)]
MIXTURES += [(F32, BF16, BF16, F16)]


def randn(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def tensors(shape, dtypes, bias=True) -> list[Tensor | None]:
    D = shape[-1]
    made = [randn(*shape, dtype=dtypes[0]), randn(*shape, dtype=dtypes[1], seed=1), randn(D, dtype=dtypes[2], seed=2)]
    return [*made, randn(D, dtype=dtypes[2], seed=3) if bias else None]


def run(arguments, kind, total_dtype, backend, offset=0.0):
    """The results and, of a weighted sum of them, the gradients."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in arguments]
    normed, total = add_norm(*leaves, 1e-5, kind, offset, total_dtype, backend)
    loss = (normed.double() * randn(*normed.shape, seed=4)).sum() + (total.double() * randn(*total.shape, seed=5)).sum()
    return normed, total, *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])


@pytest.mark.parametrize("dtypes", MIXTURES, ids=str)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_values_and_gradients_are_those_of_the_reference_and_of_torch(dtypes, kind):
    for shape, bias, offset in [
        ((3, 5, 37), True, 0.0),
        ((1, 2), False, 1.0),
        ((2, 4, 64), False, 0.0),
        ((200,), True, 1.0),
    ]:
        arguments = tensors(shape, dtypes, bias)
        normed, total, *gradients = run(arguments, kind, dtypes[3], "native", offset)
        expected, sum_ = add_norm_reference(*arguments, 1e-5, kind, offset)
        assert (normed.dtype, total.dtype) == (dtypes[2], dtypes[3])
        assert_close(normed, expected)
        assert_close(total, sum_)
        plain, plain_total, *wanted = run(arguments, kind, dtypes[3], "torch", offset)
        assert torch.equal(total, plain_total)
        assert_close(normed, plain)
        for given, gradient in zip(gradients, wanted, strict=True):
            assert given.dtype == gradient.dtype
            assert_close(given, gradient, dtype=max(dtypes, key=lambda dtype: torch.finfo(dtype).eps))


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_without_a_residual_or_without_the_sum(kind):
    branch, residual, weight, bias = tensors((2, 3, 19), (BF16,) * 4)
    normed, total = add_norm(branch, None, weight, bias, 1e-5, kind, 0.0, F32, "native")
    assert_close(normed, add_norm_reference(branch, None, weight, bias, 1e-5, kind)[0])
    assert total.dtype == F32
    assert torch.equal(total, branch.float())
    for other in (None, residual):
        results = []
        for backend in ("native", "torch"):
            leaves = [t.detach().requires_grad_() for t in (branch, weight, bias)]
            out = norm(leaves[0], other, *leaves[1:], 1e-5, kind, 0.0, backend)
            results.append((out, *torch.autograd.grad(out.float().square().sum(), leaves)))
        for given, wanted in zip(*results, strict=True):
            assert_close(given, wanted)


def test_only_the_sum_is_used():
    leaves = [t.requires_grad_() for t in tensors((2, 3, 8), (BF16, F32, BF16, F32), bias=False)[:3]]
    total = add_norm(*leaves, None, 1e-5, "rms", 0.0, F32, "native")[1]
    d_branch, d_residual, d_weight = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
    assert torch.equal(d_branch, torch.ones(2, 3, 8, dtype=BF16))
    assert torch.equal(d_residual, torch.ones(2, 3, 8))
    assert d_weight is None or not d_weight.any()


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_gradcheck(kind):
    leaves = [t.requires_grad_() for t in tensors((2, 3, 11), (F64,) * 4)]
    torch.autograd.gradcheck(lambda *t: add_norm(*t, 1e-5, kind, 1.0, F64, "native"), leaves)
    torch.autograd.gradcheck(lambda b, r, w, c: norm(b, r, w, c, 1e-5, kind, 0.0, "native"), leaves)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (1,)])
def test_empty_and_small_tensors(shape):
    arguments = tensors(shape, (F32,) * 4)
    normed, total, *gradients = run(arguments, "rms", F32, "native")
    assert normed.shape == total.shape == shape
    assert [g.shape for g in gradients] == [t.shape for t in arguments]
    assert all(torch.isfinite(g).all() for g in gradients)


def test_tensors_of_any_strides():
    weight = randn(20, dtype=F32)[::2]
    views = [randn(4, 6, 10), randn(4, 10, 6).mT, randn(4, 6, 13)[..., 3:], randn(1, 6, 10).expand(4, 6, 10)]
    views = [view.float() for view in views] + [randn(6, 4, 10, dtype=F32).transpose(0, 1)]
    for branch in views:
        for residual in views:
            results = [run((branch, residual, weight, None), "layer", F32, backend) for backend in ("native", "torch")]
            for given, wanted in zip(*results, strict=True):
                assert_close(given, wanted)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_nan_and_infinity_stay_in_their_row_as_in_torch(kind):
    branch, residual, weight, bias = tensors((6, 35), (F32,) * 4)
    branch[1, 3], branch[2, 34], residual[3, 0], branch[4, 5] = torch.nan, torch.inf, -torch.inf, 1e30
    branch[5], residual[5] = 0, 0
    given, wanted = (add_norm(branch, residual, weight, bias, 1e-5, kind, 0.0, F32, b) for b in ("native", "torch"))
    rows = [0, 1, 2, 3, 5] if kind == "layer" else slice(None)  # the square of 1e30 overflows in one of the two
    for a, b in zip(given, wanted, strict=True):
        if kind == "rms" or a is given[1]:
            torch.testing.assert_close(a[rows], b[rows], equal_nan=True, rtol=1e-4, atol=1e-5)
        assert a[[0, 5]].isfinite().all()


@pytest.mark.parametrize(
    "test", ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
)
def test_opcheck(test):
    branch, residual, weight, bias = tensors((2, 3, 7), (F32,) * 4)
    leaves = [t.clone().requires_grad_() for t in (branch, residual, weight, bias)]
    for arguments in [(*leaves, 1.0, 1e-5, False, F32), (leaves[0], None, leaves[2], None, 0.0, 1e-5, True, None)]:
        torch.library.opcheck(OPS.add_norm.default, arguments, test_utils=test)
    for more in [
        (residual, weight, bias, 0.0, 1e-5, False, F32, BF16),
        (None, weight, None, 0.0, 1e-5, True, F32, None),
    ]:
        torch.library.opcheck(OPS.add_norm_backward.default, (branch, residual, branch, *more), test_utils=test)


def test_the_result_depends_on_neither_the_run_nor_the_threads():
    arguments = tensors((3, 300, 129), (F32,) * 4)
    first = run(arguments, "layer", F32, "native")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            assert all(map(torch.equal, first, run(arguments, "layer", F32, "native")))
    finally:
        torch.set_num_threads(threads)


def test_wrong_calls_are_refused_or_named(no_shape_checks):
    x, w = torch.ones(2, 3, 4), torch.ones(4)
    with pytest.raises(BackendUnavailableError, match="does not mix float64 with other dtypes"):
        add_norm(x, x.double(), w, None, 1e-5, "rms", backend="native")
    with pytest.raises(BackendUnavailableError, match=r"it has no torch.int32 kernel"):
        norm(x.int(), None, w, None, 1e-5, "rms", backend="native")
    with pytest.raises(ShapeError, match=r"add_norm: residual must have shape \(2, 3, 4\), but has \(3, 4\)"):
        add_norm(x, x[0], w, None, 1e-5, "rms")
    with pytest.raises(RuntimeError, match=r"add_norm: weight must have shape \(4\), but has \(3\)"):
        OPS.add_norm(x, None, w[1:], None, 0.0, 1e-5, True, None)
    with pytest.raises(RuntimeError, match="without a residual there is no sum to return"):
        OPS.add_norm(x, None, w, None, 0.0, 1e-5, True, F32)
    assert add_norm(x, x.double(), w, None, 1e-5, "rms", residual_dtype=F64)[1].dtype == F64
