"""`generate` of transformers on our models: every way of decoding gives the tokens that it gives without a cache."""

import threading

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache, TextIteratorStreamer

import hybridgen as hg
from hybridgen.errors import UnsupportedError
from tests.hf.kinds import CROPPABLE, KINDS, PLAIN, TIGHT, VOCABULARY, ids, plain, wrapped

KIND = pytest.mark.parametrize("kind", KINDS)
PLAIN_KIND = pytest.mark.parametrize("kind", PLAIN)
STATEFUL = [kind for kind in KINDS if kind not in CROPPABLE]
NEW = 8
GREEDY = {"do_sample": False, "max_new_tokens": NEW}


@KIND
def test_greedy_is_that_of_our_generate(kind):
    model, tokens = wrapped(kind), ids(6)
    expected = hg.generate(plain(kind), tokens, NEW, temperature=0)
    assert torch.equal(model.generate(tokens, **GREEDY), expected)
    assert torch.equal(model.generate(tokens, use_cache=False, **GREEDY), expected)
    for cache in (DynamicCache(config=model.config), DynamicCache(), StaticCache(model.config, max_cache_len=20)):
        assert torch.equal(model.generate(tokens, past_key_values=cache, **GREEDY), expected)
        assert cache.get_seq_length() == 6 + NEW - 1


@KIND
def test_chunked_prefill_and_a_static_cache_give_the_same(kind):
    model, tokens = wrapped(kind), ids(11)
    expected = model.generate(tokens, **GREEDY)
    for options in (
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "prefill_chunk_size": 5},
        {"cache_implementation": "dynamic"},
    ):
        assert torch.equal(model.generate(tokens, **options, **GREEDY), expected), options


@KIND
def test_beams_with_a_cache_are_those_without(kind):
    model, tokens = wrapped(kind), ids(5)
    options = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True, "return_dict_in_generate": True}
    found, expected = (model.generate(tokens, use_cache=cached, **options, **GREEDY) for cached in (True, False))
    assert found.sequences.shape == (4, 5 + NEW)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=1e-5)


@PLAIN_KIND
def test_sampling_is_repeatable_and_the_same_without_a_cache(kind):
    model, tokens = wrapped(kind), ids(5)
    found = []
    for cached in (True, True, False):
        torch.manual_seed(4)
        found.append(
            model.generate(
                tokens, do_sample=True, top_k=20, top_p=0.9, temperature=1.3, num_return_sequences=3,
                max_new_tokens=NEW, use_cache=cached,
            )
        )  # fmt: skip
    assert found[0].shape == (6, 5 + NEW)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len(found[0].unique(dim=0)) > 2


@KIND
def test_each_row_alone_is_its_row_in_a_padded_batch(kind):
    model = wrapped(kind)
    rows = [ids(length, batch=1, seed=length) for length in (7, 3, 5)]
    tokens, mask = torch.full((3, 7), 1), torch.zeros(3, 7, dtype=torch.long)
    for row, own in enumerate(rows):
        tokens[row, 7 - own.shape[1] :] = own
        mask[row, 7 - own.shape[1] :] = 1
    expected = torch.cat([model.generate(own, **GREEDY)[:, own.shape[1] :] for own in rows])
    for options in ({}, {"cache_implementation": "static"}, {"use_cache": False}, {"num_beams": 1}):
        found = model.generate(tokens, attention_mask=mask, **options, **GREEDY)[:, 7:]
        assert torch.equal(found, expected), options
    beams = {"num_beams": 2, **GREEDY}
    expected = torch.cat([model.generate(own, **beams)[:, own.shape[1] :] for own in rows])
    assert torch.equal(model.generate(tokens, attention_mask=mask, **beams)[:, 7:], expected)


