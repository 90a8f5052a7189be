"""Generation picks what the logits say, computes nothing twice, and obeys its settings."""

import pytest
import torch

import hybridgen as hg
from hybridgen.model.generate import Sampling

STACK = {
    "d_model": 32,
    "n_layer": 3,
    "attn_layer_idx": [1],
    "ssm": {"type": "mamba2", "d_state": 8, "headdim": 16},
    "attn": {"num_heads": 4, "rotary_emb_dim": 8},
}


@pytest.fixture(scope="module")
def model():
    return hg.build(
        hg.ModelSpec.model_validate(
            {"input": {"type": "tokens", "vocab_size": 61}, "backbone": STACK, "head": {"type": "lm"}}
        )
    )


@pytest.fixture(scope="module")
def prompt():
    return torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def test_greedy_equals_full_forwards(model, prompt):
    ids = prompt
    for _ in range(8):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids)[:, -1:, :61].argmax(-1)), dim=1)
    assert torch.equal(hg.generate(model, prompt, 8, temperature=0), ids)


def test_every_token_is_read_once(model, prompt, monkeypatch):
    seen = []
    run = model.backbone.forward

    def counting(x, state, span):
        seen.append((span.offset, x.shape[1]))
        return run(x, state, span)

    monkeypatch.setattr(model.backbone, "forward", counting)
    hg.generate(model, prompt, 5, temperature=0)
    assert seen == [(0, 6), (6, 1), (7, 1), (8, 1), (9, 1)]


def test_left_padding_does_not_change_the_continuation(model, prompt):
    alone = hg.generate(model, prompt[:1, :4], 6, temperature=0)[:, 4:]
    batch = torch.stack((torch.cat((torch.zeros(2, dtype=torch.long), prompt[0, :4])), prompt[1]))
    mask = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    together = hg.generate(model, batch, 6, temperature=0, mask=mask)
    assert torch.equal(together[:1, 6:], alone)
    assert torch.equal(together[1:], hg.generate(model, prompt[1:], 6, temperature=0))


def test_seed_repeats_and_differs(model, prompt):
    first = hg.generate(model, prompt, 12, seed=1)
    assert torch.equal(first, hg.generate(model, prompt, 12, seed=1))
    assert not torch.equal(first, hg.generate(model, prompt, 12, seed=2))


def test_padding_rows_of_the_vocabulary_are_never_picked(prompt):
    document = {
        "input": {"type": "tokens", "vocab_size": 5, "pad_vocab_size_multiple": 64},
        "backbone": STACK,
        "head": {"type": "lm"},
    }
    ids = hg.generate(hg.build(hg.ModelSpec.model_validate(document)), prompt % 5, 40, temperature=50.0, seed=0)
    assert ids.max() < 5


def test_rows_end_at_eos_and_the_callback_sees_each_column(model, prompt):
    free = hg.generate(model, prompt, 6, temperature=0)
    eos = int(free[0, 8])
    columns = []
    ids = hg.generate(model, prompt, 6, temperature=0, eos_token_id=eos, on_token=columns.append)
    assert torch.equal(ids[:, 6:], torch.stack(columns, dim=1))
    first = (free[0, 6:] == eos).nonzero()[0, 0]
    assert (ids[0, 6 + first :] == eos).all()
    both_end = hg.generate(model, prompt[:1], 6, temperature=0, eos_token_id=[eos])
    assert both_end.shape[1] == 6 + first + 1


def test_sampling_frequencies_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(200_000, 4)
    picks = Sampling(temperature=0.7).pick(logits, None, torch.Generator().manual_seed(0))
    expected = (logits[0] / 0.7).softmax(-1)
    assert (torch.bincount(picks, minlength=4) / 200_000 - expected).abs().max() < 0.005


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"top_k": 2}, {2, 1}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.6}, {2}),
        ({"top_p": 0.7}, {2, 1}),
        ({"min_p": 0.3}, {2, 1}),
        ({"min_p": 1.0}, {2}),
        ({"temperature": 0.0}, {2}),
        ({"top_k": 3, "top_p": 0.95, "min_p": 0.2}, {2, 1}),
    ],
)
def test_truncation_keeps_exactly(settings, allowed):
    # Probabilities about 0.64, 0.24, 0.09, 0.03.
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(5000, 4)
    picks = Sampling(**settings).pick(logits, None, torch.Generator().manual_seed(0))
    assert set(picks.tolist()) == allowed


