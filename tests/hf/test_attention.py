"""Attention by transformers' interface: every implementation gives the same, and weights are shown by the eager one."""

import pytest
import torch
import transformers
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hybridgen import hf
from hybridgen.errors import UnsupportedError
from hybridgen.hf.attention import eager_attention
from tests.hf.kinds import KINDS, TIGHT, ids, wrapped

KIND = pytest.mark.parametrize("kind", KINDS)
# Those with a layer whose scores are products and nothing else.
ATTENDING = [kind for kind in KINDS if kind not in ("mamba1", "mamba2", "residual")]
LENGTH = 11
CALLS = []


def counted(module, query, key, value, attention_mask, **kwargs):
    """What a user may register: that of transformers, and a note of the call."""
    CALLS.append((query.shape, key.shape, attention_mask.shape, attention_mask.dtype, kwargs["sliding_window"]))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


@pytest.fixture
def registered():
    AttentionInterface.register("counted", counted)
    CALLS.clear()
    yield "counted"
    del AttentionInterface._global_mapping["counted"]


def padded():
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :3] = 0
    mask[1, 9:] = 0
    return mask


def by_pieces(model, tokens, mask):
    cache, parts, at = DynamicCache(config=model.config), [], 0
    for part in tokens.split([9, 1, 1], dim=1):
        at += part.shape[1]
        given = None if mask is None else mask[:, :at]
        parts.append(model(part, attention_mask=given, past_key_values=cache).logits)
    return torch.cat(parts, dim=1)


