"""What the generators draw, against what they should draw: chi-square with fixed seeds."""

import math
from collections import Counter
from itertools import permutations

import pytest
import torch

from hybridgen.tasks import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorization,
    MultiQueryRecall,
    NoisyRecall,
    SelectiveCopying,
    StateTracking,
)
from hybridgen.tasks.draws import Draws, row_hash
from hybridgen.tasks.state_tracking import multiplication_table


def _is_uniform(values, classes):
    """Whether Pearson's chi-square is within 4.5 deviations of its mean (Wilson and Hilferty's approximation)."""
    counts = torch.bincount(torch.as_tensor(values).flatten(), minlength=classes).double()
    assert len(counts) == classes
    expected = counts.sum() / classes
    assert expected > 20
    chi, freedom = ((counts - expected) ** 2 / expected).sum().item(), classes - 1
    deviations = ((chi / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    return abs(deviations) < 4.5


def test_the_check_can_fail():
    assert not _is_uniform(torch.arange(10_000) % 16, 16)  # too even
    assert not _is_uniform((torch.rand(10_000, generator=torch.Generator().manual_seed(0)) ** 1.1 * 16).long(), 16)


@pytest.fixture
def draws():
    return Draws(3, "train", torch.arange(4000))


def test_numbers_are_uniform_and_independent(draws):
    first, second = draws.uniform(8), draws.uniform(8)
    assert first.min() >= 0
    assert first.max() < 1
    assert _is_uniform((first * 50).long(), 50)
    together = torch.corrcoef(torch.cat([first, second, first.roll(1, 0)], 1).T)
    assert (together - torch.eye(24)).abs().max() < 5 / math.sqrt(4000)


def test_low_bits_seeds_and_splits_are_independent():
    indices = torch.arange(4000)
    streams = [Draws(seed, split, indices).uniform(4).flatten() for seed in (0, 1, 2) for split in ("train", "test")]
    streams.append(Draws(0, "train", indices, attempt=1).uniform(4).flatten())
    assert (torch.corrcoef(torch.stack(streams)) - torch.eye(7)).abs().max() < 5 / math.sqrt(16_000)
    assert _is_uniform((streams[0] * 2**53).long() % 64, 64)
    assert _is_uniform((row_hash(torch.arange(30_000).view(-1, 3)) * 32).long(), 32)


def test_permutations_and_distinct_numbers_are_uniform(draws):
    orders = {order: number for number, order in enumerate(permutations(range(4)))}
    assert _is_uniform([orders[tuple(row)] for row in draws.permutations(4).tolist()], 24)
    pairs = {pair: number for number, pair in enumerate(permutations(range(5), 2))}
    assert _is_uniform([pairs[tuple(row)] for row in draws.distinct(5, 2).tolist()], 20)
    triples = {triple: number for number, triple in enumerate(permutations(range(4), 3))}
    chosen = draws.distinct(4, 3, 2).flatten(0, 1).tolist()
    assert _is_uniform([triples[tuple(row)] for row in chosen], 24)


@pytest.mark.parametrize("split", ["train", "test"])
def test_recall_keys_values_and_questions(split):
    task = InContextRecall(vocab_size=16, seq_len=24)
    inputs, targets, mask = task.sample(range(4000), split)
    assert _is_uniform(inputs[:, 0:22:2], 8)
    assert _is_uniform(inputs[:, 1] - 8, 8)
    assert _is_uniform(targets[:, -1] - 8, 8)
    assert mask[:, -1].all()
    # The asked key is any of those shown, equally: its rank among them is uniform.
    ranks = [(sorted(set(row[:-1:2])).index(row[-1]), len(set(row[:-1:2]))) for row in inputs.tolist()]
    assert _is_uniform([rank for rank, shown in ranks if shown == 6], 6)
    # Which place of the first key's map is asked has nothing to do with its value.
    table = torch.bincount((inputs[:, 0] * 8 + inputs[:, 1] - 8), minlength=64)
    assert _is_uniform(torch.repeat_interleave(torch.arange(64), table), 64)


def test_noise_has_the_wanted_share_and_never_asks():
    task = NoisyRecall(vocab_size=32, seq_len=42, noise_share=0.4)
    inputs, targets, mask = task.sample(range(3000))
    is_noise = inputs[:, :-1:2] >= 16
    assert torch.equal(inputs[:, 1::2] >= 16, is_noise)
    wanted = 0.4 * 19 / 20  # one of the 20 pairs of the context is never noise
    assert abs(is_noise.double().mean().item() - wanted) < 5 * math.sqrt(0.24 / is_noise.numel())
    assert (~is_noise).any(1).all()
    assert (inputs[:, -1] < 8).all()
    assert _is_uniform(inputs[inputs >= 16] - 16, 16)
    assert (inputs[mask] < 8).all()
    assert ((targets[mask] >= 8) & (targets[mask] < 16)).all()
    all_noise = NoisyRecall(vocab_size=32, seq_len=42, noise_share=0.999).sample(range(500)).inputs
    assert ((all_noise[:, :-1:2] < 16).sum(1) >= 1).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_fuzzy_motifs(split):
    task = FuzzyRecall(vocab_size=10, seq_len=40, key_size=2, value_size=3)
    prompts = task.sample(range(2000), split).inputs.tolist()
    firsts, lengths, asked = [], Counter(), Counter()
    for prompt in prompts:
        tokens = [token for token in prompt if token != 9]
        key = tokens[: next(place for place, token in enumerate(tokens) if token >= 4)]
        lengths[len(key)] += 1
        firsts.append(key[0])
        assert len(set(key)) == len(key)
        padding = len(prompt) - len(tokens)
        assert prompt[:padding] == [9] * padding
        asked[padding] += 1
    assert _is_uniform(firsts, 4)
    assert set(lengths) == ({1, 2} if split == "train" else {2})
    if split == "train":  # short pairs are no likelier than long ones, where all of them fit
        assert abs(lengths[1] - 1000) < 5 * math.sqrt(500)
    assert max(asked) < 5, "padding beyond the longest pair"


def test_fuzzy_asks_a_planted_pair_of_any_age():
    """Where the asked key stood before is spread over the prompt."""
    task = FuzzyRecall(vocab_size=42, seq_len=60, key_size=1, value_size=1)
    inputs = task.sample(range(4000)).inputs
    places = [row[:-1].index(row[-1]) for row in inputs.tolist() if row[:-1].count(row[-1]) == 1]
    assert {place % 2 for place in places} == {1}  # one token of padding in front
    assert _is_uniform([(place - 1) // 2 for place in places], 29)


def test_copying_places_and_tokens():
    task = SelectiveCopying(vocab_size=8, seq_len=16, tokens=3)
    inputs, targets, _ = task.sample(range(6000))
    assert _is_uniform(targets[:, -3:], 6)
    is_token = inputs[:, :12] < 6
    assert (is_token.sum(1) == 3).all()
    assert _is_uniform(is_token.nonzero()[:, 1], 12)  # the last place too: blanks may or may not follow the last token
    places = {frozenset(choice): number for number, choice in enumerate(_choices(12, 3))}
    found = is_token.nonzero()[:, 1].view(-1, 3).tolist()
    assert _is_uniform([places[frozenset(row)] for row in found], 220)


def _choices(high, count):
    from itertools import combinations

    return combinations(range(high), count)


def test_compression_memorization_and_state_tracking():
    assert _is_uniform(Compression(vocab_size=9, seq_len=8).sample(range(2000)).inputs[:, :-1], 8)
    assert _is_uniform(Memorization(vocab_size=33, seq_len=8).sample(range(2000)).inputs[:, ::2], 16)
    for group, order in (("parity", 2), ("s3", 6), ("s5", 120)):
        inputs, targets, mask = StateTracking(group=group, seq_len=12).sample(range(3000))
        assert _is_uniform(inputs, order)
        assert _is_uniform(targets[mask], order), "the chance level is that of uniform products"


def test_facts_differ_with_their_seed_and_not_with_the_prompts():
    values = Memorization(vocab_size=64).values()
    assert torch.equal(values, Memorization(vocab_size=64, seq_len=64).values())
    assert sorted(values.tolist()) == list(range(31, 62))
    assert not torch.equal(values, Memorization(vocab_size=64, facts_seed=1).values())


def test_multi_query_keys_values_and_distances():
    task = MultiQueryRecall(vocab_size=32, seq_len=40, pairs=4)
    inputs, _, mask = task.sample(range(5000))
    assert _is_uniform(inputs[:, 0:8:2] - 1, 15)
    assert _is_uniform(inputs[:, 1:8:2] - 16, 16)
    assert (mask.sum(1) == 4).all()
    assert (inputs[:, 8:][~mask[:, 8:]] == 0).all()
    slots = (mask[:, 8:].nonzero()[:, 1]).view(-1, 4) // 2
    # The weights make the nearest place the likeliest: with power 0.01 and 16 places it takes part far more often.
    counts = torch.bincount(slots.flatten(), minlength=16)
    assert counts[0] > 0.75 * 5000 > counts[2] > 2 * counts[15]
    flat = MultiQueryRecall(vocab_size=32, seq_len=40, pairs=4, power=1.0).sample(range(5000)).mask
    assert _is_uniform((flat[:, 8:].nonzero()[:, 1]) // 2, 16)


@pytest.mark.parametrize(("group", "order"), [("parity", 2), ("s3", 6), ("s5", 120)])
def test_the_multiplication_tables_are_groups(group, order):
    table = multiplication_table(group)
    identity = torch.arange(order)
    assert torch.equal(table[0], identity)
    assert torch.equal(table[:, 0], identity)
    assert torch.equal(table.sort(1).values, identity.expand(order, order))
    g, h, k = (torch.randint(order, (200,), generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    assert torch.equal(table[table[g, h], k], table[g, table[h, k]])
    assert torch.equal(table, table.T) == (group == "parity")