@KIND
def test_padding_in_the_middle_of_a_prompt(kind):
    """The last column is a real token, as `generate` goes on behind it; padding may stand anywhere before."""
    model = wrapped(kind)
    tokens, mask = ids(7), torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:6], mask[1, 1] = 0, 0
    found = model.generate(tokens, attention_mask=mask, **GREEDY)[:, 7:]
    for row in range(2):
        own = tokens[row : row + 1, mask[row].bool()]
        assert torch.equal(found[row : row + 1], model.generate(own, **GREEDY)[:, own.shape[1] :])


@KIND
def test_padding_is_seen_by_the_pad_token(kind):
    model = wrapped(kind)
    tokens = ids(6).clamp(min=1)
    tokens[0, :2] = 0
    found = model.generate(tokens, pad_token_id=0, eos_token_id=VOCABULARY - 1, **GREEDY)
    alone = model.generate(tokens[:1, 2:], pad_token_id=0, eos_token_id=VOCABULARY - 1, **GREEDY)
    length = alone.shape[1] - 4
    assert torch.equal(found[:1, 6 : 6 + length], alone[:, 4:])


@KIND
def test_a_conversation_goes_on_with_the_cache_that_was_returned(kind):
    model, tokens = wrapped(kind), ids(5)
    first = model.generate(tokens, return_dict_in_generate=True, **GREEDY)
    everything = torch.cat((first.sequences, ids(4, seed=11)), dim=1)
    expected = model.generate(everything, **GREEDY)
    cache = first.past_key_values
    assert cache.get_seq_length() == 5 + NEW - 1
    second = model.generate(everything, past_key_values=cache, return_dict_in_generate=True, **GREEDY)
    assert torch.equal(second.sequences, expected)
    assert second.past_key_values is cache
    third = torch.cat((expected, ids(2, seed=12)), dim=1)
    found = model.generate(third, past_key_values=cache, prefill_chunk_size=2, **GREEDY)
    assert torch.equal(found, model.generate(third, **GREEDY))


@PLAIN_KIND
def test_a_padded_conversation_goes_on(kind):
    model, tokens = wrapped(kind), ids(6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :3] = 0
    first = model.generate(tokens, attention_mask=mask, return_dict_in_generate=True, **GREEDY)
    everything = torch.cat((first.sequences, ids(3, seed=11)), dim=1)
    mask = torch.cat((mask, torch.ones(2, NEW + 3, dtype=torch.long)), dim=1)
    found = model.generate(everything, attention_mask=mask, past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(found, model.generate(everything, attention_mask=mask, **GREEDY))


@KIND
def test_embeddings_instead_of_ids(kind):
    model, tokens = wrapped(kind), ids(5)
    expected = model.generate(tokens, **GREEDY)[:, 5:]
    embeddings = model.get_input_embeddings()(tokens)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **GREEDY), expected)
    assert torch.equal(model.generate(inputs_embeds=embeddings, use_cache=True, num_beams=1, **GREEDY), expected)


@PLAIN_KIND
def test_only_the_logits_that_are_read_are_computed(kind, monkeypatch):
    model, tokens, lengths = wrapped(kind), ids(9), []
    head = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: (lengths.append(hidden.shape[1]), head(hidden))[1])
    model.generate(tokens, **GREEDY)
    assert lengths == [1] * NEW
    whole = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, whole[:, -2:], **TIGHT)
    torch.testing.assert_close(model(tokens, logits_to_keep=torch.tensor([4, 0])).logits, whole[:, [4, 0]], **TIGHT)


class Letters:
    """A tokenizer that knows of nothing but decoding: one letter per token."""

    def decode(self, tokens, **_):
        return "".join(chr(64 + int(token)) for token in tokens)


@PLAIN_KIND
def test_streaming(kind):
    model, tokens = wrapped(kind), ids(5, batch=1)
    expected = Letters().decode(model.generate(tokens, **GREEDY)[0, 5:])
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    thread = threading.Thread(target=model.generate, args=(tokens,), kwargs={"streamer": streamer, **GREEDY})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == expected


