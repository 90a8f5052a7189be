"""Selective attention against its reference, and what holds of it whatever the numbers are."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map

from hybridgen.errors import ShapeError
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.reference import selective_attention_reference
from hybridgen.ops.selective_attention.registration import selective_attention_backward_op, selective_attention_op
from tests.helpers.tolerances import assert_close

BACKENDS = pytest.mark.usefixtures("each_backend")
SCALE = 0.7
OPTIONS = {
    "plain": {},
    "head": {"selection_head": 3},
    "no-bos": {"protect_bos": False},
    "window": {"window": 4},
    "window-of-one": {"window": 1},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "starts": {"starts": True},
    "earlier": {"earlier": 7},
    "earlier-window": {"earlier": 7, "window": 5, "hidden": False},
    "everything": {
        "selection_head": 2, "protect_bos": False, "window": 5, "softcap": 2.0, "sinks": True, "starts": True,
        "earlier": 6, "slopes": True, "until": True, "choosers": True,
    },
    "slopes": {"slopes": True},
    "until": {"until": True, "earlier": 3},
    "choosers": {"choosers": True, "softcap": 1.5, "starts": True},
    "choosers-alone": {"choosers": True, "selection_head": None, "earlier": 4},
    "row-alone": {"choosers": True, "selection_head": None, "over_time": False, "window": 6},
}  # fmt: skip


TENSORS = ("sinks", "hidden", "starts", "slopes", "until", "choosers")


def make(T, options, H=4, K=2, P=6, V=None, batch=2, dtype=torch.float64, seed=0):
    """Random q, k, v and the keyword arguments of a call; those of `options` that name tensors become tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    options = dict(options)
    earlier = options.pop("earlier", 0)
    S = T + earlier
    tensors = [normal(batch, H, T, P), normal(batch, K, S, P), normal(batch, K, S, V or P)]
    kwargs = {name: value for name, value in options.items() if name not in TENSORS}
    if options.get("sinks"):
        kwargs["sinks"] = normal(H)
    if earlier and options.get("hidden", True):
        kwargs["hidden"] = normal(batch, earlier).abs().to(torch.promote_types(dtype, torch.float32))
    if options.get("starts"):
        starts = torch.full((batch, T), -2 if earlier else 0)
        for row in range(batch):
            begin = min(T, 3 + 4 * row)
            starts[row, begin:] = earlier + begin
        kwargs["starts"] = starts
    if options.get("slopes"):
        kwargs["slopes"] = 2.0 ** -torch.arange(1, H + 1, dtype=torch.float64).to(dtype)
    if options.get("until"):
        kwargs["until"] = torch.arange(S) + torch.randint(1, 6, (batch, S), generator=generator)
    if options.get("choosers"):
        kwargs["choosers"] = [(normal(batch, T, width), normal(batch, S, width)) for width in (P, 3)]
    return tensors, kwargs


def is_floating(value):
    return torch.is_tensor(value) and value.is_floating_point()


def only(row, value):
    return tree_map(lambda x: x[row : row + 1] if torch.is_tensor(x) else x, value)


def leaves(tensors, kwargs):
    choosers = [tensor for pair in kwargs.get("choosers", ()) for tensor in pair]
    beside = [kwargs[name] for name in ("sinks", "hidden") if kwargs.get(name) is not None]
    found = [*tensors, *beside, *choosers]
    return [tensor.requires_grad_() for tensor in found]


def compare(T, options, dtype=torch.float64, **sizes):
    tensors, kwargs = make(T, options, dtype=dtype, **sizes)
    wide = [tensor.double() for tensor in tensors]
    wide_kwargs = tree_map(lambda value: value.double() if is_floating(value) else value, kwargs)
    ours, theirs = leaves(tensors, kwargs), leaves(wide, wide_kwargs)
    found = selective_attention(*tensors, SCALE, **kwargs)
    expected = selective_attention_reference(*wide, SCALE, **wide_kwargs)
    assert found[0].dtype == dtype
    assert found[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in expected]
    for part, other, what in zip(found, expected, ("y", "F"), strict=True):
        assert_close(part, other, dtype, what)
    if not T or not sizes.get("batch", 2):
        return
    # F of the reference is a constant where nothing adds up.
    live = [index for index, part in enumerate(expected) if part.requires_grad]
    grads = torch.autograd.grad([(found[index] * weights[index]).sum() for index in live], ours, allow_unused=True)
    wanted = torch.autograd.grad(
        [(expected[index] * weights[index]).sum() for index in live], theirs, allow_unused=True
    )
    grads = [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(grads, ours, strict=True)]
    wanted = [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(wanted, theirs, strict=True)]
    for grad, other, leaf in zip(grads, wanted, ours, strict=True):
        assert grad.dtype == leaf.dtype
        scale = float(other.abs().max().clamp(min=1.0))
        assert_close(grad.double() / scale, other / scale, dtype, "gradient")


