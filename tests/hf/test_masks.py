"""Padding anywhere, packed rows, hidden states and tuples."""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from hybridgen.errors import HybridgenError, ShapeError, UnsupportedError
from tests.hf.kinds import KINDS, PLAIN, TIGHT, ids, wrapped

KIND = pytest.mark.parametrize("kind", KINDS)
PLAIN_KIND = pytest.mark.parametrize("kind", PLAIN)
LENGTH = 10
MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * LENGTH],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]],
    "middle": [[1, 1, 0, 0, 1, 1, 0, 1, 1, 1], [1] * LENGTH],
    "both": [[0, 1, 1, 1, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 0]],
}


def mask_of(name):
    return torch.tensor(MASKS[name])


@KIND
@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_padding_changes_nothing_wherever_it_stands(kind, name):
    model, mask, tokens = wrapped(kind), mask_of(name), ids(LENGTH)
    outputs = model(tokens, attention_mask=mask, output_hidden_states=True)
    for row in range(2):
        real = mask[row].bool()
        alone = model(tokens[row : row + 1, real], output_hidden_states=True)
        torch.testing.assert_close(outputs.logits[row, real], alone.logits[0], **TIGHT)
        for ours, expected in zip(outputs.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(ours[row, real], expected[0], **TIGHT)


@KIND
@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_a_padded_prefill_is_gone_on_with(kind, name):
    model, mask, tokens, more = wrapped(kind), mask_of(name), ids(LENGTH), ids(5, seed=8)
    for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=20)):
        model(tokens, attention_mask=mask, past_key_values=cache)
        longer, found = mask, []
        for part in more.split([1, 3, 1], dim=1):
            longer = torch.cat((longer, torch.ones_like(part)), dim=1)
            found.append(model(part, attention_mask=longer, past_key_values=cache).logits)
        for row in range(2):
            own = torch.cat((tokens[row, mask[row].bool()], more[row]))[None]
            torch.testing.assert_close(torch.cat(found, dim=1)[row], model(own).logits[0, -5:], **TIGHT)


@PLAIN_KIND
@torch.no_grad()
def test_a_mask_of_the_new_tokens_alone_or_none_is_enough(kind):
    model, mask, tokens, more = wrapped(kind), mask_of("left"), ids(LENGTH), ids(3, seed=8)
    found = []
    for given in (None, torch.ones_like(more), torch.cat((mask, torch.ones_like(more)), dim=1)):
        cache = model(tokens, attention_mask=mask).past_key_values
        found.append(model(more, attention_mask=given, past_key_values=cache).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    boolean = model(tokens, attention_mask=mask.bool()).logits
    assert torch.equal(boolean, model(tokens, attention_mask=mask).logits)
    assert torch.equal(model(tokens, attention_mask=torch.ones_like(mask)).logits, model(tokens).logits)


@torch.no_grad()
def test_masks_that_cannot_be_followed_are_refused_with_words():
    model, tokens = wrapped("hybrid2"), ids(4)
    ones = torch.ones(2, 4, dtype=torch.long)
    seen = torch.tril(torch.ones(2, 1, 4, 4, dtype=torch.bool))
    bad = [
        (seen, UnsupportedError, "cannot follow a mask per pair of tokens"),
        (torch.zeros(2, 4), UnsupportedError, r"nor one that is added to scores; given \(2, 4\) of torch.float32"),
        ({"full_attention": seen}, UnsupportedError, "given dict"),
        (2 * ones, UnsupportedError, "must be zeros and ones"),
        (ones[0], UnsupportedError, r"given \(4,\) of torch.int64"),
        (ones[:1], ShapeError, r"attention_mask must be of shape \(2, 4\)"),
        (torch.ones(2, 5, dtype=torch.long), ShapeError, r"the tokens in the cache included; given \(2, 5\)"),
    ]
    for mask, error, words in bad:
        with pytest.raises(error, match=words):
            model(tokens, attention_mask=mask)
    with pytest.raises(ShapeError, match="not both"):
        model(tokens, attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), seq_idx=torch.zeros_like(tokens))


