"""The loss on the keys that selective layers need, against its definition with whole tables."""

import threading

import pytest
import torch
import torch.nn.functional as F

import hybridgen as hg
from hybridgen.ops.selective_attention.rows import keys_kept
from tests.helpers.mixer_cases import D_MODEL, make
from tests.model.test_contract import tokens

SCALE, TAU = 0.6, 0.8


def dense(q, k, starts, protect=True, window=None):
    """max over i of i - sum_j min(F[i, j], tau) / tau for one row of one head."""
    T = len(q)
    S = SCALE * q @ k.T
    query, key = torch.arange(T)[:, None], torch.arange(T)[None]
    earlier = (key < query) & (key >= starts[:, None])
    if window is not None:
        earlier &= key > query - window
    G = torch.where(earlier & ~((key == starts[:, None]) & protect), S.relu(), 0.0)
    hidden = G.cumsum(0) - G
    needed = earlier.sum(1) - (torch.where(earlier, hidden.clamp(max=TAU), 0.0) / TAU).sum(1)
    return needed.max()


@pytest.mark.parametrize("options", [{}, {"protect_bos": False}, {"window": 60}])
@pytest.mark.parametrize("T", [1, 9, 300])
def test_equals_the_definition(T, options):
    generator = torch.Generator().manual_seed(T)
    q, k = (torch.randn(2, heads, T, 5, generator=generator, dtype=torch.float64) for heads in (4, 2))
    q, k = (0.3 * x for x in (q, k))
    starts = torch.zeros(2, T, dtype=torch.long)
    starts[1, T // 3 :] = T // 3
    leaves = [q.requires_grad_(), k.requires_grad_()]
    got = keys_kept(q, k, TAU, SCALE, 3, starts=starts, **options)
    protect, window = options.get("protect_bos", True), options.get("window")
    wanted = torch.stack([dense(q[row, 3], k[row, 1], starts[row], protect, window) for row in range(2)])
    torch.testing.assert_close(got, wanted)
    if T > 1:
        for ours, theirs in zip(
            torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(wanted.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 7, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, k: keys_kept(q, k, 2.0, 0.3, 1), (q, k))


def test_of_a_model():
    model = make("attention-selective", "float64")
    mixer, x = model.backbone.layers[0].mixer, tokens(40)
    with hg.selection_memory(TAU) as memory:
        y = model(x)
    torch.testing.assert_close(y, model(x))
    span_q, span_k = [], []
    real = mixer._attend_to_scores
    mixer._attend_to_scores = lambda q, keys, *rest: (span_q.append(q), span_k.append(keys.k), real(q, keys, *rest))[2]
    model(x)
    q, k = span_q[0][:, 0] * mixer.scale / SCALE, span_k[0][:, 0]
    starts = torch.zeros(40, dtype=torch.long)
    wanted = sum(dense(q[row], k[row], starts) for row in range(2)) / (2 * 40)
    torch.testing.assert_close(memory.loss(), wanted)
    assert 0 < memory.loss().item() < 1


@pytest.mark.parametrize(
    "case", ["attention-selective-head", "attention-pruned", "residual-raw", "selection-over-depth"]
)
def test_padding_and_packing_count_as_their_sequences_apart(case):
    model = make(case, "float64")
    x = tokens(30, batch=1)
    with hg.selection_memory() as alone:
        model(x[:, 12:])
    with hg.selection_memory() as padded:
        model(x, mask=torch.arange(30)[None] >= 12)
    torch.testing.assert_close(padded.loss(), alone.loss())
    with hg.selection_memory() as packed:
        model(x, seq_idx=(torch.arange(30) >= 12).long()[None])
    assert packed.loss().item() <= alone.loss().item()
    grads = torch.autograd.grad(padded.loss(), list(model.parameters()), allow_unused=True)
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


def test_training_lowers_it():
    torch.manual_seed(0)
    document = {
        "backbone": {
            "d_model": D_MODEL, "attn": {"num_heads": 2, "selective": True}, "n_layer": 2, "attn_layer_idx": "all",
        },
        "input": {"type": "tokens", "vocab_size": 11},
        "head": {"type": "lm"},
    }  # fmt: skip
    document["backbone"]["attn_layer_idx"] = [0, 1]
    model = hg.build(hg.ModelSpec.model_validate(document))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 11, (4, 33))
    losses = []
    for _ in range(25):
        with hg.selection_memory() as memory:
            logits = model(ids[:, :-1])
        losses.append(memory.loss().item())
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) + memory.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0], losses


def test_several_calls_count_their_tokens():
    model = make("attention-selective", "float64")
    x = tokens(20, batch=4)
    with hg.selection_memory() as whole:
        model(x)
    with hg.selection_memory() as parts:
        model(x[:1])
        model(x[1:])
    torch.testing.assert_close(parts.loss(), whole.loss())


def test_words():
    with hg.selection_memory() as memory:
        make("attention-grouped")(tokens(3, dtype=torch.float32))
    with pytest.raises(hg.HybridgenError, match="no selective layer has been called"):
        memory.loss()
    with pytest.raises(hg.HybridgenError, match="tau must be above 0; given 0"), hg.selection_memory(0.0):
        pass
    with pytest.raises(hg.UnsupportedError, match="carry: upstream"), hg.selection_memory():
        make("residual-upstream")(tokens(3, dtype=torch.float32))


def small(**fields):
    """A model of two selective layers."""
    mixer = {"type": "attention", "num_heads": 2, "selective": True, **fields}
    backbone = {"d_model": 16, "blocks": {"a": {"mixer": mixer}}, "pattern": "a*2"}
    return hg.build(hg.ModelSpec.model_validate({"backbone": backbone}))


def test_what_counts():
    model, x = small(), torch.randn(2, 9, 16)
    with hg.selection_memory() as memory:
        model(x)
    alone = memory.loss()
    with hg.selection_memory() as memory:
        model(x[:, :0])
        model(x)
        other = threading.Thread(target=model, args=(x[:, :3],))
        other.start()
        other.join()
    assert torch.equal(memory.loss(), alone)
    with hg.selection_memory() as memory:
        model.backbone(x)
    with pytest.raises(hg.HybridgenError, match="call the model itself"):
        memory.loss()


def test_a_first_layer_that_waits_for_choices_counts_for_nothing():
    model, x = small(selection_from="previous"), torch.randn(2, 9, 16)
    with hg.selection_memory() as memory:
        model(x)
    assert len(memory.per_layer()) == 1


def test_layers_left_out_have_no_loss():
    model, x = small(), torch.randn(2, 9, 16)
    model.backbone.layer_dropout = 0.999999
    with hg.selection_memory() as memory:
        model.train()(x)
    assert memory.loss() == 0
