"""Residual attention: what is carried from layer to layer, in both of its forms."""

from typing import Any

import pytest
import torch

import hybridgen as hg
from hybridgen.layers.mixers import residual_attention
from hybridgen.layers.mixers.residual_attention import ResidualAttention
from hybridgen.ops.selective_attention.in_place import attend_in_place
from tests.helpers.tolerances import assert_close

D = 32
HEADS: dict[str, Any] = {"type": "attention", "num_heads": 4, "num_heads_kv": 2}


def build(residual: Any, *mixers: dict[str, Any], pattern: str | None = None) -> Any:
    """A stack of one layer per mixer (fields besides the heads), every parameter moved from its start."""
    blocks = {f"b{index}": {"mixer": {**HEADS, **fields}} for index, fields in enumerate(mixers)}
    backbone = {"d_model": D, "blocks": blocks, "pattern": pattern or " ".join(blocks), "residual_attn": residual}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}), dtype="float64")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def tokens(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def by_hand(model: Any, x: torch.Tensor, carry: str) -> torch.Tensor:
    """The stack with all scores as tables, for causal layers with neither positions nor anything else."""
    total, T = 0.0, x.shape[1]
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    for count, layer in enumerate(model.backbone.layers, start=1):
        mixer = layer.mixer
        q, k, v = mixer.in_proj(layer.norm(x)).split((D, D // 2, D // 2), dim=-1)
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        total = total + q @ k.mT / 8**0.5
        scores = total / count if carry == "mean" else total
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        x = x + mixer.out_proj((weights @ v).transpose(1, 2).flatten(-2))
    return model.backbone.norm_f(x)


@pytest.mark.parametrize(
    ("carry", "training"),
    [("raw", "products"), ("raw", "table"), ("mean", "products"), ("mean", "table"), ("upstream", "auto")],
)
def test_every_form_is_the_tables_by_hand(carry, training):
    model, x = build({"carry": carry, "training": training}, {}, {}, {}), tokens(137)
    expected = by_hand(model, x, carry)
    assert_close(model(x), expected)
    with torch.no_grad():
        assert_close(model(x), expected)
    dy = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, list(model.parameters()), dy)
    for given, grad in zip(torch.autograd.grad(model(x), list(model.parameters()), dy), wanted, strict=True):
        assert_close(given, grad)


def test_training_makes_no_table(monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("a table of scores was made")

    monkeypatch.setattr(residual_attention, "attend_densely", forbidden)
    monkeypatch.setattr(residual_attention, "attend_in_place", forbidden)
    build({"training": "products"}, {}, {"selective": True})(tokens(20)).sum().backward()


VARIED: list[dict[str, Any]] = [
    {"selective": True, "sink": True, "num_heads_kv": 1},
    {"window": 5, "logit_softcap": 3.0},
    {"selective": True, "selection_head": 2, "protect_bos": False, "head_dim": 6},
]


@pytest.mark.parametrize("carry", ["raw", "mean"])
@pytest.mark.parametrize("every", [None, 2])
def test_one_table_equals_products(carry, every):
    """Gradients too, for layers that differ in all they may differ in, with padding and a state before the tokens."""
    grads, outputs = [], []
    for training in ("products", "table"):
        model = build({"carry": carry, "every": every, "training": training}, *VARIED)
        x = tokens(150)
        mask = torch.arange(150) >= torch.tensor([[0], [7]])
        state = model.init_state(2, 150)
        with torch.no_grad():
            model(x[:, :9], state=state, mask=mask[:, :9])
        later = model(x[:, 9:], state=state)
        whole = model(x, mask=mask)
        outputs += [torch.cat((later, whole), dim=1)]
        grads.append(torch.autograd.grad(outputs[-1].square().sum(), list(model.parameters())))
    assert_close(outputs[1], outputs[0])
    for given, wanted in zip(*grads, strict=True):
        assert_close(given, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("carry", ["raw", "mean", "upstream"])
def test_both_together_in_smaller_types(carry, dtype):
    """Outputs with and without gradients, and gradients, near those of float64; the carried scores stay in float32."""
    both = {"selective": True, "sink": True}
    for training in ("auto", "products") if carry != "upstream" else ("auto",):
        model, x = build({"carry": carry, "training": training}, both, {**both, "window": 9}, both), tokens(40)
        wanted = model(x)
        grads = torch.autograd.grad(wanted.square().mean(), list(model.parameters()))
        model.to(dtype)
        found = model(x.to(dtype))
        assert found.dtype == dtype
        with torch.no_grad():
            in_pieces = model(x.to(dtype))
        bound = {torch.float32: 1e-5, torch.bfloat16: 0.06, torch.float16: 0.01}[dtype]
        for y in (found, in_pieces):
            assert (y.double() - wanted).norm() <= bound * wanted.norm()
        for given, grad in zip(
            torch.autograd.grad(found.float().square().mean(), list(model.parameters())), grads, strict=True
        ):
            assert (given.double() - grad).norm() <= 5 * bound * grad.norm() + 1e-3 * bound


def test_the_table_is_used_where_it_fits(monkeypatch):
    model, x = build(True, {}, {}), tokens(20)
    used = []
    monkeypatch.setattr(residual_attention, "attend_in_place", lambda *a: used.append(1) or attend_in_place(*a))
    model(x).sum().backward()
    assert len(used) == 2
    monkeypatch.setattr(residual_attention, "TABLE_BYTES", 2 * 8 * 2 * 4 * 20 * 20 - 1)
    model(x).sum().backward()
    assert len(used) == 2


def test_one_table_goes_back_once():
    model, x = build({"training": "table"}, {}, {}), tokens(20)
    y = model(x).sum()
    y.backward(retain_graph=True)
    with pytest.raises(hg.UnsupportedError, match="training: products"):
        y.backward()
    y = model(x).sum()
    y.backward()


def test_training_is_no_choice_where_scores_are_no_sum():
    with pytest.raises(hg.SpecError, match="training is for carry 'raw' or 'mean'"):
        build({"carry": "upstream", "training": "table"}, {}, {})


def test_inference_makes_no_table_of_more_rows_than_a_piece(monkeypatch):
    rows = []
    dense = residual_attention.attend_with_table

    def watched(q, *rest):
        rows.append(q.shape[2])
        return dense(q, *rest)

    model, x = build(True, {}, {"selective": True, "window": 50}, {}), tokens(600, batch=1)
    expected = model(x)
    monkeypatch.setattr(residual_attention, "attend_with_table", watched)
    with torch.no_grad():
        assert_close(model(x), expected)
        seq_idx = (torch.arange(600) > 300).long()[None]
        assert_close(model(x, seq_idx=seq_idx)[:, 301:], model(x[:, 301:]))
    assert max(rows) == 256
    assert sum(rows[:9]) == 3 * 600


def reach(model: Any, x: torch.Tensor) -> int:
    """How many tokens back the last one still sees."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[0, -1].sum(), x)
    return int((grad[0].abs().sum(-1) > 0).flip(0).nonzero().max())


@pytest.mark.parametrize(("carry", "expected"), [("raw", 19), ("mean", 19), ("upstream", 6)])
def test_windows_leak_with_upstreams_carry_only(carry, expected):
    assert reach(build({"carry": carry}, {"window": 4}, {}), tokens(20)) == expected


def test_every_begins_a_new_chain():
    model = build({"every": 2}, {}, {}, {}, {})
    seen: list[int] = []
    for layer in model.backbone.layers:
        layer.mixer.register_forward_hook(lambda _m, _a, out: seen.append(out[1].scores.layers))
    model(tokens(5))
    assert seen == [1, 2, 1, 2]


@pytest.mark.parametrize(("cross_block", "expected"), [(True, [1, 2]), (False, [1, 1])])
def test_other_mixers_pass_the_scores_or_not(cross_block, expected):
    blocks = {"a": {"mixer": HEADS}, "m": {"mixer": {"type": "mamba1"}}, "f": {"mlp": {"d_intermediate": 16}}}
    backbone = {"d_model": D, "blocks": blocks, "pattern": "a f m a", "residual_attn": {"cross_block": cross_block}}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}))
    seen: list[int] = []
    for layer in model.backbone.layers:
        if isinstance(layer.mixer, ResidualAttention):
            layer.mixer.register_forward_hook(lambda _m, _a, out: seen.append(out[1].scores.layers))
    model(tokens(5).float())
    assert seen == expected


def test_attention_that_sees_later_tokens():
    model, x = build(True, {"causal": False}, {"causal": False}), tokens(30)
    with torch.no_grad():
        expected = model(x)
    assert_close(model(x), expected)
    ids = torch.tensor([[0] * 11 + [1] * 19] * 2)
    assert_close(model(x, seq_idx=ids)[:, :11], model(x[:, :11]))


def test_layers_may_differ_in_what_is_not_added():
    mixers = ({"head_dim": 16}, {"num_heads_kv": 4, "softmax_scale": 0.3}, {"num_heads_kv": 1, "sink": True})
    model, x = build(True, *mixers), tokens(15)
    with torch.no_grad():
        expected = model(x)
    assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ({"residual_attn": True}, "residual_attn needs attention layers; there are none"),
        ({"residual_attn": {"carry": "sum"}}, "carry"),
        ({"residual_attn": {"every": 0}}, "every"),
        ({"residual_attn": "yes"}, "residual_attn"),
        (
            {"attn_layer_idx": "all", "residual_attn": True, "overrides": [{"layers": [1], "attn": {"num_heads": 2}}]},
            r"same num_heads in all attention layers.* given 2 after 4",
        ),
    ],
)
def test_faults_are_worded(backbone, words):
    with pytest.raises(hg.SpecError, match=words):
        hg.ModelSpec.model_validate({"backbone": {"d_model": D, "n_layer": 2, "attn": {"num_heads": 4}, **backbone}})


@pytest.mark.parametrize("off", [False, None])
def test_it_can_be_written_off(off):
    spec = hg.ModelSpec.model_validate({"backbone": {"d_model": D, "n_layer": 1, "residual_attn": off}})
    assert spec.backbone.residual_attn is None


def test_long_sequences_through_a_mixer_that_reads_backwards():
    """Such a stack cannot be read in pieces, so it is read whole."""
    mamba = {"type": "mamba1", "d_state": 4, "bidirectional": "v2"}
    spec = {
        "backbone": {
            "d_model": 16, "n_layer": 3, "attn_layer_idx": [0, 2], "attn": {"num_heads": 2}, "ssm": mamba,
            "residual_attn": True,
        }
    }  # fmt: skip
    model = hg.build(hg.ModelSpec.model_validate(spec)).eval()
    x = torch.randn(1, 300, 16)
    y = model(x.clone().requires_grad_())
    with torch.no_grad():
        torch.testing.assert_close(model(x), y.detach(), atol=1e-5, rtol=1e-5)
