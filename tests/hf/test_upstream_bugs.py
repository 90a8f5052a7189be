"""What transformers 5.23's own hybrids get wrong, one test for each; see shared/facts/huggingface_liger.md, 2.1."""

import pytest
import torch
from transformers import DynamicCache

from tests.hf.kinds import KINDS, TIGHT, ids, wrapped

KIND = pytest.mark.parametrize("kind", KINDS)
RECURRENT = pytest.mark.parametrize("kind", ["mamba1", "mamba2", "hybrid1-window", "hybrid2", "values", "memory"])
PURE = pytest.mark.parametrize("kind", ["mamba1", "mamba2"])


@pytest.mark.parametrize("kind", ["mamba1", "hybrid1-window", "values"])
@torch.no_grad()
def test_mamba1_goes_on_from_a_cache_with_several_tokens_at_once(kind):
    """There the scan begins from zeros again (mamba, falcon_mamba, jamba, zamba)."""
    model, tokens = wrapped(kind), ids(12)
    cache = model(tokens[:, :5]).past_key_values
    found = model(tokens[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(found, model(tokens).logits[:, 5:], **TIGHT)


@pytest.mark.parametrize("kind", ["mamba2", "hybrid2", "memory"])
@torch.no_grad()
def test_mamba2_keeps_to_dt_limit_when_decoding(kind):
    """There the steps are limited in whole sequences and not in decoding (mamba2, nemotron_h, zamba2)."""
    model, tokens = wrapped(kind), ids(12)
    mixer = next(layer.mixer for layer in model.backbone.layers if type(layer.mixer).__name__ == "Mamba2")
    assert tuple(mixer.spec.dt_limit) == (0.01, 0.05)
    cache, steps = DynamicCache(), []
    for token in tokens.split(1, dim=1):
        steps.append(model(token, past_key_values=cache).logits)
    expected = model(tokens).logits
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, **TIGHT)
    # The limits are in the way of these weights: without them the logits are others.
    mixer.spec = mixer.spec.model_copy(update={"dt_limit": (0.0, float("inf"))})
    assert (model(tokens).logits - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["transformer", "hybrid2", "hybrid1-window"])
@torch.no_grad()
def test_decoding_by_hand_without_position_ids_counts_the_cache(kind):
    """There the positions of each call begin at 0 (bamba)."""
    model, tokens = wrapped(kind), ids(9)
    cache = model(tokens[:, :6]).past_key_values
    expected = model(tokens).logits
    for at in range(6, 9):
        found = model(tokens[:, at : at + 1], past_key_values=cache).logits
        torch.testing.assert_close(found, expected[:, at : at + 1], **TIGHT)


@KIND
@torch.no_grad()
def test_several_rows_are_decoded_as_each_alone(kind):
    """There the states of the rows are mixed up (rwkv)."""
    model, tokens = wrapped(kind), ids(8, batch=3)
    cache = model(tokens[:, :6]).past_key_values
    found = model(tokens[:, 6:7], past_key_values=cache).logits
    assert found.shape == (3, 1, model.config.vocab_size)
    for row in range(3):
        alone = model(tokens[row : row + 1, :6]).past_key_values
        expected = model(tokens[row : row + 1, 6:7], past_key_values=alone).logits
        torch.testing.assert_close(found[row : row + 1], expected, **TIGHT)


@RECURRENT
@torch.no_grad()
def test_left_padding_leaves_no_trace_in_a_recurrent_state(kind):
    """There padding is read as tokens (recurrent_gemma, rwkv, xlstm)."""
    model, tokens = wrapped(kind), ids(9, batch=1)
    mask = torch.ones_like(tokens)
    mask[:, :4] = 0
    cache, alone = DynamicCache(), DynamicCache()
    found = model(tokens, attention_mask=mask, past_key_values=cache).logits[:, 4:]
    torch.testing.assert_close(found, model(tokens[:, 4:], past_key_values=alone).logits, **TIGHT)
    more = ids(2, batch=1, seed=8)
    found = model(more, past_key_values=cache).logits
    torch.testing.assert_close(found, model(more, past_key_values=alone).logits, **TIGHT)


@RECURRENT
@torch.no_grad()
def test_right_padding_of_a_prefill_leaves_no_trace_in_a_recurrent_state(kind):
    """There the states behind right padding are those of the padding (mamba and all that took its code)."""
    model, tokens = wrapped(kind), ids(9)
    lengths = (9, 5)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    cache = model(tokens, attention_mask=mask).past_key_values
    more = ids(2, seed=8)
    mask = torch.cat((mask, torch.ones_like(more)), dim=1)
    found = model(more, attention_mask=mask, past_key_values=cache).logits
    for row, length in enumerate(lengths):
        own = torch.cat((tokens[row, :length], more[row]))[None]
        torch.testing.assert_close(found[row], model(own).logits[0, length:], **TIGHT)


@PURE
@torch.no_grad()
def test_a_cache_of_mamba_layers_alone_tells_its_length(kind):
    """There it raises an error, and nothing that asks for positions works (any pure state-space model)."""
    model, tokens = wrapped(kind), ids(6)
    cache = DynamicCache(config=model.config)
    model(tokens, past_key_values=cache)
    assert [cache.get_seq_length(), cache.get_seq_length(1)] == [6, 6]
    assert cache.get_mask_sizes(2, 0) == (8, 0)
    cache = DynamicCache(config=model.config)
    model.generate(tokens, past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert cache.get_seq_length() == 8


@RECURRENT
@torch.no_grad()
def test_a_cache_is_not_kept_on_the_module(kind):
    """There two conversations share one state (recurrent_gemma)."""
    model, one, other = wrapped(kind), ids(6), ids(6, seed=8)
    first = model(one[:, :3]).past_key_values
    second = model(other[:, :3]).past_key_values
    torch.testing.assert_close(model(one[:, 3:], past_key_values=first).logits, model(one).logits[:, 3:], **TIGHT)
    torch.testing.assert_close(model(other[:, 3:], past_key_values=second).logits, model(other).logits[:, 3:], **TIGHT)