@pytest.mark.parametrize("kind", CROPPABLE)
def test_assisted_decoding_gives_the_tokens_of_greedy_where_tokens_can_be_taken_back(kind):
    model = wrapped(kind)
    tokens = ids(5, batch=1).repeat(1, 3)
    expected = model.generate(tokens, **GREEDY)
    assert torch.equal(model.generate(tokens, prompt_lookup_num_tokens=3, **GREEDY), expected)
    for assistant in CROPPABLE:
        helper = wrapped(assistant)
        found = model.generate(tokens, assistant_model=helper, return_dict_in_generate=True, **GREEDY)
        assert torch.equal(found.sequences, expected)
        assert found.past_key_values.get_seq_length() == expected.shape[1] - 1
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    found = model.generate(tokens, attention_mask=mask, prompt_lookup_num_tokens=2, **GREEDY)
    assert torch.equal(found, model.generate(tokens, attention_mask=mask, **GREEDY))


@pytest.mark.parametrize("kind", STATEFUL)
def test_assisted_decoding_is_refused_with_the_layers_that_cannot_go_back(kind):
    model, tokens = wrapped(kind), ids(5, batch=1)
    words = (
        r"assisted decoding \(assistant_model, prompt_lookup_num_tokens\) takes rejected tokens back, which layers \d"
    )
    with pytest.raises(UnsupportedError, match=words):
        model.generate(tokens, prompt_lookup_num_tokens=3, **GREEDY)
    with pytest.raises(UnsupportedError, match=words):
        model.generate(tokens, assistant_model=wrapped("transformer"), **GREEDY)
    with pytest.raises(UnsupportedError, match=words):
        wrapped("transformer").generate(tokens, assistant_model=model, **GREEDY)


@PLAIN_KIND
def test_what_generate_can_return_besides_tokens(kind):
    model, tokens = wrapped(kind, attention="eager"), ids(5)
    wanted = {"output_scores": True, "output_logits": True, "output_hidden_states": True, "output_attentions": True}
    found = model.generate(tokens, return_dict_in_generate=True, **wanted, **GREEDY)
    whole = model(found.sequences[:, :-1], output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(torch.stack(found.logits, dim=1), whole.logits[:, 4:].float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack(found.scores, dim=1), whole.logits[:, 4:].float(), rtol=1e-5, atol=1e-5)
    for step, streams in enumerate(found.hidden_states):
        begin, end = (0, 5) if step == 0 else (4 + step, 5 + step)
        for ours, expected in zip(streams, whole.hidden_states, strict=True):
            torch.testing.assert_close(ours, expected[:, begin:end], **TIGHT)
        for ours, expected in zip(found.attentions[step], whole.attentions, strict=True):
            torch.testing.assert_close(ours, expected[:, :, begin:end, end - ours.shape[3] : end], **TIGHT)


@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static", "quantized"])
def test_caches_that_cannot_hold_our_states_are_refused_with_words(kind):
    with pytest.raises(UnsupportedError, match=f"neither quantized nor offloaded; given cache_implementation='{kind}'"):
        wrapped("hybrid2").generate(ids(3), cache_implementation=kind, **GREEDY)


def test_stopping_and_processors_of_transformers_work():
    model, tokens = wrapped("hybrid2"), ids(5)
    free = model.generate(tokens, **GREEDY)
    end = int(free[0, 7])
    found = model.generate(tokens, eos_token_id=end, pad_token_id=0, **GREEDY)
    begin = int((free[0, 5:] == end).nonzero()[0, 0])
    assert found[0, 5 : 6 + begin].tolist() == free[0, 5 : 6 + begin].tolist()
    assert set(found[0, 6 + begin :].tolist()) <= {0}
    config = GenerationConfig(repetition_penalty=1.7, no_repeat_ngram_size=2, **GREEDY)
    ours = model.generate(tokens, generation_config=config)
    assert torch.equal(ours, model.generate(tokens, generation_config=config, use_cache=False))
    assert not torch.equal(ours, free)
