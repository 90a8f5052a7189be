"""Logits are those of our own model, and caches of transformers hold our states, whatever way of reading."""

import copy

import pytest
import torch
from transformers import DynamicCache, QuantizedCache, StaticCache
from transformers.cache_utils import EncoderDecoderCache

from hybridgen import hf
from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from tests.hf.kinds import CROPPABLE, KINDS, TIGHT, VOCABULARY, ids, plain, wrapped

KIND = pytest.mark.parametrize("kind", KINDS)
STATEFUL = [kind for kind in KINDS if kind not in CROPPABLE]
LENGTH = 12

CACHES = {
    "config": lambda model: DynamicCache(config=model.config),
    "plain": lambda model: DynamicCache(),
    "static": lambda model: StaticCache(config=model.config, max_cache_len=LENGTH),
    "asked": lambda model: None,
}


def read(model, tokens, cache, *lengths, **kwargs):
    """Logits of the tokens, read in pieces, and the cache."""
    parts = []
    for part in tokens.split(list(lengths) or [1] * tokens.shape[1], dim=1):
        outputs = model(part, past_key_values=cache, use_cache=True, **kwargs)
        cache = outputs.past_key_values
        parts.append(outputs.logits)
    return torch.cat(parts, dim=1), cache


@KIND
@torch.no_grad()
def test_logits_are_those_of_our_model_and_wrapping_can_be_undone(kind):
    ours, tokens = plain(kind), ids(LENGTH)
    model = hf.wrap(ours)
    expected = ours(tokens)
    assert torch.equal(model(tokens).logits, expected)
    assert torch.equal(model(tokens, use_cache=False).logits, expected)
    assert torch.equal(hf.unwrap(model)(tokens), expected)
    assert model.lm_head.weight is ours.lm_head.weight
    hidden = model.backbone(tokens).last_hidden_state
    torch.testing.assert_close(model._logits(hidden), expected, **TIGHT)


@KIND
@pytest.mark.parametrize("cache", CACHES)
@torch.no_grad()
def test_whole_step_by_step_and_chunks_agree(kind, cache):
    model, tokens = wrapped(kind), ids(LENGTH)
    expected = model(tokens, use_cache=False).logits
    for pieces in ((), (LENGTH,), (5, 4, 1, 2)):
        logits, held = read(model, tokens, CACHES[cache](model), *pieces)
        torch.testing.assert_close(logits, expected, **TIGHT)
        assert held.get_seq_length() == LENGTH
        assert [held.get_seq_length(index) for index in range(len(held))] == [LENGTH] * len(model.backbone.layers)


@KIND
@torch.no_grad()
def test_a_cache_grows_beyond_what_it_begins_with(kind):
    model, tokens = wrapped(kind), ids(150)
    logits, cache = read(model, tokens, None, 60, 3, 1, 1, 5, 60, 20)
    torch.testing.assert_close(logits, model(tokens, use_cache=False).logits, **TIGHT)
    assert (cache.get_seq_length(), cache.get_max_length()) == (150, -1)


@KIND
@torch.no_grad()
def test_what_a_cache_says_of_itself(kind):
    model, tokens = wrapped(kind), ids(5)
    for make in CACHES.values():
        _, cache = read(model, tokens, make(model), 5)
        assert (len(cache), cache.batch_size) == (len(model.backbone.layers), 2)
        assert cache.is_croppable == (kind in CROPPABLE)
        assert not cache.is_compileable
        assert cache.is_sliding == cache.is_linear == cache.is_dummy == [False] * len(cache)
        assert cache.get_mask_sizes(3, 0) == (8, 0)
        assert cache.get_query_offset() == 5
        assert "StateLayer" in repr(cache)
        assert [keys for keys, _, _ in cache] == [None] * len(cache) if isinstance(cache, DynamicCache) else True
        with pytest.raises(ValueError, match="has_previous_state"):
            cache.has_previous_state()
        with pytest.raises(UnsupportedError, match="belongs to a model of hybridgen's"):
            cache.update(torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4), 0)
        cache.activate_past_recording()
        assert not cache.is_recording_past(0)
        cache.early_initialization(2, 2, 4, torch.float64, torch.device("cpu"))
        cache.offload(0)


