"""Every pair of attention's options: refused in words, or it works, and neither option goes silent beside the other."""

import functools
import itertools
from typing import Any

import pytest
import torch

import hybridgen as hg

D, LENGTH = 16, 9
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
# Fields of both attention layers, of the second alone, and of the backbone.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "selective": {"attn": {"selective": True}},
    "selection_head": {"attn": {"selective": True, "selection_head": 2, "protect_bos": False}},
    "selection_from": {"attn": {"selective": True}, "second": {"selection_from": "guide"}},
    "residual_attn": {"backbone": {"residual_attn": True}},
    "residual_attn-upstream": {"backbone": {"residual_attn": {"carry": "upstream"}}},
    "alibi": {"attn": {"alibi": True}},
    "window": {"attn": {"window": 3}},
    "logit_softcap": {"attn": {"logit_softcap": 1.5}},
    "sink": {"attn": {"sink": True}},
    "qk_norm-head": {"attn": {"qk_norm": "head"}},
    "rotary": {"attn": {"rotary_emb_dim": 4}},
    "grouped": {"attn": {"num_heads_kv": 2}},
    "multi-query": {"attn": {"num_heads_kv": 1}},
    "head_dim": {"attn": {"head_dim": 6}},
    "d_conv": {"attn": {"d_conv": 3}},
    "output_gate-head": {"attn": {"output_gate": "head"}},
    "mlp_dim": {"attn": {"mlp_dim": 256}},
    "value_residual": {"backbone": {"value_residual": "learned"}},
    "not-causal": {"attn": {"causal": False}},
    "dropout": {"attn": {"dropout": 0.5}},
}
REFUSED = {
    ("selective", "not-causal"): "selective: true needs causal: true",
    ("selection_head", "not-causal"): "selective: true needs causal: true",
    ("selection_from", "not-causal"): "selective: true needs causal: true",
    ("window", "not-causal"): "window needs causal: true",
    ("selection_from", "alibi"): "cannot take choices made with alibi",
    ("selection_from", "residual_attn"): "is not for residual_attn",
    ("selection_from", "residual_attn-upstream"): "is not for residual_attn",
}


def differ(first: str, second: str) -> bool:
    """Whether no field is set by both."""
    parts = (OPTIONS[first], OPTIONS[second])
    return not any(parts[0].get(place, {}).keys() & parts[1].get(place, {}).keys() for place in ("attn", "backbone"))


PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if differ(*pair)]


def document(*names: str) -> dict[str, Any]:
    attn: dict[str, Any] = {"type": "attention", "num_heads": 4}
    second: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    for name in names:
        attn |= OPTIONS[name].get("attn", {})
        second |= OPTIONS[name].get("second", {})
        backbone |= OPTIONS[name].get("backbone", {})
    blocks = {"a": {"mixer": attn}, "b": {"mixer": attn | second}}
    return {"backbone": {"d_model": D, "blocks": blocks, "pattern": "a b", **backbone}}


def build(*names: str) -> Any:
    model = hg.build(hg.ModelSpec.model_validate(document(*names)), dtype="float64").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


def tokens() -> torch.Tensor:
    return torch.randn(2, LENGTH, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@functools.cache
def alone(name: str) -> torch.Tensor:
    """What a model with one option makes of the tokens; in training, if that is dropout."""
    torch.manual_seed(0)
    found: torch.Tensor = build(name).train(name == "dropout")(tokens()).detach()
    return found


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_a_pair_works_or_is_refused(pair):
    if pair in REFUSED:
        with pytest.raises(hg.SpecError, match=REFUSED[pair]):
            build(*pair)
        return
    model, x = build(*pair), tokens().requires_grad_()
    torch.manual_seed(0)
    whole = model.train("dropout" in pair)(x)
    for other in pair:
        assert not torch.allclose(whole, alone(other), rtol=1e-6), f"beside {other} the other is silent"
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(whole.sum(), [x, *model.parameters()]))
    if "dropout" in pair:
        whole = model.eval()(x)
    if "not-causal" in pair:
        mask = torch.arange(LENGTH) >= torch.tensor([[0], [4]])
        with torch.no_grad():
            torch.testing.assert_close(model(x, mask=mask)[1:, 4:], model(x[1:, 4:]), **TIGHT)
        return
    with torch.no_grad():
        state = model.init_state(2, LENGTH)
        steps = torch.cat([model(part, state=state) for part in x.split([5, 1, 3], dim=1)], dim=1)
    torch.testing.assert_close(steps, whole, **TIGHT)


def test_every_refusal_is_of_a_pair_that_is_tried():
    assert set(REFUSED) <= set(PAIRS)
    assert len(PAIRS) > 180