def test_repetition_penalty_lowers_seen_tokens():
    logits = torch.tensor([[1.0, 0.9, -1.0, -0.9]])
    seen = torch.tensor([[True, False, False, True]])
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    assert sampling.pick(logits, seen, None).item() == 1
    assert sampling.pick(-logits, seen, None).item() == 2


def test_repetition_penalty_sees_prompt_and_new_tokens_but_not_padding(model, prompt):
    # So strong a penalty that no token can come twice, nor any of the prompt.
    ids = hg.generate(model, prompt, 20, temperature=0, repetition_penalty=1e9)
    for row, given in zip(ids, prompt, strict=True):
        new = row[6:].tolist()
        assert len(set(new)) == len(new)
        assert not set(new) & set(given.tolist())
    masked = torch.tensor([[False, True, True, True, True, True]])
    padded = torch.cat((torch.zeros(1, 1, dtype=torch.long), prompt[:1, 1:]), dim=1)
    ids = hg.generate(model, padded, 60 - 5, temperature=0, repetition_penalty=1e9, mask=masked)
    assert 0 in ids[0, 6:]


def test_codes(prompt):
    document = {
        "input": {"type": "codebooks", "n_codebooks": 3, "vocab_size": 17},
        "backbone": STACK,
        "head": {"type": "codebooks", "vocab_size": 16},
    }
    model = hg.build(hg.ModelSpec.model_validate(document))
    codes = torch.randint(0, 17, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    assert model(codes).shape == (2, 5, 3, 16)
    ids = codes
    for _ in range(4):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(hg.generate(model, codes, 4, temperature=0), ids)
    hg.generate(model, codes, 4, repetition_penalty=1.3, seed=0)
    with pytest.raises(hg.UnsupportedError, match="eos_token_id has no one meaning for codes"):
        hg.generate(model, codes, 4, eos_token_id=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1}, "temperature must be 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"min_p": 2}, "min_p must be between 0 and 1"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty must be between"),
        ({"eos_token_id": 61}, "eos_token_id must be one of the tokens 0 ... 60; given 61"),
        ({"seed": 2**64}, "seed must fit into 64 bits"),
        ({"max_new_tokens": 10**14}, "no memory for the state"),
        ({"max_new_tokens": 10**30}, "no memory for the state"),
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more"),
    ],
)
def test_settings_out_of_range(model, prompt, settings, words):
    with pytest.raises(hg.HybridgenError, match=words):
        hg.generate(model, prompt, **settings)


def test_no_prompt_and_no_head(model, prompt):
    with pytest.raises(hg.HybridgenError, match="at least one token"):
        hg.generate(model, prompt[:, :0])
    bare = hg.build(hg.ModelSpec.model_validate({"backbone": STACK}))
    with pytest.raises(hg.UnsupportedError, match="generate needs a model with a head"):
        hg.generate(bare, prompt)


@pytest.mark.parametrize("settings", [{"temperature": 1e-40}, {"top_p": 1e-300}])
def test_extreme_settings_pick_the_likeliest(model, prompt, settings):
    greedy = hg.generate(model, prompt, 5, temperature=0)
    assert torch.equal(hg.generate(model, prompt, 5, seed=0, **settings), greedy)


def test_damaged_weights_and_meta_models_are_worded(model, prompt):
    damaged = hg.build(model.spec)
    with torch.no_grad():
        damaged.backbone.norm_f.weight.fill_(float("nan"))
    with pytest.raises(hg.HybridgenError, match="logits are not numbers"):
        hg.generate(damaged, prompt)
    with pytest.raises(hg.UnsupportedError, match="meta device"):
        hg.generate(hg.build(model.spec, device="meta"), prompt)


def test_integer_masks_are_masks(model, prompt):
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    expected = hg.generate(model, prompt, 4, temperature=0, mask=mask.bool(), repetition_penalty=1.2)
    assert torch.equal(hg.generate(model, prompt, 4, temperature=0, mask=mask, repetition_penalty=1.2), expected)
