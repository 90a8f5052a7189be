"""The native linear map of few rows."""

import pytest
import torch
import torch.nn.functional as F

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native
from hybridgen.ops.backends import use_backend
from hybridgen.ops.linear import linear
from hybridgen.ops.linear import native as native_linear
from hybridgen.ops.linear.reference import linear_reference
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension is not built")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _case(M, K, N, dtype, bias=True):
    generator = torch.Generator().manual_seed(M * 1000 + K + N)
    shapes = [(M, K), (N, K), (N,)]
    x, weight, b = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight / max(K, 1) ** 0.5, b if bias else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", range(9))
def test_equals_the_reference(M, dtype):
    for K, N in ((0, 3), (1, 1), (5, 7), (16, 4), (37, 6), (64, 13), (100, 5)):
        arguments = _case(M, K, N, dtype, bias=K % 2 == 1)
        actual = linear(*arguments, backend="native")
        assert actual.dtype == dtype
        assert_close(actual, linear_reference(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_sizes_use_all_threads_and_equal_pytorch(dtype):
    x, weight, bias = _case(3, 515, 1031, dtype)
    expected = F.linear(x.double(), weight.double(), bias.double())
    assert_close(linear(x, weight, bias, backend="native"), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_company_or_on_threads(dtype):
    x, weight, bias = _case(8, 333, 517, dtype)
    whole = linear(x, weight, bias, backend="native")
    for M in range(1, 8):
        assert torch.equal(linear(x[:M], weight, bias, backend="native"), whole[:M])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(linear(x, weight, bias, backend="native"), whole)
    finally:
        torch.set_num_threads(threads)


def test_more_rows_than_fit_into_one_pass():
    x, weight, bias = _case(21, 50, 9, torch.float32)
    assert_close(native.OPS.linear_rows(x, weight, bias), linear_reference(x, weight, bias))


def test_views_are_read_in_place():
    x, weight, bias = _case(6, 40, 12, torch.float32)
    for a, w, b in (
        (x[::2], weight, bias),
        (x[:, 3:33], weight[:, 5:35], bias),
        (x[:, ::2], weight[::2, ::2], bias[::2]),
        (x.T.contiguous().T, weight.T.contiguous().T, bias.repeat_interleave(2)[::2]),
        (x[0], weight, bias),
        (x[:1].expand(4, -1), weight, None),
        (x.view(2, 3, 40), weight, bias),
        (x.view(2, 3, 40)[:, -1:], weight, None),
        (x.view(2, 3, 40).transpose(0, 1), weight, bias),
    ):
        assert_close(linear(a, w, b, backend="native"), linear_reference(a, w, b))


def test_nan_and_inf_pass_through():
    x, weight, bias = _case(4, 40, 9, torch.float32)
    x[1, 3], x[2, 39], weight[5, 0] = float("nan"), float("inf"), float("inf")
    torch.testing.assert_close(linear(x, weight, bias, backend="native"), F.linear(x, weight, bias), equal_nan=True)


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(bias):
    torch.library.opcheck(native.OPS.linear_rows.default, _case(3, 20, 7, torch.float32, bias))


def _calls_native(monkeypatch, x, weight, bias=None, **options):
    calls = []
    monkeypatch.setattr(native_linear, "linear_native", lambda *a: calls.append(a) or F.linear(*a))
    linear(x, weight, bias, **options)
    return bool(calls)


def test_auto_takes_it_for_few_rows_without_gradient(monkeypatch):
    x, weight, bias = _case(8, 20, 7, torch.float32)
    assert _calls_native(monkeypatch, x, weight, bias)
    assert not _calls_native(monkeypatch, x.repeat(3, 1), weight, bias)
    assert not _calls_native(monkeypatch, x.double(), weight.double(), bias.double())
    assert not _calls_native(monkeypatch, x, weight, bias, backend="torch")
    weight.requires_grad_()
    assert not _calls_native(monkeypatch, x, weight, bias)
    with torch.no_grad():
        assert _calls_native(monkeypatch, x, weight, bias)
        with use_backend("torch"):
            assert not _calls_native(monkeypatch, x, weight, bias)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not _calls_native(monkeypatch, x, weight, bias)


def test_native_in_force_leaves_many_rows_and_gradients_to_pytorch():
    x, weight, _ = _case(40, 20, 7, torch.float32)
    with use_backend("native"):
        assert_close(linear(x, weight), F.linear(x, weight))
        assert linear(x[:2], weight.requires_grad_()).requires_grad


def test_insisting_on_it_names_what_it_cannot_do():
    x, weight, bias = _case(17, 20, 7, torch.float32)
    with pytest.raises(BackendUnavailableError, match="it is for 16 rows at most"):
        linear(x, weight, bias, backend="native")
    with pytest.raises(BackendUnavailableError, match="it has no gradient"):
        linear(x[:2].requires_grad_(), weight, bias, backend="native")
    with pytest.raises(BackendUnavailableError, match="the same for x, weight and bias"):
        linear(x[:2].bfloat16(), weight, bias, backend="native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x, w[:, 1:], b), r"weight must have shape \(7, 20\), but has \(7, 19\)"),
        (lambda x, w, b: (x, w, b[1:]), r"bias must have shape \(7\), but has \(6\)"),
        (lambda x, w, b: (x, w.half(), b), "weight must be float32, but is float16"),
        (lambda x, w, b: (x.double(), w, b), "x must be float32, bfloat16 or float16, but is float64"),
        (
            lambda x, w, b: (x, w[0], b),
            r"x must have one dimension or more and weight two, but x has shape \(2, 20\) and weight \(20\)",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(RuntimeError, match=f"linear_rows: {message}"):
        native.OPS.linear_rows(*change(*_case(2, 20, 7, torch.float32)))


def test_compiled_code_has_pytorchs_product(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not _calls_native(monkeypatch, *_case(2, 20, 7, torch.float32))
