"""Selective attention in the extension, against the reference and the blocks in PyTorch."""

import pytest
import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native
from hybridgen.ops.backends import use_backend
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Extras, Options, attend_densely
from hybridgen.ops.selective_attention.table import attend_with_table
from tests.helpers.tolerances import assert_close
from tests.ops.test_selective_attention import OPTIONS, SCALE, compare, leaves, make, only

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension is not built")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Heads, their groups, and widths: whole vectors and panels, tails of every kind, one of each.
SIZES = [
    {"H": 3, "K": 3, "P": 64},
    {"H": 8, "K": 2, "P": 32, "V": 48},
    {"H": 3, "K": 1, "P": 33, "V": 7},
    {"H": 5, "K": 5, "P": 1, "V": 1},
    {"H": 3, "K": 1, "P": 130, "V": 129},
]


@pytest.fixture(autouse=True)
def _native():
    with use_backend("native"):
        yield


def both(tensors, kwargs):
    """The results of the extension and of the blocks."""
    ours = selective_attention(*tensors, SCALE, **kwargs, backend="native")
    return ours, selective_attention(*tensors, SCALE, **kwargs, backend="torch")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_reference_in_every_type(name, dtype):
    for T in (1, 3, 21):
        compare(T, OPTIONS[name], dtype=dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", ["plain", "earlier", "everything"])
def test_every_size(name, sizes):
    for dtype in (torch.float64, torch.float32):
        compare(67, OPTIONS[name], dtype=dtype, batch=1, **sizes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_long_forward_equals_the_blocks(name, dtype):
    """Several blocks and tiles, and a batch that is not a multiple of the threads."""
    tensors, kwargs = make(200, {**OPTIONS[name], "earlier": 90}, batch=3, dtype=dtype)
    (y, after), (expected, expected_after) = both(tensors, kwargs)
    assert_close(y, expected)
    assert_close(after / 100, expected_after / 100, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("earlier", [0, 1, 63, 64, 255, 256, 700])
def test_one_query(earlier, dtype):
    for name in OPTIONS:
        tensors, kwargs = make(1, {**OPTIONS[name], "earlier": earlier}, dtype=dtype)
        for part, other in zip(*both(tensors, kwargs), strict=True):
            assert_close(part, other, dtype, name)


def test_several_products_with_heads_of_their_own():
    first, kwargs = make(70, {"starts": True, "earlier": 9}, H=4, K=2)
    second, _ = make(70, {"earlier": 9}, H=4, K=4, P=5, seed=3)
    third, _ = make(70, {"earlier": 9}, H=4, K=1, P=3, seed=4)
    inputs = [tensor.requires_grad_() for part in (first, second[:2], third[:2]) for tensor in part]
    q, k = [inputs[0], inputs[3], inputs[5]], [inputs[1], inputs[4], inputs[6]]
    results = []
    for backend in ("native", "torch"):
        y, after = selective_attention(q, k, inputs[2], SCALE, **kwargs, backend=backend)
        results.append((y, after, *torch.autograd.grad(y.square().sum() + after.sum(), inputs)))
    for part, other in zip(*results, strict=True):
        scale = other.abs().max().clamp(min=1.0)
        assert_close(part / scale, other / scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_choosers_may_be_wide(dtype):
    """A narrow queries' scale is applied in the precision of the arithmetic, so what other layers chose comes wide."""
    tensors, kwargs = make(70, {"choosers": True, "earlier": 5}, dtype=dtype)
    (q, k), (other_q, other_k) = kwargs["choosers"]
    kwargs["choosers"] = [(q.float(), k), (other_q.float(), other_k.float())]
    inputs = leaves(tensors, kwargs)
    results = []
    for backend in ("native", "torch"):
        y, after = selective_attention(*tensors, SCALE, **kwargs, backend=backend)
        grads = torch.autograd.grad(y.sum() + after.sum(), inputs)
        assert [grad.dtype for grad in grads] == [leaf.dtype for leaf in inputs]
        results.append((y, after, *grads))
    for part, other in zip(*results, strict=True):
        scale = other.abs().max().clamp(min=1.0)
        assert_close(part.double() / scale, other.double() / scale, dtype)
    for part, other in zip(*both([t[:, :, -1:] if i == 0 else t for i, t in enumerate(tensors)], {
        "choosers": [(q[:, -1:], k) for q, k in kwargs["choosers"]]
    }), strict=True):  # fmt: skip
        assert_close(part, other, dtype)


def test_without_causality():
    starts = torch.zeros(2, 90, dtype=torch.int64)
    starts[0, 40:] = 40
    tensors, _ = make(90, {})
    inputs = [tensor.requires_grad_() for tensor in tensors]
    for more in ({}, {"starts": starts}, {"starts": starts, "slopes": torch.ones(4).double(), "softcap": 2.0}):
        results = []
        for backend in ("native", "torch"):
            y, _ = selective_attention(*inputs, SCALE, None, causal=False, backend=backend, **more)
            results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
        for part, other in zip(*results, strict=True):
            assert_close(part, other)


def test_views_are_read_in_place():
    tensors, kwargs = make(70, {**OPTIONS["everything"], "window": 40}, P=8, dtype=torch.float32)
    expected = selective_attention(*tensors, SCALE, **kwargs)
    packed = [torch.cat((t.transpose(1, 2), t.transpose(1, 2)), dim=-1) for t in tensors]
    views = [t[..., :8].transpose(1, 2) for t in packed]
    apart = [t.mT.contiguous().mT for t in tensors]
    kwargs["until"] = torch.stack((kwargs["until"],) * 3, dim=-1)[..., 1]
    kwargs["starts"] = kwargs["starts"].to(torch.int32)
    for strided in (views, apart):
        for part, other in zip(selective_attention(*strided, SCALE, **kwargs), expected, strict=True):
            assert torch.equal(part, other)


@pytest.mark.parametrize("name", ["plain", "everything", "choosers", "row-alone"])
def test_gradcheck_over_blocks(name):
    """With queries in two blocks, so that the sums between blocks are differentiated too."""
    tensors, kwargs = make(66, {**OPTIONS[name], "window": None}, H=3, K=1, P=2, batch=1)
    inputs = leaves(tensors, kwargs)

    def call(q, k, v, *_):
        return selective_attention(q, k, v, SCALE, **kwargs)

    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "everything", "row-alone"])
def test_opcheck(name):
    tensors, kwargs = make(7, OPTIONS[name], dtype=torch.float32)
    leaves(tensors, kwargs)
    order = ("sinks", "hidden", "starts", "slopes", "until")
    options = (
        SCALE, kwargs.get("selection_head", 0), kwargs.get("protect_bos", True), kwargs.get("window"),
        kwargs.get("softcap"), True, kwargs.get("over_time", True),
    )  # fmt: skip
    q, k, v = tensors
    choosers = [list(one) for one in zip(*kwargs.get("choosers", ()), strict=True)] or [[], []]
    arguments = ([q], [k], v, *(kwargs.get(key) for key in order), *choosers, *options, True)
    torch.library.opcheck(native.OPS.selective_attention.default, arguments)
    with torch.no_grad():
        y, after, sums, kept = native.OPS.selective_attention(*arguments)
    backward = (*arguments[:4], *arguments[5:-1], y, sums, kept, torch.ones_like(y), torch.ones_like(after))
    detached = torch.utils._pytree.tree_map(lambda x: x.detach() if torch.is_tensor(x) else x, backward)
    torch.library.opcheck(native.OPS.selective_attention_backward.default, detached)
    table = torch.zeros(2, 4, k.shape[2], 7).mT
    few = [t.detach() for t in tensors]
    torch.library.opcheck(
        native.OPS.selective_attention_table.default,
        (*few, None, None, None, SCALE, 0, True, None, None, True, None, 1.0, table),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("T", [1, 150])
def test_what_is_not_finite_stays_with_those_who_see_it(value, T):
    """A row of the batch, the sequence before, and the tokens before know nothing of it."""
    bad, sequences = 100, T > 1
    (q, k, v), _ = make(T, {"earlier": 150 - T}, dtype=torch.float32)
    starts = torch.zeros(2, T, dtype=torch.int64)
    starts[:, 120 - (150 - T) :] = 120
    for tensor in (k, v):
        tensor[0, :, bad] = value
    y, after = selective_attention(q, k, v, SCALE, starts=starts)
    clean = [tensor.clone() for tensor in (q, k, v)]
    for tensor in clean[1:]:
        tensor[0, :, bad] = 0
    expected, expected_after = selective_attention(*clean, SCALE, starts=starts)
    assert y[1].isfinite().all()
    assert torch.equal(after[1], expected_after[1])
    if sequences:
        assert torch.equal(y[0, :, :bad], expected[0, :, :bad])
        assert torch.equal(y[0, :, 120:], expected[0, :, 120:])
        assert not y[0, :, bad:120].isfinite().all()
    else:
        assert torch.equal(y, expected)


def test_no_keys_no_queries_no_rows():
    for T, earlier, batch in ((0, 0, 2), (0, 5, 2), (3, 0, 0), (1, 4, 0)):
        tensors, kwargs = make(T, {"earlier": earlier, "sinks": True}, batch=batch)
        inputs = leaves(tensors, kwargs)
        (y, after), (expected, expected_after) = both(tensors, kwargs)
        assert torch.equal(y, expected)
        assert torch.equal(after, expected_after)
        assert all(not grad.any() for grad in torch.autograd.grad(y.sum(), inputs[:3]))


@pytest.mark.parametrize("batch", [1, 5])
def test_runs_are_equal_bit_by_bit(batch):
    tensors, kwargs = make(200, OPTIONS["everything"], dtype=torch.float32, batch=batch)
    inputs = leaves(tensors, kwargs)

    def run():
        y, after = selective_attention(*tensors, SCALE, **kwargs)
        return y, after, *torch.autograd.grad(y.sum() + after.sum(), inputs)

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


def test_forward_does_not_depend_on_the_threads():
    tensors, kwargs = make(200, OPTIONS["everything"], dtype=torch.float32, batch=1)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(selective_attention(*tensors, SCALE, **kwargs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 20, "softcap": 2.0, "sinks": True}, {"starts": True}], ids=str)
@pytest.mark.parametrize(("T", "earlier"), [(1, 0), (1, 300), (5, 2), (150, 0), (70, 131)])
def test_table_of_scores(T, earlier, options, dtype):
    """Three layers that add up their scores, in one table; what a later, wider window may see is in it."""
    extras_of = ("sinks", "starts")
    ours = theirs = None
    for number in range(3):
        (q, k, v), kwargs = make(T, {**options, "earlier": earlier}, dtype=dtype, seed=number)
        extras = Extras(*(kwargs.get(name) for name in extras_of))
        given = Options(SCALE, 1 if number else None, True, kwargs.get("window"), kwargs.get("softcap"))
        arguments = (q, k, v, kwargs.get("hidden"), extras, given)
        y, after, ours = attend_with_table(*arguments, ours, 1 / (number + 1))
        found = attend_densely(*arguments, theirs, 1 / (number + 1))
        theirs = found.total
        assert_close(y, found.y)
        assert_close(after, found.hidden, dtype)
        seen = torch.ones(T, T + earlier, dtype=torch.bool).tril(earlier)
        assert_close(ours.masked_fill(~seen, 0), theirs.masked_fill(~seen, 0), dtype)


def test_a_table_with_slopes_is_not_the_kernels():
    (q, k, v), _ = make(70, {})
    extras = Extras(slopes=torch.tensor([0.5, 0.25, 0.1, 0.0], dtype=torch.float64))
    arguments = (q, k, v, None, extras, Options(SCALE, 0, True, None, None), None, 1.0)
    with pytest.raises(BackendUnavailableError, match="no slopes"):
        attend_with_table(*arguments)
    with use_backend("auto"):
        y, after, _ = attend_with_table(*arguments)
    expected = attend_densely(*arguments)
    assert_close(y, expected.y)
    assert_close(after, expected.hidden)


def test_a_table_is_taken_over_in_place():
    (q, k, v), _ = make(70, {})
    arguments = (q, k, v, None, Extras(), Options(SCALE, 0, True, None, None))
    _, _, table = attend_with_table(*arguments, None, 1.0)
    before = table.clone()
    _, _, again = attend_with_table(*arguments, table, 1.0)
    assert again.data_ptr() == table.data_ptr()
    assert not torch.equal(table, before)


def test_what_the_kernel_cannot_do_is_worded():
    (q, k, v), _ = make(4, {})
    with pytest.raises(BackendUnavailableError, match="in one of float32, float64"):
        selective_attention(q.float(), k, v, SCALE, backend="native")
    with pytest.raises(RuntimeError, match="selective_attention: k must have shape"):
        native.OPS.selective_attention(
            [q], [k[:, :, :3]], v, None, None, None, None, None, [], [], 1.0, 0, True, None, None, True, True, False
        )
    with pytest.raises(RuntimeError, match="queries of total must be dense"):
        native.OPS.selective_attention_table(
            q, k, v, None, None, None, 1.0, 0, True, None, None, True, None, 1.0, torch.zeros(2, 4, 4, 4).double()
        )


def test_rows_of_a_batch_are_their_own():
    tensors, kwargs = make(80, OPTIONS["everything"], batch=3)
    y, after = selective_attention(*tensors, SCALE, **kwargs)
    for row in range(3):
        own = {name: value if name in ("sinks", "slopes") else only(row, value) for name, value in kwargs.items()}
        alone = selective_attention(*(tensor[row : row + 1] for tensor in tensors), SCALE, **own)
        assert torch.equal(alone[0], y[row : row + 1])
        assert torch.equal(alone[1], after[row : row + 1])
