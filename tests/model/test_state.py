"""Decoding states: bounds, failures, dtypes, gradients, and whose they are."""

import pytest
import torch

import hybridgen as hg
from tests.helpers.mixer_cases import make
from tests.model.test_build import TOKENS, build


def test_padding_after_real_tokens_across_calls():
    model = build(TOKENS)
    state = model.init_state(2, 8)
    ids = torch.zeros(2, 2, dtype=torch.long)
    model(ids, state=state, mask=torch.tensor([[False, True], [True, True]]))
    with pytest.raises(hg.ShapeError, match="row 0 has padding after a real token"):
        model(ids, state=state, mask=torch.tensor([[False, True], [True, True]]))


def test_window_bounds_the_cache():
    case = make("attention-window")
    state = case.init_state(1, 100)
    assert state.layers[0].k.shape[2] == 5
    assert state.nbytes() == 2 * 5 * 2 * 8 * 4


def test_state_of_another_model_is_refused():
    first, second = make("attention-grouped"), make("mamba1")
    with pytest.raises(hg.ShapeError, match="belongs to another model"):
        first.init_state(1, 8).load_state_dict(second.init_state(1, 8).state_dict())


def test_gradients_flow_through_a_call_with_a_state():
    model = make("hybrid-pre-rms", "float64")
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    whole = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    with_state = torch.autograd.grad(model(x, state=model.init_state(1, 8)).sum(), list(model.parameters()))
    for a, b in zip(with_state, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_a_call_that_failed_halfway_leaves_a_state_that_says_so(monkeypatch):
    model = build(TOKENS)
    state, ids = model.init_state(1, 8), torch.zeros(1, 2, dtype=torch.long)

    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model.backbone.layers[2], "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(ids, state=state)
    with pytest.raises(hg.ShapeError, match="failed halfway"):
        model(ids, state=state)
    state.reset()
    torch.testing.assert_close(model(ids, state=state), model(ids))


@torch.no_grad()
def test_states_without_a_full_cache_have_no_bound():
    for case in ("mamba1", "mamba2", "attention-window"):
        model = make(case)
        x = torch.randn(1, 30, 32)
        state = model.init_state(1, 8)
        pieces = [model(x[:, t : t + 3], state=state) for t in range(0, 30, 3)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(x), rtol=1e-4, atol=1e-5)


def test_training_only_the_query_norm_through_a_state():
    model = make("attention-qk-norm-head", "float64")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_norm" in name)
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    state = model.init_state(1, 8)
    total = model(x[:, :3], state=state).sum() + model(x[:, 3:], state=state).sum()
    weight = model.backbone.layers[0].mixer.q_norm.weight
    (through_state,) = torch.autograd.grad(total, weight)
    (whole,) = torch.autograd.grad(model(x).sum(), weight)
    torch.testing.assert_close(through_state, whole)


def test_a_state_of_another_stack_is_refused():
    fewer = {**TOKENS, "backbone": {**TOKENS["backbone"], "n_layer": 3}}
    with pytest.raises(hg.ShapeError, match="made by a model of another backbone"):
        build(TOKENS)(torch.zeros(1, 1, dtype=torch.long), state=build(fewer).init_state(1, 8))


def test_saved_states_that_say_nonsense():
    state = make("attention-grouped").init_state(1, 8)
    saved = state.state_dict()
    for change in ({"length": torch.tensor(9)}, {"length": torch.tensor(-1)}, {"more": torch.tensor(0)}):
        with pytest.raises(hg.ShapeError):
            state.load_state_dict({**saved, **change})


@torch.no_grad()
@pytest.mark.parametrize("case", ["attention-grouped", "attention-window", "attention-conv", "mamba1", "mamba2"])
def test_state_in_another_dtype_and_under_autocast(case):
    model = make(case)
    x = torch.randn(1, 12, 32)
    whole = model(x)
    state = model.init_state(1, 12, dtype=torch.bfloat16)
    pieces = torch.cat([model(x[:, a:b], state=state) for a, b in ((0, 6), (6, 7), (7, 12))], dim=1)
    assert (pieces - whole).abs().max() < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        state = model.init_state(1, 12)
        pieces = torch.cat([model(x[:, a:b], state=state) for a, b in ((0, 6), (6, 7), (7, 12))], dim=1)
    assert (pieces.float() - whole).abs().max() < 0.3