@torch.no_grad()
def test_what_was_read_cannot_be_masked_later():
    model, tokens = wrapped("hybrid2"), ids(4)
    cache = model(tokens).past_key_values
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 2:4] = 0
    with pytest.raises(
        UnsupportedError, match="has 2 padding tokens among those in the cache of row 1, which was read"
    ):
        model(ids(1), attention_mask=mask, past_key_values=cache)
    model(ids(1), attention_mask=torch.ones_like(mask), past_key_values=cache)


@torch.no_grad()
def test_turns_of_different_lengths_take_a_cache_each():
    model, tokens, more = wrapped("hybrid2"), ids(4), ids(3, seed=8)
    cache = model(tokens).past_key_values
    for padding in ((0, 0), (0, 2)):
        mask = torch.ones(2, 7, dtype=torch.long)
        mask[padding[0], 4 + padding[1]] = 0
        with pytest.raises(UnsupportedError, match="row 0 has padding among tokens that go on from a cache"):
            model(more, attention_mask=mask, past_key_values=cache)
    for row, length in enumerate((2, 3)):
        own = copy.deepcopy(cache)
        own.batch_select_indices(torch.tensor([row]))
        found = model(more[row : row + 1, :length], past_key_values=own).logits
        whole = model(torch.cat((tokens[row], more[row, :length]))[None]).logits
        torch.testing.assert_close(found, whole[:, 4:], **TIGHT)


@torch.no_grad()
def test_a_row_whose_first_token_is_still_to_come():
    tokens, mask = ids(LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :7] = 0
    for kind in PLAIN:
        model, cache, found = wrapped(kind), DynamicCache(), []
        for begin, end in ((0, 3), (3, 6), (6, 8), (8, 10)):
            part = model(tokens[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache)
            found.append(part.logits)
        logits = torch.cat(found, dim=1)
        torch.testing.assert_close(logits[1], model(tokens[1:]).logits[0], **TIGHT)
        torch.testing.assert_close(logits[0, 7:], model(tokens[:1, 7:]).logits[0], **TIGHT)
    with pytest.raises(ShapeError, match="the first call with a state must hold a real token of every row"):
        wrapped("memory")(tokens[:, :3], attention_mask=mask[:, :3], use_cache=True)


@KIND
@torch.no_grad()
def test_hidden_states(kind):
    model, tokens = wrapped(kind), ids(LENGTH)
    outputs = model(tokens, output_hidden_states=True, use_cache=False)
    streams = outputs.hidden_states
    assert len(streams) == model.config.num_hidden_layers + 1
    assert torch.equal(streams[0], model.get_input_embeddings()(tokens))
    last = model.backbone(tokens, output_hidden_states=True, use_cache=False)
    assert torch.equal(streams[-1], last.last_hidden_state)
    assert last.hidden_states[-1] is last.last_hidden_state
    assert torch.equal(outputs.logits, model(tokens).logits)
    cache, parts = DynamicCache(), []
    for part in tokens.split([4, 1, 5], dim=1):
        parts.append(model(part, past_key_values=cache, output_hidden_states=True).hidden_states)
    for index, expected in enumerate(streams):
        torch.testing.assert_close(torch.cat([part[index] for part in parts], dim=1), expected, **TIGHT)
    model.config.output_hidden_states = True
    assert len(model(tokens).hidden_states) == len(streams)


@PLAIN_KIND
@torch.no_grad()
def test_tuples_instead_of_dictionaries(kind):
    model, tokens = wrapped(kind), ids(LENGTH)
    whole = model(tokens, labels=tokens, output_hidden_states=True)
    loss, logits, cache, streams = model(tokens, labels=tokens, output_hidden_states=True, return_dict=False)
    assert torch.equal(loss, whole.loss)
    assert torch.equal(logits, whole.logits)
    assert isinstance(cache, DynamicCache)
    assert len(streams) == len(whole.hidden_states)
    (hidden,) = model.backbone(tokens, return_dict=False, use_cache=False)
    assert torch.equal(hidden, whole.hidden_states[-1])
    model.config.return_dict = False
    assert torch.equal(model(tokens)[0], whole.logits)


PACKABLE = [kind for kind in KINDS if not kind.startswith("memory")]
LENGTHS = ((4, 1, 5), (7, 2, 1))


@pytest.mark.parametrize("kind", PACKABLE)
@torch.no_grad()
def test_packed_rows_are_their_sequences_apart(kind):
    model, tokens = wrapped(kind), ids(LENGTH)
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])
    numbers = torch.stack([torch.repeat_interleave(torch.arange(3), torch.tensor(row)) for row in LENGTHS])
    expected = torch.cat(
        [
            torch.cat([model(part).logits for part in tokens[row : row + 1].split(list(lengths), dim=1)], dim=1)
            for row, lengths in enumerate(LENGTHS)
        ]
    )
    for packed in ({"position_ids": positions}, {"seq_idx": numbers}, {"seq_idx": numbers.int() + 3}):
        torch.testing.assert_close(model(tokens, use_cache=False, **packed).logits, expected, **TIGHT)
        streams = model(tokens, output_hidden_states=True, **packed)
        torch.testing.assert_close(streams.logits, expected, **TIGHT)
    shared = model(tokens, position_ids=positions[:1]).logits
    torch.testing.assert_close(shared[0], expected[0], **TIGHT)
    cache = model(tokens, seq_idx=numbers).past_key_values
    more = ids(2, seed=8)
    found = model(more, past_key_values=cache).logits
    for row, lengths in enumerate(LENGTHS):
        last = torch.cat((tokens[row, LENGTH - lengths[-1] :], more[row]))[None]
        torch.testing.assert_close(found[row], model(last).logits[0, -2:], **TIGHT)