@BACKENDS
@pytest.mark.parametrize("T", [1, 2, 13])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_reference(name, T):
    compare(T, OPTIONS[name])


@BACKENDS
@pytest.mark.parametrize("name", ["plain", "everything", "earlier"])
@pytest.mark.parametrize("T", [127, 129, 261])
def test_equals_the_reference_over_several_blocks(name, T):
    compare(T, OPTIONS[name], K=1, batch=1)


@BACKENDS
@pytest.mark.parametrize(
    "sizes",
    [{"H": 1, "K": 1}, {"H": 3, "K": 3, "P": 1}, {"H": 6, "K": 2, "P": 7}, {"V": 11}, {"H": 5, "K": 1, "V": 1}],
    ids=str,
)
def test_odd_sizes(sizes):
    compare(9, {}, **sizes)
    compare(9, {"window": 3, "earlier": 5, "starts": True}, **sizes)


@BACKENDS
@pytest.mark.parametrize(("T", "batch"), [(0, 2), (4, 0), (0, 0)])
def test_nothing_to_do(T, batch):
    tensors, kwargs = make(T, {"earlier": 3}, batch=batch)
    y, after = selective_attention(*tensors, SCALE, **kwargs)
    assert y.shape == (batch, 4, T, 6)
    assert after.shape == (batch, T + 3)
    if T == 0:
        assert torch.equal(after, kwargs["hidden"])


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "everything"])
def test_smaller_types(name, dtype):
    compare(21, OPTIONS[name], dtype=dtype)


@BACKENDS
def test_large_scores_of_half_precision_do_not_overflow():
    q = torch.full((1, 1, 3, 128), 30.0, dtype=torch.float16)
    y, _ = selective_attention(q, q, q, 128**-0.5, None, softcap=50.0)
    assert y.isfinite().all()
    torch.testing.assert_close(y, q)


def test_strided_arguments():
    tensors, kwargs = make(15, OPTIONS["everything"])
    expected = selective_attention(*tensors, SCALE, **kwargs)
    views = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    wide = [torch.cat((tensor, tensor), dim=-1)[..., : tensor.shape[-1]] for tensor in tensors]
    for strided in (views, wide):
        for part, other in zip(selective_attention(*strided, SCALE, **kwargs), expected, strict=True):
            assert_close(part, other)


@pytest.mark.parametrize("name", ["plain", "no-bos", "softcap", "everything", "choosers", "row-alone"])
def test_gradcheck(name):
    tensors, kwargs = make(6, OPTIONS[name], P=3)
    inputs = leaves(tensors, kwargs)
    beside = [name for name in ("sinks", "hidden") if name in kwargs]

    def call(*given):
        more = dict(zip(beside, given[3:], strict=False))
        pairs = given[3 + len(beside) :]
        more["choosers"] = list(zip(pairs[::2], pairs[1::2], strict=True))
        return selective_attention(*given[:3], SCALE, **{**kwargs, **more})

    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_opcheck(name):
    tensors, kwargs = make(7, OPTIONS[name], dtype=torch.float32)
    leaves(tensors, kwargs)
    order = ("sinks", "hidden", "starts", "slopes", "until")
    options = (
        SCALE, kwargs.get("selection_head", 0), kwargs.get("protect_bos", True), kwargs.get("window"),
        kwargs.get("softcap"), True, True,
    )  # fmt: skip
    q, k, v = tensors
    more_q, more_k = ((t.detach() * 2).requires_grad_() for t in (q, k))
    choosers = [list(one) for one in zip(*kwargs.get("choosers", ()), strict=True)] or [[], []]
    arguments = ([q, more_q], [k, more_k], v, *(kwargs.get(key) for key in order), *choosers, *options, True)
    torch.library.opcheck(selective_attention_op, arguments)
    plain = tree_map(lambda value: value.detach() if torch.is_tensor(value) else value, arguments)
    y, after, sums, kept = selective_attention_op(*plain)
    backward = (*plain[:4], *plain[5:-1], y, sums, kept, torch.ones_like(y), torch.ones_like(after))
    torch.library.opcheck(selective_attention_backward_op, backward)


@BACKENDS
@pytest.mark.parametrize("protect_bos", [True, False])
def test_nothing_hides_itself_or_from_the_next(protect_bos):
    """F[i, i] and F[i, i - 1] are zero, F only grows, and what is protected stays."""
    (q, k, v), _ = make(17, {})
    before = torch.zeros(2, 0)
    for n in range(1, 18):
        _, after = selective_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], SCALE, protect_bos=protect_bos)
        assert not after[:, n - 1].any()
        assert (after[:, : n - 1] >= before - 1e-12).all()
        before = after
    assert bool(after[:, 0].any()) is not protect_bos
    assert after[:, 1:-1].any()
    first_two = selective_attention(q[:, :, :2], k[:, :, :2], v[:, :, :2], SCALE, protect_bos=False)[0]
    plain = F.scaled_dot_product_attention(
        q[:, :, :2], k[:, :, :2], v[:, :, :2], is_causal=True, scale=SCALE, enable_gqa=True
    )
    assert_close(first_two, plain)


