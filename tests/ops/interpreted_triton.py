"""The Triton kernels of selective attention under Triton's interpreter, against the reference.

`test_triton_selective_attention.py` runs this file in a process of its own: whether Triton compiles or interprets is
settled when the kernels are imported.
"""

import numpy as np
import pytest
import torch
from triton.language import float32
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops.backends import use_backend
from hybridgen.ops.selective_attention import selective_attention, triton_launch
from hybridgen.ops.selective_attention.registration import selective_attention_op
from hybridgen.ops.selective_attention.triton_op import triton_backward_op, triton_op
from tests.helpers.tolerances import assert_close
from tests.ops.test_selective_attention import SCALE, compare, leaves, make

# The interpreter divides and takes logarithms in rows that are then masked out.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
CASES = {
    "plain": {},
    "window-softcap": {"window": 4, "softcap": 1.5, "selection_head": 1},
    "window-of-one": {"window": 1, "earlier": 7, "hidden": False},
    "starts-slopes": {"starts": True, "slopes": True},
    "earlier-sinks": {"earlier": 7, "sinks": True, "protect_bos": False},
    "nothing-hidden": {"selection_head": None, "softcap": 2.0, "sinks": True, "starts": True},
}
TOGETHER = {
    "selection_head": 2, "protect_bos": False, "window": 11, "softcap": 2.0, "sinks": True, "starts": True,
    "earlier": 6, "slopes": True,
}  # fmt: skip
SMALL = triton_launch.Tiles(rows=16, keys=16, warps=4, stages=1)


@pytest.fixture(autouse=True)
def _on_triton(monkeypatch):
    """Small tiles, so that a few queries fall into several blocks; and no float32 call may run elsewhere."""
    monkeypatch.setattr(triton_launch, "tiles_of", lambda *_: SMALL)
    with use_backend("triton"):
        yield


@pytest.fixture
def exact_products(monkeypatch):
    """Triton's interpreter multiplies the bits of bfloat16 numbers as if they were integers; here it widens them."""
    multiply = InterpreterBuilder.create_dot

    def widened(handle):
        if handle.data.dtype != np.uint16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), float32)

    def create_dot(self, a, b, *more):
        return multiply(self, widened(a), widened(b), *more)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name):
    compare(19, CASES[name], dtype=torch.float32, batch=1, H=3, K=3 if name == "plain" else 1, V=5)


def test_options_together():
    compare(19, TOGETHER, dtype=torch.float32, H=4, K=2)


@pytest.mark.parametrize("sizes", [{"H": 1, "K": 1, "P": 1, "V": 1}, {"H": 3, "K": 1, "P": 17, "V": 3}], ids=str)
def test_odd_sizes(sizes):
    compare(9, {"earlier": 12}, dtype=torch.float32, batch=1, **sizes)
    compare(1, {"earlier": 3}, dtype=torch.float32, batch=1, **sizes)


@pytest.mark.parametrize(("T", "batch"), [(0, 2), (4, 0)])
def test_nothing_to_do(T, batch):
    compare(T, {"earlier": 3}, dtype=torch.float32, batch=batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smaller_types(exact_products, dtype):
    compare(12, TOGETHER, dtype=dtype, batch=1, H=3, K=1)


def test_gradient_of_hidden_in_several_pieces(monkeypatch):
    """With room for one block only, the table of F's gradient is made anew for each."""
    monkeypatch.setattr(triton_launch, "TABLE_BYTES", 1)
    compare(36, {}, dtype=torch.float32, batch=1, H=1, K=1)


def test_strided_arguments():
    tensors, kwargs = make(11, TOGETHER, dtype=torch.float32, batch=1)
    expected = selective_attention(*tensors, SCALE, **kwargs)
    views = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    apart = [torch.stack((tensor, tensor), dim=-1)[..., 0] for tensor in tensors]
    for strided in (views, apart):
        for part, other in zip(selective_attention(*strided, SCALE, **kwargs), expected, strict=True):
            assert torch.equal(part, other)


def test_later_tokens_change_nothing():
    (q, k, v), _ = make(36, {}, dtype=torch.float32, batch=1, H=2)
    y, _ = selective_attention(q, k, v, SCALE)
    changed = [tensor.clone() for tensor in (q, k, v)]
    for tensor in changed:
        tensor[:, :, 21:] = 1e3
    z, _ = selective_attention(*changed, SCALE)
    assert torch.equal(y[:, :, :21], z[:, :, :21])
    assert not torch.equal(y[:, :, 21:], z[:, :, 21:])


def test_pieces_equal_the_whole():
    (q, k, v), _ = make(20, {}, dtype=torch.float32, batch=1, H=2)
    whole, last = selective_attention(q, k, v, SCALE)
    hidden, end, parts = torch.zeros(1, 0), 0, []
    for length in (17, 1, 2):
        begin, end = end, end + length
        y, hidden = selective_attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], SCALE, hidden=hidden)
        parts.append(y)
    assert_close(torch.cat(parts, dim=2), whole)
    assert_close(hidden, last)