@torch.no_grad()
def test_positions_that_cannot_be_followed_are_refused_with_words():
    model, tokens = wrapped("hybrid2"), ids(4)
    count = torch.arange(4)[None]
    bad = [
        (torch.tensor([[0, 1, 5, 6]]), UnsupportedError, "position_ids must count up by one, from 0 again"),
        (torch.tensor([[3, 2, 1, 0]]), UnsupportedError, "read tokens in their order"),
        (count.expand(3, 4), ShapeError, r"position_ids must be of shape \(2, 4\); given \(3, 4\)"),
        (torch.arange(5)[None], ShapeError, r"given \(1, 5\)"),
        (torch.arange(4), ShapeError, r"given \(4,\)"),
    ]
    for positions, error, words in bad:
        with pytest.raises(error, match=words):
            model(tokens, position_ids=positions)
    cache = model(tokens, position_ids=count).past_key_values
    with pytest.raises(UnsupportedError, match="position_ids begin again, and a cache goes on"):
        model(tokens, position_ids=torch.tensor([[4, 5, 0, 1]]), past_key_values=cache)
    for odd in (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4)):
        with pytest.raises(HybridgenError, match="seq_idx must"):
            model(tokens, seq_idx=odd)
    with pytest.raises(ShapeError, match="memory_tokens takes no seq_idx"):
        wrapped("memory")(tokens, seq_idx=torch.zeros_like(tokens))


@PLAIN_KIND
@torch.no_grad()
def test_only_the_order_of_positions_is_read(kind):
    """Attention turns by distances, so positions that begin anywhere and count up are those that begin at 0."""
    model, tokens = wrapped(kind), ids(6)
    expected = model(tokens).logits
    assert torch.equal(model(tokens, position_ids=torch.arange(9, 15)[None]).logits, expected)
    cache = model(tokens[:, :4], position_ids=torch.arange(4)[None]).past_key_values
    found = model(tokens[:, 4:], position_ids=torch.arange(4, 6)[None], past_key_values=cache).logits
    torch.testing.assert_close(found, expected[:, 4:], **TIGHT)