@KIND
@torch.no_grad()
def test_reset_makes_a_cache_new_for_any_batch(kind):
    model = wrapped(kind)
    _, cache = read(model, ids(5), CACHES["config"](model), 5)
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size) == (0, -1)
    tokens = ids(7, batch=3, seed=9)
    logits, _ = read(model, tokens, cache, 4, 3)
    torch.testing.assert_close(logits, model(tokens).logits, **TIGHT)


@pytest.mark.parametrize("kind", CROPPABLE)
@torch.no_grad()
def test_crop_takes_tokens_back(kind):
    model, tokens = wrapped(kind), ids(LENGTH)
    expected = model(tokens).logits
    for make in (CACHES["config"], CACHES["static"]):
        _, cache = read(model, torch.cat((tokens[:, :6], ids(4, seed=8)), dim=1), make(model), 7, 3)
        cache.crop(0)
        assert cache.get_seq_length() == 10
        cache.crop(-4)
        assert cache.get_seq_length() == 6
        logits, _ = read(model, tokens[:, 6:], cache, 2, 4)
        torch.testing.assert_close(logits, expected[:, 6:], **TIGHT)
        with pytest.raises(ShapeError, match="crop takes 0 or a negative number"):
            cache.crop(3)
        cache.crop(-LENGTH)
        assert cache.get_seq_length() == 0
        torch.testing.assert_close(read(model, tokens, cache, LENGTH)[0], expected, **TIGHT)


@pytest.mark.parametrize("kind", STATEFUL)
@torch.no_grad()
def test_crop_is_refused_where_states_change_as_a_whole(kind):
    model = wrapped(kind)
    _, cache = read(model, ids(5), None, 5)
    before = copy.deepcopy(cache)
    cache.crop(0)
    with pytest.raises(UnsupportedError, match=r"crop takes tokens back, and layers [\d, ]+ \(.*\) cannot"):
        cache.crop(-2)
    more = ids(3, seed=4)
    assert torch.equal(read(model, more, cache, 3)[0], read(model, more, before, 3)[0])
    cache.crop(-99)
    assert cache.get_seq_length() == 0


@KIND
@torch.no_grad()
def test_rows_are_repeated_chosen_and_put_in_order(kind):
    model, tokens, more = wrapped(kind), ids(6), ids(4, seed=8)
    _, cache = read(model, tokens, CACHES["config"](model), 6)
    apart = copy.deepcopy(cache)
    expected = model(torch.cat((tokens, more), dim=1)).logits[:, 6:]

    cache.batch_repeat_interleave(2)
    logits, _ = read(model, more[:, :2].repeat_interleave(2, dim=0), cache, 1, 1)
    torch.testing.assert_close(logits, expected[:, :2].repeat_interleave(2, dim=0), **TIGHT)
    cache.reorder_cache(torch.tensor([3, 2, 1, 0]))
    logits, _ = read(model, more[[1, 1, 0, 0], 2:], cache, 1, 1)
    torch.testing.assert_close(logits, expected[[1, 1, 0, 0], 2:], **TIGHT)
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.batch_size == 1
    torch.testing.assert_close(read(model, more, apart, 4)[0], expected, **TIGHT, msg="a copy is not touched")


@torch.no_grad()
def test_nothing_happens_to_rows_of_an_empty_cache():
    model = wrapped("hybrid2")
    cache = DynamicCache()
    model.backbone.shared_state(cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0]))
    cache.reorder_cache(torch.tensor([0]))
    cache.crop(-3)
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size, cache.get_max_length()) == (0, -1, -1)


@torch.no_grad()
def test_a_full_static_cache_says_so():
    model = wrapped("hybrid2")
    cache = StaticCache(config=model.config, max_cache_len=6)
    read(model, ids(5), cache, 5)
    assert cache.get_max_length() == 6
    with pytest.raises(ShapeError, match="room for 6 tokens and holds 5; 2 more do not fit: make it with a larger"):
        model(ids(2), past_key_values=cache)
    read(model, ids(1), cache, 1)
    recurrent = wrapped("mamba2")
    cache = StaticCache(config=recurrent.config, max_cache_len=6)
    assert read(recurrent, ids(9), cache, 9)[1].get_seq_length() == 9


