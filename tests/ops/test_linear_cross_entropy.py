"""The chunked cross-entropy of a linear head, against its reference and against F.cross_entropy of all logits."""

import pytest
import torch
import torch.nn.functional as F

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.objectives.memory import one_thread, peak_bytes
from hybridgen.ops.linear_cross_entropy import chunks, linear_cross_entropy
from hybridgen.ops.linear_cross_entropy.reference import linear_cross_entropy_reference
from hybridgen.ops.linear_cross_entropy.registration import linear_cross_entropy_backward_op, linear_cross_entropy_op
from hybridgen.ops.standard import standard_operations
from tests.helpers.tolerances import assert_close

OPTIONS = {
    "plain": {},
    "scale": {"logit_scale": 0.3},
    "softcap": {"logit_softcap": 2.0},
    "both": {"logit_scale": 1.7, "logit_softcap": 1.5},
    "sum": {"logit_scale": -0.5, "reduction": "sum"},
    "ignored-class": {"ignore_index": 3},
}


def make(N=23, V=37, D=11, dtype=torch.float64, bias=True, ignored=True, seed=0):
    """Leaves hidden, weight, bias (or None), and labels; every fourth label is -100 where some are to be ignored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    labels = torch.randint(V, (N,), generator=generator)
    if ignored:
        labels[1::4] = -100
    return normal(N, D), normal(V, D), normal(V) if bias else None, labels


def full(hidden, weight, labels, bias=None, *, logit_scale=1.0, logit_softcap=None, **rest):
    logits = F.linear(hidden, weight, bias) * logit_scale
    if logit_softcap is not None:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    return F.cross_entropy(logits, labels, **rest)


def loss_and_gradients(function, tensors, labels, **options):
    """The loss, and the gradients of thrice the loss by the tensors (hidden, weight and perhaps bias)."""
    loss = function(*tensors[:2], labels, *tensors[2:], **options)
    return loss, *torch.autograd.grad(3.0 * loss, tensors)


def assert_like_full(tensors, labels, **options):
    given = loss_and_gradients(linear_cross_entropy, tensors, labels, **options)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    wanted = loss_and_gradients(full, wide, labels, **options)
    for name, a, e in zip(("loss", "hidden", "weight", "bias"), given, wanted, strict=False):
        assert_close(a, e, dtype=tensors[0].dtype, what=name)
    assert [g.dtype for g in given[1:]] == [t.dtype for t in tensors]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of five tokens of 37 classes in float64, of ten in float32."""
    monkeypatch.setattr(chunks, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(chunks, "LOGITS_BYTES", 5 * 37 * 8)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.usefixtures("small_chunks")
def test_loss_and_gradients_are_those_of_all_logits(options, bias):
    hidden, weight, b, labels = make(bias=bias, ignored="ignore_index" not in options)
    assert_like_full([hidden, weight, b] if bias else [hidden, weight], labels, **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_is_the_reference(options):
    options = dict(options)
    reduction = options.pop("reduction", "mean")
    hidden, weight, bias, labels = make(N=7, V=9, D=5, ignored="ignore_index" not in options)
    losses = linear_cross_entropy_reference(hidden, weight, labels, bias, **options)
    count = (labels != options.get("ignore_index", -100)).sum() if reduction == "mean" else 1
    assert_close(
        linear_cross_entropy(hidden, weight, labels, bias, reduction=reduction, **options), losses.sum() / count
    )


@pytest.mark.parametrize("N", [1, 4, 5, 6, 10, 11, 20])
@pytest.mark.usefixtures("small_chunks")
def test_chunk_boundaries(N):
    hidden, weight, bias, labels = make(N=N, ignored=False)
    assert_like_full([hidden, weight, bias], labels, logit_softcap=3.0)


@pytest.mark.parametrize(("V", "D"), [(1, 1), (1, 5), (2, 1), (129, 3)])
def test_odd_sizes(V, D):
    hidden, weight, bias, labels = make(N=9, V=V, D=D)
    assert_like_full([hidden, weight, bias], labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.usefixtures("small_chunks")
def test_narrow_dtypes_are_near_float64(dtype, softcap):
    hidden, weight, bias, labels = make(dtype=dtype)
    assert linear_cross_entropy(hidden, weight, labels, bias).dtype == torch.float32
    assert_like_full([hidden, weight, bias], labels, logit_scale=0.3, logit_softcap=softcap)


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 6e-3), (torch.float16, 4e-4)])
def test_gradients_of_a_large_vocabulary_survive_narrow_dtypes(dtype, bound, monkeypatch):
    """Probabilities here are about 1e-4; divided by the tokens, float16 would lose them. Errors: those of rounding."""
    monkeypatch.setattr(chunks, "LOGITS_BYTES", 64 * 8192 * 4)
    hidden, weight, _, labels = make(N=512, V=8192, D=16, dtype=dtype, bias=False)
    with torch.no_grad():
        weight.mul_(0.25)
    loss = linear_cross_entropy(hidden, weight, labels)
    # 1024 is the loss scale of mixed precision, without which float16 cannot hold the result itself.
    given = torch.autograd.grad(loss * 1024, (hidden, weight))
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    wanted = full(*wide, labels)
    assert abs(loss.item() - wanted.item()) < 1e-3
    for a, e in zip(given, torch.autograd.grad(wanted * 1024, wide), strict=True):
        assert relative_error(a, e) < bound


