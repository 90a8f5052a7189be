"""What training drops: how much, of what, and never outside of training."""

from typing import Any

import pytest
import torch

import hybridgen as hg

D = 16
ATTENTION: dict[str, Any] = {"type": "attention", "num_heads": 2, "num_heads_kv": 1}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 3},
    "everywhere": {"causal": False},
    "softcap": {"logit_softcap": 2.0},
    "selective": {"selective": True},
}
DROPS = {"layer_dropout": 0.5, "dropout": 0.3, "mlp": 0.2, "input": 0.1}


def build(pattern: str = "a m a", mixer: dict[str, Any] | None = None, dropout: float = 0.0, **backbone: Any) -> Any:
    blocks = {
        "a": {
            "mixer": {**ATTENTION, **(mixer or {}), "dropout": dropout},
            "mlp": {"d_intermediate": 24, "multiple_of": 8, "dropout": dropout},
        },
        "m": {"mixer": {"type": "mamba2", "headdim": 8, "d_state": 4}},
    }
    document = {
        "input": {"type": "tokens", "vocab_size": 11, "dropout": dropout},
        "backbone": {"d_model": D, "blocks": blocks, "pattern": pattern, **backbone},
    }
    return hg.build(hg.ModelSpec.model_validate(document), dtype="float64")


def ids(length: int = 9) -> torch.Tensor:
    return torch.randint(11, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMS)
def test_dropouts_do_nothing_outside_of_training(form):
    model, without = build("a a", FORMS[form], 0.4, layer_dropout=0.5), build("a a", FORMS[form])
    assert torch.equal(model.eval()(ids()), without(ids()))
    assert not torch.equal(model.train()(ids()), without(ids()))


@pytest.mark.parametrize("form", FORMS)
def test_the_seed_decides_what_is_dropped(form):
    model = build("a m a", FORMS[form], 0.4, layer_dropout=0.3)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(ids())

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("residual", [None, True, {"carry": "upstream"}])
@pytest.mark.parametrize("form", FORMS)
def test_attention_is_right_on_average(form, residual):
    """The mean over 40 000 rows stays within 5 of its standard errors, everywhere."""
    spec = {**ATTENTION, **FORMS[form]}
    backbone = {"d_model": D, "blocks": {"x": {"mixer": spec}}, "pattern": "x", "residual_attn": residual}
    without = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}), dtype="float64").backbone.layers[0].mixer
    spec["dropout"] = 0.4
    dropping = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}), dtype="float64").backbone.layers[0].mixer
    x = torch.randn(1, 5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(40_000, -1, -1)
    torch.manual_seed(0)
    expected, got = without(x[:1]), dropping(x)
    error = got.std(dim=0) / len(got) ** 0.5
    assert (error > 0).all()
    assert ((got.mean(dim=0) - expected[0]).abs() < 5 * error).all()


def test_what_is_selected_is_not_dropped():
    """F, which the state keeps, is made of scores, not of weights."""
    states = []
    for dropout in (0.0, 0.5):
        mixer = build("a", {"selective": True}, dropout).backbone.layers[0].mixer
        states.append(mixer.init_state(2, 9, torch.float64, torch.device("cpu")))
        mixer(torch.randn(2, 9, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64), states[-1])
    torch.testing.assert_close(states[0].hidden, states[1].hidden)


def test_chains_of_layers_agree_on_dropout():
    blocks = {name: {"mixer": {**ATTENTION, "dropout": share}} for name, share in (("a", 0.0), ("d", 0.1))}
    backbone = {"d_model": D, "blocks": blocks, "pattern": "a d", "residual_attn": True}
    with pytest.raises(hg.SpecError, match=r"same dropout in all attention layers.* given 0.1 after 0.0"):
        hg.ModelSpec.model_validate({"backbone": backbone})


def test_layer_dropout_leaves_out_so_many_branches():
    model, calls = build("a m a", layer_dropout=0.25), []
    for layer in model.backbone.layers:
        for part in (layer.mixer, layer.mlp):
            if part is not None:
                part.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    runs = 400
    for _ in range(runs):
        model(ids(2))
    # Five branches; the standard deviation of the share is 0.0097.
    assert abs(len(calls) / (5 * runs) - 0.75) < 0.04


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "residual"])
def test_without_any_branch_the_embeddings_are_left(placement, monkeypatch):
    model = build("a m a", layer_dropout=0.5, norm_placement=placement)
    monkeypatch.setattr(torch, "rand", torch.zeros)
    embedded = model.backbone.embed(ids())
    expected = embedded if placement == "residual" else model.backbone.norm_f(embedded)
    torch.testing.assert_close(model(ids()), expected)


def test_with_a_state_no_layer_is_left_out():
    model = build("a m a", layer_dropout=0.9)
    assert torch.equal(model(ids(), state=model.init_state(2, 9)), model.eval()(ids(), state=model.init_state(2, 9)))


def test_codes_are_dropped_as_one_embedding():
    backbone = {"d_model": 200, "n_layer": 1, "layer_dropout": 0.0}
    document = {
        "input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 5, "dropout": 0.25},
        "backbone": backbone,
    }
    model = hg.build(hg.ModelSpec.model_validate(document))
    torch.manual_seed(0)
    share = float((model._embed(torch.zeros(8, 8, 3, dtype=torch.long)) == 0).float().mean())
    assert abs(share - 0.25) < 0.02
    assert (model.eval()._embed(torch.zeros(8, 8, 3, dtype=torch.long)) != 0).all()


def test_a_compiled_graph_refuses_to_leave_out_layers(monkeypatch):
    model = build("a", layer_dropout=0.5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(hg.UnsupportedError, match="layer_dropout chooses the layers of each call"):
        model(ids())


@pytest.mark.parametrize("value", [1.0, -0.1, True])
def test_shares_are_from_0_up_to_1(value):
    with pytest.raises(hg.SpecError, match="dropout"):
        build("a", dropout=value)


@torch.no_grad()
def test_layer_dropout_is_on_for_long_calls_without_gradients():
    """Residual attention reads long calls in pieces otherwise, with a state, for which no layer is left out."""
    attention = {"type": "attention", "num_heads": 2}
    backbone = {"d_model": 16, "blocks": {"a": {"mixer": attention}}, "pattern": "a*4", "residual_attn": True}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": {**backbone, "layer_dropout": 0.5}})).train()
    x = torch.randn(1, 300, 16)
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        found.append(model(x))
    assert any((one - found[0]).abs().max() > 1e-3 for one in found[1:])
