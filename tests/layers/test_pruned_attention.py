"""Attention with a budget of keys: what is dropped, who sees what until when, and what memory it takes."""

import pytest
import torch

import hybridgen as hg
from hybridgen.layers.mixers import pruned_attention
from hybridgen.ops.selective_attention.eviction import SLACK, evictions
from tests.helpers.mixer_cases import CASES, D_MODEL, make
from tests.model.test_contract import tokens

PRUNED = pytest.mark.parametrize("case", [name for name in CASES if "pruned" in name])


def dense(scores, starts, budget, protect):
    """By definition, one row: scores (T, T) of the selection head, and the start of each query's sequence."""
    T = len(scores)
    until, kept, F = [T] * T, [], [0.0] * T
    for i in range(T):
        kept = [j for j in kept if j >= starts[i]] + [i]
        bos = int(starts[i]) if protect else None
        for j in kept:
            if j not in (i, bos):
                F[j] += max(0.0, float(scores[i, j]))
        if len(kept) > budget:
            movable = [j for j in kept if j not in (i, bos)]
            most = max(F[j] for j in movable)
            out = min(j for j in movable if F[j] >= most - SLACK * max(1.0, most))
            kept.remove(out)
            until[out] = i + 1
    return until, kept, F


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("budget", [2, 5, 40, 129, 500])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_dropped(packed, budget, protect):
    T = 300
    generator = torch.Generator().manual_seed(budget)
    q, k = (torch.randn(2, T, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    k[:, ::7] = 0.0  # never hidden: many of them are tied
    starts = torch.zeros(2, T, dtype=torch.long)
    if packed:
        starts[0, 150:], starts[1, 20:], starts[1, 21:], starts[1, 260:] = 150, 20, 21, 260
    places = torch.arange(T).expand(2, T)
    empty = q.new_zeros(2, 0)
    until, held, F = evictions([q], [k], empty, places, starts if packed else None, budget, protect, None)
    for row in range(2):
        wanted, kept, hidden = dense(q[row] @ k[row].T, starts[row].tolist(), budget, protect)
        assert until[row].tolist() == wanted
        assert held[row].tolist() == (kept + [-1] * T)[: held.shape[1]]
        torch.testing.assert_close(F[row, : len(kept)], torch.tensor([hidden[j] for j in kept], dtype=torch.float64))


def test_of_equal_keys_the_oldest_goes():
    """Whatever the rounding: the same tokens again and again are told apart by their age alone."""
    for dtype in (torch.float32, torch.float64):
        q = torch.full((1, 60, 3), 0.1, dtype=dtype)
        until, _, _ = evictions([q], [q], q.new_zeros(1, 0), torch.arange(60)[None], None, 10, True, None)
        assert until[0, 1:50].tolist() == list(range(11, 60))


@PRUNED
def test_with_and_without_gradients(case):
    model = make(case, "float64")
    x = tokens(300)
    with torch.no_grad():
        pieces = model(x)
        state = model.init_state(2, 300)
        first = model(x[:, :140], state=state)
    torch.testing.assert_close(model(x), pieces, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat((first, model(x[:, 140:], state=state)), dim=1), pieces, rtol=1e-9, atol=1e-9)


@PRUNED
def test_gradients_of_packed_and_padded_rows(case):
    model = make(case, "float64")
    parameters = list(model.parameters())
    x, cotangent = tokens(40, batch=1), tokens(40, batch=1, seed=5)
    parts = [slice(0, 13), slice(13, 40)]
    apart = torch.cat([model(x[:, part]) for part in parts], dim=1)
    expected = torch.autograd.grad(apart, parameters, cotangent)
    seq_idx = (torch.arange(40) >= 13).long()[None]
    for ours, theirs in zip(
        torch.autograd.grad(model(x, seq_idx=seq_idx), parameters, cotangent), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    last = torch.autograd.grad(model(x[:, parts[1]]), parameters, cotangent[:, parts[1]])
    mask = torch.arange(40)[None] >= 13
    padded = torch.autograd.grad(model(x, mask=mask)[:, 13:], parameters, cotangent[:, parts[1]])
    for ours, theirs in zip(padded, last, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_no_budget_is_reached_or_much_is_dropped():
    """A budget beyond the length is none; a small one changes what later tokens see, and nothing before."""
    free, wide, narrow = (make("attention-selective", "float64") for _ in range(3))
    x = tokens(60)
    with torch.no_grad():
        for model, budget in ((wide, 60), (narrow, 10)):
            fields = free.backbone.layers[0].mixer.spec.model_dump() | {"context_budget": budget}
            document = {"backbone": {"d_model": D_MODEL, "blocks": {"x": {"mixer": fields}}, "pattern": "x"}}
            other = hg.build(hg.ModelSpec.model_validate(document), dtype="float64")
            other.load_state_dict(free.state_dict())
            got, expected = other(x), free(x)
            torch.testing.assert_close(got[:, :11], expected[:, :11])
            assert torch.allclose(got, expected) == (budget == 60), model


@torch.no_grad()
def test_memory_is_that_of_the_budget(monkeypatch):
    model = make("attention-pruned")
    state, longer = model.init_state(1, 100), model.init_state(1, 100_000)
    assert state.nbytes() == longer.nbytes() == 7 * (2 * 2 * 8 * 4 + 4 + 4)
    seen = []
    real = pruned_attention.selective_attention

    def watched(q, k, *rest, **named):
        seen.append((q.shape[2], k.shape[2]))
        return real(q, k, *rest, **named)

    monkeypatch.setattr(pruned_attention, "selective_attention", watched)
    x = tokens(500, batch=1, dtype=torch.float32)
    model(x[:, :400], state=longer)
    model(x[:, 400:401], state=longer)
    assert seen == [(128, 128), (128, 134), (128, 134), (16, 22), (1, 7)]
    whole = model(x)
    assert max(keys for _, keys in seen) == 134
    assert longer.capacities() == [None]
    state = model.init_state(1, 4)
    assert state.capacities() == [4]
    torch.testing.assert_close(torch.cat([model(x[:, t : t + 1], state=state) for t in range(4)], dim=1), whole[:, :4])
    with pytest.raises(hg.ShapeError, match="4 tokens and has read 4; 1 more do not fit"):
        model(x[:, 4:5], state=state)


@torch.no_grad()
def test_rows_of_nan_leave_others_alone():
    model = make("attention-pruned", "float64")
    x = tokens(30)
    changed = x.clone()
    changed[0, 3:] = float("nan")
    state = model.init_state(2, 30)
    got = torch.cat([model(changed[:, :20], state=state), model(changed[:, 20:21], state=state)], dim=1)
    torch.testing.assert_close(got[1], model(x)[1, :21])


@torch.no_grad()
@pytest.mark.parametrize("repeats", [1, 3, 40])
def test_steps_drop_what_the_whole_drops_in_float32(repeats):
    """Also among the same few tokens again and again, whose F differ by little or nothing."""
    for seed in range(3):
        model = make("attention-pruned", seed=seed)
        x = tokens(160 // repeats, batch=1, dtype=torch.float32, seed=seed).repeat(1, repeats, 1)
        state = model.init_state(1, 200)
        stepped = torch.cat([model(x[:, t : t + 1], state=state) for t in range(x.shape[1])], dim=1)
        torch.testing.assert_close(stepped, model(x), rtol=1e-4, atol=1e-5)


def guided(budget, length=40):
    """A guide and two layers that it leads, in float64, with the tokens to give it."""
    mixer = {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "selective": True, "context_budget": budget}
    blocks = {"c": {"mixer": mixer}, "g": {"mixer": {**mixer, "selection_from": "guide", "selection_head": 2}}}
    blocks["m"] = {"mixer": {"type": "mamba1"}}
    spec = hg.ModelSpec.model_validate({"backbone": {"d_model": D_MODEL, "blocks": blocks, "pattern": "c g m g"}})
    model = hg.build(spec, dtype="float64").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model, tokens(length)


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [17, 1, 1, 9, 12]])
def test_a_guide_and_the_layers_it_leads_keep_the_same_tokens(pieces):
    model, x = guided(6)
    state = model.init_state(2, 40)
    with torch.no_grad():
        parts = [model(part, state=state) for part in x.split(pieces, dim=1)]
        whole = model(x)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(model(x), whole)
    guide, first, _, second = state.layers
    for led in (first, second):
        assert torch.equal(led.places, guide.places)
    assert guide.places[:, :-1].ge(0).all()


def test_a_guide_with_room_for_all_is_a_guide_without_a_budget():
    model, x = guided(100)
    plain = model.spec.document()
    for block in plain["backbone"]["blocks"].values():
        if block["mixer"]["type"] == "attention":
            block["mixer"]["context_budget"] = None
    free = hg.build(hg.ModelSpec.model_validate(plain), dtype="float64")
    free.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), free(x))
    tight, _ = guided(5)
    tight.load_state_dict(model.state_dict())
    assert (tight(x) - free(x)).abs().max() > 1e-3
