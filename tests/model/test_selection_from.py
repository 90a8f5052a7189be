"""Selective layers that take over what other layers have chosen, against tables made by hand."""

from typing import Any

import pytest
import torch

import hybridgen as hg
from tests.helpers.tolerances import assert_close

D, P, HEADS = 32, 8, 4
BASE: dict[str, Any] = {"type": "attention", "num_heads": HEADS, "num_heads_kv": 2, "selective": True}
STACKS = {
    "accumulate": ["accumulate"] * 4,
    "previous": ["previous"] * 4,
    "guide": ["self", "guide", "guide", "guide"],
    "two-guides": ["self", "guide", "accumulate", "guide", "previous", "guide"],
    "mixed": ["self", "previous", "self", "accumulate"],
}


def build(sources: list[str], fields: dict[str, Any] | None = None, hybrid: bool = False) -> Any:
    """A stack of one layer per source, each with a selection head of its own; every parameter moved from its start."""
    blocks: dict[str, Any] = {
        f"b{index}": {"mixer": {**BASE, "selection_from": source, "selection_head": index % HEADS, **(fields or {})}}
        for index, source in enumerate(sources)
    }
    pattern = " ".join(blocks)
    if hybrid:
        blocks["m"] = {"mixer": {"type": "mamba2", "headdim": 8, "d_state": 8}}
        pattern = pattern.replace(" ", " m ")
    document = {"backbone": {"d_model": D, "blocks": blocks, "pattern": pattern}}
    model = hg.build(hg.ModelSpec.model_validate(document), dtype="float64")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def tokens(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def by_hand(model: Any, x: torch.Tensor, window: int | None = None, softcap: float | None = None) -> torch.Tensor:
    """The stack with whole tables, as docs/selective_attention.md defines them."""
    T = x.shape[1]
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    seen = (j <= i) & (j > i - (window or T))
    chain: list[torch.Tensor] = []
    F: Any = None
    for layer in model.backbone.layers:
        mixer = layer.mixer
        spec = mixer.spec
        q, k, v = mixer.in_proj(layer.norm(x)).split((D, D // 2, D // 2), dim=-1)
        q, k, v = (t.unflatten(-1, (-1, P)).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        scores = q @ k.mT / P**0.5
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        G = scores[:, spec.selection_head].relu() * (seen & (j < i) & (j > 0))
        if spec.selection_from == "previous":
            F = sum(chain, torch.zeros_like(G))
        elif spec.selection_from != "guide":
            total = G + sum(chain, torch.zeros_like(G)) if spec.selection_from == "accumulate" else G
            F = total.cumsum(dim=1) - total
        if spec.selection_from != "guide":
            chain.append(G)
        weights = (scores - F[:, None]).masked_fill(~seen, -torch.inf).softmax(dim=-1)
        x = x + mixer.out_proj((weights @ v).transpose(1, 2).flatten(-2))
    return model.backbone.norm_f(x)


@pytest.mark.parametrize("fields", [{}, {"window": 9, "logit_softcap": 3.0}], ids=["plain", "window-softcap"])
@pytest.mark.parametrize("name", STACKS)
def test_equals_the_tables_by_hand(name, fields):
    model, x = build(STACKS[name], fields), tokens(37)
    expected = by_hand(model, x, fields.get("window"), fields.get("logit_softcap"))
    assert_close(model(x), expected)
    dy = torch.randn_like(expected)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(expected, parameters, dy, allow_unused=True)
    found = torch.autograd.grad(model(x), parameters, dy, allow_unused=True)
    for given, grad in zip(found, wanted, strict=True):
        assert_close(given, grad)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_pieces_equal_the_whole(name, hybrid):
    model, x = build(STACKS[name], {"window": 11}, hybrid).eval(), tokens(40)
    with torch.no_grad():
        whole = model(x)
        state = model.init_state(2, 40)
        parts = [model(piece, state=state) for piece in x.split([17, 1, 1, 6, 15], dim=1)]
    assert_close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("name", ["accumulate", "previous", "guide"])
def test_every_source_makes_another_model(name):
    model, x = build(STACKS[name]), tokens(30)
    alone = build(["self"] * 4)
    alone.load_state_dict(model.state_dict())
    assert (model(x) - alone(x)).abs().max() > 1e-3


def test_a_guided_layer_keeps_nothing_of_its_own():
    state = build(STACKS["guide"]).init_state(1, 16)
    assert [layer.hidden is None for layer in state.layers] == [False, True, True, True]


@pytest.mark.parametrize(
    ("fields", "place", "words"),
    [
        (["guide", "self"], "b0", "needs a selective layer before it"),
        (["self", {"selection_from": "guide", "window": 4}], "window", "needs the same window"),
        (["self", {"selection_from": "accumulate", "protect_bos": False}], "protect_bos", "needs the same protect_bos"),
        ([{"selective": False, "selection_from": "guide"}], "selective", "need selective: true"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(fields, place, words):
    blocks = {
        f"b{index}": {"mixer": {**BASE, **({"selection_from": one} if isinstance(one, str) else one)}}
        for index, one in enumerate(fields)
    }
    with pytest.raises(hg.SpecError) as caught:
        hg.ModelSpec.model_validate({"backbone": {"d_model": D, "blocks": blocks, "pattern": " ".join(blocks)}})
    assert place in str(caught.value)
    assert words in str(caught.value)


def test_residual_scores_are_no_place_for_it():
    blocks = {"a": {"mixer": {**BASE, "selection_from": "accumulate"}}}
    backbone = {"d_model": D, "blocks": blocks, "pattern": "a*2", "residual_attn": True}
    with pytest.raises(hg.SpecError, match="add up over the layers already"):
        hg.ModelSpec.model_validate({"backbone": backbone})