@KIND
@pytest.mark.parametrize("name", ["eager", "counted"])
@torch.no_grad()
def test_implementations_agree(kind, name, registered):
    model, tokens, mask = wrapped(kind), ids(LENGTH), padded()
    calls = [{}, {"attention_mask": mask}]
    if not kind.startswith("memory"):
        calls.append({"seq_idx": torch.arange(LENGTH)[None].expand(2, -1) // 4})
    expected = [model(tokens, use_cache=False, **call).logits for call in calls]
    model.set_attn_implementation(name)
    assert model.config._attn_implementation == name
    for call, before in zip(calls, expected, strict=True):
        torch.testing.assert_close(
            model(tokens, use_cache=False, **call).logits[mask.bool()], before[mask.bool()], **TIGHT
        )
    torch.testing.assert_close(by_pieces(model, tokens, None), expected[0], **TIGHT)
    left = mask.clone()
    left[1] = 1
    found, before = by_pieces(model, tokens, left), wrapped(kind)(tokens, attention_mask=left).logits
    torch.testing.assert_close(found[left.bool()], before[left.bool()], **TIGHT)
    assert bool(CALLS) == (name == "counted" and kind in ATTENDING)


@torch.no_grad()
def test_what_a_registered_function_is_given(registered):
    model = wrapped("hybrid1-window", attention=registered)
    cache = model(ids(8)).past_key_values
    model(ids(1), past_key_values=cache)
    first, second = CALLS
    assert first == ((2, 4, 8, 4), (2, 2, 8, 4), (1, 1, 8, 8), torch.bool, 5)
    assert second == ((2, 4, 1, 4), (2, 2, 5, 4), (1, 1, 1, 5), torch.bool, 5)


def test_gradients_agree():
    tokens, mask, found = ids(LENGTH), padded(), []
    for name in ("sdpa", "eager"):
        model = wrapped("hybrid2", attention=name)
        model(tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def _uncompiled(_training):
    return lambda: flex_attention


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@KIND
@torch.no_grad()
def test_flex_attention_agrees(kind, monkeypatch):
    """Its formulas, uncompiled; see below."""
    monkeypatch.setattr(transformers.integrations.flex_attention, "WrappedFlexAttention", _uncompiled)
    tokens, mask = ids(LENGTH), padded()
    model = wrapped(kind)
    expected, steps = model(tokens, attention_mask=mask).logits, by_pieces(model, tokens, None)
    model.set_attn_implementation("flex_attention")
    found = model(tokens, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **TIGHT)
    torch.testing.assert_close(by_pieces(model, tokens, None), steps, **TIGHT)
    if not kind.startswith("memory"):
        positions = (torch.arange(LENGTH) % 4)[None]
        packed = wrapped(kind)(tokens, position_ids=positions).logits
        torch.testing.assert_close(model(tokens, position_ids=positions).logits, packed, **TIGHT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_flex_attention_agrees_and_says_that_it_has_no_backward_on_the_cpu():
    torch.compiler.reset()
    tokens, mask = ids(LENGTH), padded()
    model = wrapped("hybrid1-window", "float32")
    with torch.no_grad():
        expected = model(tokens, attention_mask=mask).logits
        model.set_attn_implementation("flex_attention")
        found = model(tokens, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=2e-5)
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        model(tokens, attention_mask=mask)


@torch.no_grad()
def test_an_implementation_is_chosen_at_load(tmp_path):
    model, tokens = wrapped("hybrid2"), ids(LENGTH)
    model.save_pretrained(tmp_path)
    for name in ("sdpa", "eager"):
        loaded = hf.HybridgenForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
        assert loaded.config._attn_implementation == name
        assert loaded.backbone.config is loaded.backbone.attending.config
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, **TIGHT)
        assert name == "sdpa" or loaded(tokens, output_attentions=True).attentions
    with pytest.raises(ValueError, match="does not support Flash Attention 2"):
        hf.HybridgenForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="nonsense"):
        model.set_attn_implementation("nonsense")
    torch.testing.assert_close(model(tokens).logits, loaded(tokens).logits, **TIGHT)


@pytest.mark.parametrize("kind", ATTENDING)
@torch.no_grad()
def test_weights_of_attention(kind):
    model, tokens, mask = wrapped(kind, attention="eager"), ids(LENGTH), padded()
    memory = model.backbone.memory_count
    plain = sum(layer.mixer is not None and hasattr(layer.mixer, "attend") and not layer.mixer.spec.changes_scores()
                for layer in model.backbone.layers)  # fmt: skip
    for call in ({}, {"attention_mask": mask}):
        outputs = model(tokens, output_attentions=True, **call)
        assert len(outputs.attentions) == plain
        assert torch.equal(outputs.logits, model(tokens, **call).logits)
        assert model(tokens, **call).attentions is None
        for weights in outputs.attentions:
            assert weights.shape == (2, 4, LENGTH, LENGTH + memory)
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, LENGTH, dtype=torch.float64))
            own = weights[..., memory:]
            if not (call and memory):
                assert not own.triu(1).any(), "no query sees a later key"
            if call and not memory:
                real = mask.bool()
                assert not own[0, :, real[0]][..., ~real[0]].any(), "no query sees padding"
                assert not own[1, :, real[1]][..., ~real[1]].any(), "no query sees padding"
    cache = model(tokens[:, :8]).past_key_values
    outputs = model(tokens[:, 8:], past_key_values=cache, output_attentions=True)
    for weights, whole in zip(outputs.attentions, model(tokens, output_attentions=True).attentions, strict=True):
        held = weights.shape[3]
        torch.testing.assert_close(weights, whole[:, :, 8:, whole.shape[3] - held :], **TIGHT)


@torch.no_grad()
def test_weights_follow_the_callers_order():
    model, tokens = wrapped("transformer", attention="eager"), ids(LENGTH)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, [2, 3, 7, 10]] = 0
    real = mask[0].bool()
    found = model(tokens, attention_mask=mask, output_attentions=True).attentions
    alone = model(tokens[:1, real], output_attentions=True).attentions
    for ours, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(ours[0][:, real][..., real], expected[0], **TIGHT)


@pytest.mark.parametrize("name", ["sdpa", "counted"])
@torch.no_grad()
def test_weights_are_refused_where_none_are_made(name, registered):
    model = wrapped("hybrid2", attention=name)
    with pytest.raises(UnsupportedError, match=r"output_attentions needs attn_implementation='eager'.*set_attn_impl"):
        model(ids(3), output_attentions=True)


def test_the_dropout_of_eager_attention_is_of_training_only():
    module = torch.nn.Module().train()
    q = k = v = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    _, weights = eager_attention(module, q, k, v, None, 0.5, dropout=0.5)
    assert (weights == 0).any()
    _, weights = eager_attention(module.eval(), q, k, v, None, 0.5, dropout=0.5)
    assert (weights > 0).all()