@pytest.mark.usefixtures("small_chunks")
def test_bfloat16_gradients_of_the_weight_add_up_in_float32():
    """Many chunks that say the same: in bfloat16 the sum would stop growing."""
    hidden, weight = torch.ones(4000, 4).bfloat16(), torch.zeros(37, 4).bfloat16().requires_grad_()
    linear_cross_entropy(hidden, weight, torch.zeros(4000, dtype=torch.long), reduction="sum").backward()
    expected = torch.full((37, 4), 4000 / 37)
    expected[0] -= 4000
    torch.testing.assert_close(weight.grad.float(), expected, rtol=8e-3, atol=0)


@pytest.mark.parametrize("N", [0, 5])
def test_no_token_counts(N):
    hidden, weight, bias, _ = make(N=N)
    labels = torch.full((N,), -100)
    loss, *gradients = loss_and_gradients(linear_cross_entropy, [hidden, weight, bias], labels)
    assert loss.isnan()
    expected = loss_and_gradients(full, [hidden, weight, bias], labels)
    assert expected[0].isnan()
    for a, e in zip(gradients, expected[1:], strict=True):
        assert torch.equal(a, e)
        assert not a.any()
    assert linear_cross_entropy(hidden, weight, labels, bias, reduction="sum") == 0


def test_ignored_tokens_may_hold_anything():
    hidden, weight, _, labels = make(bias=False)
    expected = loss_and_gradients(linear_cross_entropy, [hidden, weight], labels)
    with torch.no_grad():
        hidden[labels == -100] = torch.nan
    for a, e in zip(loss_and_gradients(linear_cross_entropy, [hidden, weight], labels), expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_only_the_gradients_that_are_needed(wanted, monkeypatch):
    hidden, weight, bias, labels = make()
    leaves = [t.requires_grad_(bool(w)) for t, w in zip((hidden, weight, bias), wanted, strict=True)]
    made = []

    def spy(call, asked):
        loss, found = original(call, asked)
        made.append(tuple(int(one is not None) for one in found))
        return loss, found

    original = chunks.loss_and_gradients
    monkeypatch.setattr("hybridgen.ops.linear_cross_entropy.registration.loss_and_gradients", spy)
    linear_cross_entropy(hidden, weight, labels, bias).backward()
    with torch.no_grad():
        linear_cross_entropy(hidden, weight, labels, bias)
    assert made == [wanted, (0, 0, 0)]
    inputs = [t for t in leaves if t.requires_grad]
    for leaf, e in zip(inputs, torch.autograd.grad(full(hidden, weight, labels, bias), inputs), strict=True):
        assert_close(leaf.grad, e)


def test_a_retained_graph_gives_the_same_gradients_again():
    hidden, weight, bias, labels = make()
    loss = linear_cross_entropy(hidden, weight, labels, bias)
    first = torch.autograd.grad(loss, (hidden, weight, bias), torch.tensor(2.0).double(), retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(loss, (hidden, weight, bias), torch.tensor(5.0).double())
    for a, b, c in zip(first, kept, second, strict=True):
        assert torch.equal(a, b)
        assert_close(c, 2.5 * a)


def test_tied_weights_get_the_sum_of_their_gradients():
    _, weight, _, labels = make(bias=False, ignored=False)
    ids = torch.arange(23) % 37
    linear_cross_entropy(weight[ids].tanh(), weight, labels).backward()
    expected = torch.autograd.grad(full(weight[ids].tanh(), weight, labels), weight)[0]
    assert_close(weight.grad, expected)
    linear_cross_entropy(weight[ids].tanh(), weight, labels).backward()
    assert_close(weight.grad, 2 * expected)


def test_gradcheck():
    hidden, weight, bias, labels = make(N=5, V=7, D=3)
    torch.autograd.gradcheck(lambda h, w, b: linear_cross_entropy(h, w, labels, b), (hidden, weight, bias))
    options = {"logit_scale": 0.7, "logit_softcap": 1.5, "reduction": "sum"}
    torch.autograd.gradcheck(lambda h, w, b: linear_cross_entropy(h, w, labels, b, **options), (hidden, weight, bias))


def test_a_second_derivative_is_refused():
    hidden, weight, _, labels = make(bias=False)
    (gradient,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels), hidden, create_graph=True)
    assert_close(gradient, torch.autograd.grad(full(hidden, weight, labels), hidden)[0])
    with pytest.raises(UnsupportedError, match="no derivative of its derivative; compute the logits"):
        gradient.square().sum().backward()


def test_transforms_and_standard_operations_take_all_logits(no_shape_checks):
    hidden, weight, bias, labels = make()
    expected = torch.autograd.grad(full(hidden, weight, labels, bias, logit_softcap=2.0), hidden)[0]
    by_func = torch.func.grad(lambda h: linear_cross_entropy(h, weight, labels, bias, logit_softcap=2.0))(hidden)
    assert_close(by_func, expected)
    with standard_operations():
        graph = torch.fx.experimental.proxy_tensor.make_fx(lambda h: linear_cross_entropy(h, weight, labels, bias))(
            hidden.detach()
        )
    assert "hybridgen" not in graph.code
    assert_close(graph(hidden), full(hidden, weight, labels, bias))


@pytest.mark.parametrize("options", [(1.0, None), (0.5, 2.0)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_opcheck(options, bias):
    hidden, weight, b, labels = make(N=5, V=7, D=3, dtype=torch.float32, bias=bias)
    arguments = (hidden, weight, labels, b, *options, -100, torch.float32)
    for wanted in ((True, True, bias), (False, True, False)):
        for tensor, is_wanted in zip((hidden, weight, b), wanted, strict=True):
            if tensor is not None:
                tensor.requires_grad_(is_wanted)
        torch.library.opcheck(linear_cross_entropy_op, (*arguments, *wanted))
    detached = [a.detach() if torch.is_tensor(a) else a for a in arguments]
    torch.library.opcheck(linear_cross_entropy_backward_op, (torch.tensor(2.0), *detached, True, False, bias))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_compiled_equals_eager_for_any_number_of_tokens(autocast, no_shape_checks):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def call(hidden, weight, bias, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return 3 * linear_cross_entropy(hidden * 2, weight, labels, bias, logit_scale=0.5, logit_softcap=2.0)

    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=True)
    for N in (23, 9, 40):
        hidden, weight, bias, labels = make(N=N, dtype=torch.float32)
        results = []
        for function in (compiled, call):
            loss = function(hidden, weight, bias, labels)
            results.append((loss, *torch.autograd.grad(loss, (hidden, weight, bias))))
        for a, e in zip(*results, strict=True):
            assert torch.equal(a, e)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_inductor_equals_eager(no_shape_checks):
    torch._dynamo.reset()
    hidden, weight, bias, labels = make(dtype=torch.float32)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True)
    given = loss_and_gradients(compiled, [hidden, weight, bias], labels)
    for a, e in zip(given, loss_and_gradients(linear_cross_entropy, [hidden, weight, bias], labels), strict=True):
        assert_close(a, e)
    with pytest.raises(ShapeError, match="labels must be in"):
        compiled(hidden, weight, labels + 30, bias)


def test_labels_out_of_range_are_named():
    hidden, weight, _, labels = make(bias=False)
    for value in (37, -1, -101):
        labels[3] = value
        message = rf"labels must be in 0 ... 36, or ignore_index \(-100\); given {value}"
        with pytest.raises(ShapeError, match=message):
            linear_cross_entropy(hidden, weight, labels)


def test_int32_labels_and_views():
    hidden, weight, bias, labels = make()
    expected = loss_and_gradients(linear_cross_entropy, [hidden, weight, bias], labels)
    views = [torch.stack((t, t), dim=-1).detach()[..., 0].requires_grad_() for t in (hidden, weight, bias)]
    assert not any(t.is_contiguous() for t in views)
    for given in (views, [hidden.detach().T.contiguous().T.requires_grad_(), *views[1:]]):
        actual = loss_and_gradients(linear_cross_entropy, given, labels.int().repeat_interleave(2)[::2])
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e)
    turned = weight.detach().T.contiguous().requires_grad_()
    loss = linear_cross_entropy(hidden, turned.T, labels, bias)
    assert_close(torch.autograd.grad(loss, turned)[0] * 3, expected[2].T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Products in autocast's dtype, the loss in float32, each gradient in its tensor's dtype; float64 stays."""
    hidden, weight, bias, labels = make(dtype=torch.float32)
    mixed = [hidden.detach().to(dtype).requires_grad_(), weight, bias]
    with torch.autocast("cpu", dtype):
        loss, *gradients = loss_and_gradients(linear_cross_entropy, mixed, labels)
        exact = linear_cross_entropy(hidden.double(), weight.double(), labels)
    assert loss.dtype == torch.float32
    assert [g.dtype for g in gradients] == [dtype, torch.float32, torch.float32]
    wide = [t.detach().double().requires_grad_() for t in mixed]
    for a, e in zip((loss, *gradients), loss_and_gradients(full, wide, labels), strict=True):
        assert_close(a, e, dtype=dtype)
    assert_close(exact, full(hidden.double(), weight.double(), labels))
    same_dtype = [t.detach().to(dtype) for t in (hidden, weight, bias)]
    if dtype == torch.bfloat16:
        assert_close(loss, linear_cross_entropy(*same_dtype[:2], labels, same_dtype[2]), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen-head"])
def test_memory_is_that_of_a_chunk_and_the_gradients(dtype, frozen, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_BYTES", 1 << 20)
    N, V, D = 1024, 8192, 128
    hidden, weight, _, labels = make(N=N, V=V, D=D, dtype=dtype, bias=False)
    weight.requires_grad_(not frozen)
    inputs = [hidden] if frozen else [hidden, weight]

    def training(function):
        def call():
            torch.autograd.grad(function(hidden, weight, labels), inputs)

        call()
        with one_thread():
            return peak_bytes(call)

    # Gradients that are not float32 are rounded from a float32 table.
    gradients = sum(t.numel() * (4 if dtype == torch.float32 else 4 + dtype.itemsize) for t in inputs)
    ours, whole = training(linear_cross_entropy), training(full)
    assert whole > 2 * N * V * dtype.itemsize
    assert ours < 1.6 * (1 << 20) + gradients
    assert ours < whole / 4


def test_memory_without_gradients(monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_BYTES", 1 << 20)
    hidden, weight, _, labels = make(N=1024, V=8192, D=16, dtype=torch.float32, bias=False)
    with one_thread(), torch.no_grad():
        assert peak_bytes(lambda: linear_cross_entropy(hidden, weight, labels)) < 1.2 * (1 << 20)


def test_extreme_logits_stay_right():
    hidden, weight = torch.tensor([[300.0], [-300.0]]).requires_grad_(), torch.tensor([[300.0], [0.0], [-300.0]])
    labels = torch.tensor([2, 2])
    loss, gradient = loss_and_gradients(linear_cross_entropy, [hidden, weight.requires_grad_()], labels)[:2]
    assert loss.item() == 90000.0
    assert gradient.tolist() == [[900.0], [0.0]]


def wrong(**changes):
    hidden, weight, bias, labels = make(N=3, V=5, D=2, dtype=torch.float32, ignored=False)
    arguments = {"hidden": hidden, "weight": weight, "labels": labels, "bias": bias} | changes
    return lambda: linear_cross_entropy(**arguments)


WRONG_CALLS = {
    "hidden must have shape (N, D), but has (3, 1, 2)": (ShapeError, wrong(hidden=torch.ones(3, 1, 2))),
    "weight must have shape (V, D), but has (5,)": (ShapeError, wrong(weight=torch.ones(5))),
    "weight must have shape (5, 2), but has (5, 3)": (ShapeError, wrong(weight=torch.ones(5, 3))),
    "labels must have shape (3,), but has (4,)": (ShapeError, wrong(labels=torch.ones(4, dtype=torch.long))),
    "bias must have shape (5,), but has (1,)": (ShapeError, wrong(bias=torch.ones(1))),
    "weight must have at least one row, but has none": (ShapeError, wrong(weight=torch.ones(0, 2), bias=None)),
    "hidden must be float32, bfloat16, float16 or float64, but is torch.int64": (
        ShapeError,
        wrong(hidden=torch.ones(3, 2).long()),
    ),
    "weight must be of torch.float32 as hidden, but is of torch.bfloat16": (
        ShapeError,
        wrong(weight=torch.ones(5, 2).bfloat16()),
    ),
    "bias must be of torch.float32 as hidden, but is of torch.float64": (
        ShapeError,
        wrong(bias=torch.ones(5).double()),
    ),
    "labels must be of torch.int64 or torch.int32, but are torch.uint8": (
        ShapeError,
        wrong(labels=torch.ones(3, dtype=torch.uint8)),
    ),
    "reduction must be mean or sum; given 'none'": (UnsupportedError, wrong(reduction="none")),
    "logit_softcap must be above 0; given 0.0": (UnsupportedError, wrong(logit_softcap=0.0)),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_wrong_calls_are_named(message, no_shape_checks):
    kind, call = WRONG_CALLS[message]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == f"linear_cross_entropy: {message}"