@torch.no_grad()
def test_caches_of_others_are_refused_with_words(monkeypatch):
    model, other, tokens = wrapped("hybrid2"), wrapped("mamba1"), ids(4)
    _, cache = read(other, tokens, None, 4)
    with pytest.raises(ShapeError, match="filled by a model of another spec; give a new DynamicCache"):
        model(tokens, past_key_values=cache)
    _, cache = read(model, tokens, None, 4)
    with pytest.raises(ShapeError, match="holds 2 rows, and the input has 3"):
        model(ids(4, batch=3), past_key_values=cache)
    filled = DynamicCache()
    filled.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
    with pytest.raises(UnsupportedError, match="filled by another model"):
        model(tokens, past_key_values=filled)
    linear = DynamicCache(config=other.config)
    linear.update_conv_state(torch.zeros(2, 4, 3), 0, conv_kernel_size=4)
    with pytest.raises(UnsupportedError, match="filled by another model"):
        other(tokens, past_key_values=linear)
    with pytest.raises(UnsupportedError, match="cannot be offloaded"):
        model(tokens, past_key_values=DynamicCache(config=model.config, offloading=True))
    for odd in (
        EncoderDecoderCache(DynamicCache(), DynamicCache()),
        ((torch.zeros(1),),),
        QuantizedCache.__new__(QuantizedCache),
    ):
        with pytest.raises(UnsupportedError, match="must be a DynamicCache or a StaticCache"):
            model(tokens, past_key_values=odd)


@torch.no_grad()
def test_a_call_that_failed_halfway_is_told_of(monkeypatch):
    model, tokens = wrapped("hybrid2"), ids(4)
    _, cache = read(model, tokens, None, 4)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.backbone.layers[1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            model(tokens, past_key_values=cache)
    with pytest.raises(ShapeError, match=r"failed halfway; give a new cache, or reset\(\) it"):
        model(tokens, past_key_values=cache)
    cache.reset()
    assert torch.equal(read(model, tokens, cache, 4)[0], model(tokens).logits)


@torch.no_grad()
def test_when_a_cache_is_returned():
    model, tokens = wrapped("hybrid2"), ids(4)
    assert isinstance(model(tokens).past_key_values, DynamicCache)
    assert model(tokens, use_cache=False).past_key_values is None
    cache = DynamicCache()
    assert model(tokens, past_key_values=cache, use_cache=False).past_key_values is cache
    model.config.use_cache = False
    assert model(tokens).past_key_values is None
    model.config.use_cache = True
    assert model.train()(tokens).past_key_values is None


@torch.no_grad()
def test_ids_and_embeddings_that_fit_nothing_are_refused_with_words():
    model, tokens = wrapped("hybrid2"), ids(4)
    bad = [
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": tokens, "inputs_embeds": torch.zeros(2, 4, 16)}, "give either input_ids or inputs_embeds"),
        ({"input_ids": tokens + VOCABULARY}, r"input_ids must be in 0 \.\.\. 47; given"),
        ({"input_ids": tokens - VOCABULARY}, r"input_ids must be in 0 \.\.\. 47; given"),
        ({"input_ids": tokens.double()}, "input_ids must be integers"),
        ({"input_ids": tokens[0]}, "input_ids must be integers"),
        ({"inputs_embeds": torch.zeros(2, 4, 15)}, r"inputs_embeds must be of shape \(batch, tokens, 16\)"),
        ({"inputs_embeds": torch.zeros(2, 4, 16, dtype=torch.long)}, "inputs_embeds must be of shape"),
    ]
    for call, words in bad:
        with pytest.raises(HybridgenError, match=words):
            model(**call)
    torch.testing.assert_close(
        model(inputs_embeds=model.get_input_embeddings()(tokens)).logits, model(tokens).logits, **TIGHT
    )