@BACKENDS
def test_first_token_of_every_sequence_is_protected():
    tensors, kwargs = make(19, {"starts": True})
    _, after = selective_attention(*tensors, SCALE, **kwargs)
    for row, begin in enumerate((3, 7)):
        assert not after[row, [0, begin]].any()
        assert after[row, begin + 1 : -1].any()


@BACKENDS
@pytest.mark.parametrize("name", ["plain", "window", "everything"])
def test_later_tokens_change_nothing(name):
    (q, k, v), kwargs = make(150, OPTIONS[name])
    S, t = k.shape[2], 140
    y, _ = selective_attention(q, k, v, SCALE, **kwargs)
    changed = [tensor.clone() for tensor in (q, k, v)]
    for tensor, cut in zip(changed, (t, S - 150 + t, S - 150 + t), strict=True):
        tensor[:, :, cut:] = 1e3
    z, _ = selective_attention(*changed, SCALE, **kwargs)
    assert torch.equal(y[:, :, :t], z[:, :, :t])
    assert not torch.equal(y[:, :, t:], z[:, :, t:])


@BACKENDS
def test_rows_do_not_see_each_other():
    tensors, kwargs = make(20, OPTIONS["everything"], batch=3)
    y, after = selective_attention(*tensors, SCALE, **kwargs)
    for row in range(3):
        own = {name: value if name in ("sinks", "slopes") else only(row, value) for name, value in kwargs.items()}
        alone = selective_attention(*(tensor[row : row + 1] for tensor in tensors), SCALE, **own)
        assert_close(alone[0], y[row : row + 1])
        assert_close(alone[1], after[row : row + 1])


@BACKENDS
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "sinks": True, "protect_bos": False}])
@pytest.mark.parametrize("cuts", [[1] * 14, [5, 1, 8], [13, 1]])
def test_chunks_equal_the_whole(options, cuts):
    (q, k, v), kwargs = make(14, options)
    whole, last = selective_attention(q, k, v, SCALE, **kwargs)
    parts, hidden, end = [], torch.zeros(2, 0, dtype=q.dtype), 0
    for length in cuts:
        begin, end = end, end + length
        y, hidden = selective_attention(
            q[:, :, begin:end], k[:, :, :end], v[:, :, :end], SCALE, hidden=hidden, **kwargs
        )
        parts.append(y)
    assert_close(torch.cat(parts, dim=2), whole)
    assert_close(hidden, last)


@BACKENDS
def test_runs_are_equal_bit_by_bit():
    tensors, kwargs = make(140, OPTIONS["everything"], dtype=torch.float32)
    inputs = leaves(tensors, kwargs)

    def run():
        y, after = selective_attention(*tensors, SCALE, **kwargs)
        return y, after, *torch.autograd.grad(y.sum() + after.sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@BACKENDS
def test_gradient_of_the_choice_reaches_the_selection_head_alone():
    """Through F, only the selection head's queries are asked; without that path the other heads' gradients stay."""
    (q, k, v), _ = make(12, {}, K=4)
    q.requires_grad_()
    _, after = selective_attention(q, k, v, SCALE, selection_head=2)
    (grad,) = torch.autograd.grad(after.sum(), [q])
    assert grad[:, 2].any()
    assert not grad[:, [0, 1, 3]].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": (2, 3, 9, 6), "v": (2, 3, 9, 6)}, "3 heads, which must divide the 4 heads"),
        ({"k": (2, 2, 8, 6), "v": (2, 2, 8, 6)}, "9 queries but 8 keys"),
        ({"k": (2, 2, 9, 5)}, "selective_attention: k"),
        ({"v": (2, 2, 8, 6)}, "selective_attention: v"),
        ({"v": (1, 2, 9, 6)}, "selective_attention: v"),
        ({"sinks": (3,)}, "selective_attention: sinks"),
        ({"hidden": (2, 1)}, "selective_attention: hidden"),
        ({"selection_head": 4}, "selection_head must be 0 ... 3; given 4"),
        ({"selection_head": -1}, "selection_head must be 0 ... 3; given -1"),
    ],
)
def test_what_does_not_fit_is_worded(no_shape_checks, change, words):
    shapes = {"q": (2, 4, 9, 6), "k": (2, 2, 9, 6), "v": (2, 2, 9, 6), **change}
    arguments = {name: torch.zeros(shape) if isinstance(shape, tuple) else shape for name, shape in shapes.items()}
    with pytest.raises(ShapeError, match=words):
        selective_attention(**arguments, scale=SCALE)