def test_opcheck():
    tensors, kwargs = make(7, TOGETHER, dtype=torch.float32, batch=1)
    leaves(tensors, kwargs)
    beside = [kwargs[name] for name in ("sinks", "hidden", "starts", "slopes")]
    arguments = (*tensors, *beside, SCALE, 2, False, 11, 2.0, True)
    # Tracing the call would trace the interpreter.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_op, arguments, test_utils=tests)
    plain = [value.detach() if torch.is_tensor(value) else value for value in arguments]
    y, after, sums, carries = triton_op(*plain)
    backward = (*plain[:4], *plain[5:-1], y, sums, carries, torch.ones_like(y), torch.ones_like(after))
    torch.library.opcheck(triton_backward_op, backward, test_utils=tests)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float64}, "in one of float32, bfloat16 and float16, but was given torch.float64"),
        ({"until": True}, "its keys have no end"),
        ({"choosers": True}, "it has no choosers beside the selection head"),
        ({"over_time": False}, "it is causal, and what is hidden adds up"),
        ({"causal": False, "selection_head": None}, "it is causal"),
        ({"P": 129}, "its heads of torch.float32 are 1 ... 128 wide, not 129 and 129"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_what_it_cannot_do_runs_elsewhere(monkeypatch, change, reason):
    sizes = {"dtype": torch.float32} | {key: value for key, value in change.items() if key in ("dtype", "P")}
    options = {key: value for key, value in change.items() if key not in sizes}
    tensors, kwargs = make(5, options, batch=1, **sizes)
    with pytest.raises(BackendUnavailableError, match=f"backend 'triton' cannot do this call: .*{reason}"):
        selective_attention(*tensors, SCALE, **kwargs)
    y, _ = selective_attention(*tensors, SCALE, **kwargs, backend="torch")
    assert y.isfinite().all()


def test_several_queries_and_unequal_heads_run_elsewhere():
    (q, k, v), _ = make(5, {}, dtype=torch.float32)
    with pytest.raises(BackendUnavailableError, match="it adds no scores of several queries and keys"):
        selective_attention([q, q], [k, k], v, SCALE)
    with pytest.raises(BackendUnavailableError, match="as many heads of values as of keys, but was given 1 and 2"):
        selective_attention([q], [k], v[:, :1], SCALE)


def test_carries_are_those_of_the_blocks():
    """What is kept for the backward pass is F at the start of each block of queries."""
    (q, k, v), _ = make(40, {"earlier": 5}, dtype=torch.float32, batch=1, H=2)
    _, _, sums, carries = triton_op(q, k, v, None, None, None, None, SCALE, 0, True, None, None, True)
    assert carries.shape == (3, 1, 45)
    wanted = torch.zeros(1, 45)
    for block in range(3):
        assert_close(carries[block], wanted)
        begin, end = 16 * block, min(16 * block + 16, 40)
        piece = slice(0, 5 + end)
        queries, hidden = q[:, :, begin:end], wanted[:, : 5 + begin]
        _, wanted, _, _ = selective_attention_op(
            [queries], [k[:, :, piece]], v[:, :, piece], None, hidden, None, None, None, [], [], SCALE, 0, True, None,
            None, True, True, False,
        )  # fmt: skip
        wanted = torch.nn.functional.pad(wanted, (0, 40 - end))
    assert sums.isfinite().all()
