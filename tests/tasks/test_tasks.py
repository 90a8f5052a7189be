"""What holds for every task: answers follow from the prompt, samples depend on their index alone, splits are apart."""

from dataclasses import replace

import pytest
import torch

from hybridgen.errors import HybridgenError
from hybridgen.probing.presets import PRESETS
from hybridgen.tasks import (
    IGNORED,
    Compression,
    FuzzyRecall,
    InContextRecall,
    LengthExtrapolation,
    Memorization,
    MultiQueryRecall,
    NoisyRecall,
    SelectiveCopying,
    StateTracking,
)
from tests.tasks.solvers import FACTS, solve

SMALL = [
    InContextRecall(vocab_size=16, seq_len=32),
    InContextRecall(vocab_size=5, seq_len=4),
    NoisyRecall(vocab_size=24, seq_len=32, noise_share=0.6),
    NoisyRecall(vocab_size=12, seq_len=8, noise_vocab_size=4, noise_share=0.0),
    FuzzyRecall(vocab_size=16, seq_len=64),
    FuzzyRecall(vocab_size=6, seq_len=40, key_size=2, value_size=3),
    FuzzyRecall(vocab_size=9, seq_len=8, key_size=3, value_size=1),
    SelectiveCopying(vocab_size=16, seq_len=32, tokens=6),
    SelectiveCopying(vocab_size=8, seq_len=17, tokens=8),
    Compression(vocab_size=16, seq_len=12),
    Memorization(vocab_size=32, seq_len=16),
    MultiQueryRecall(vocab_size=64, seq_len=32, pairs=4),
    MultiQueryRecall(vocab_size=32, seq_len=32, pairs=8),
    StateTracking(group="parity", seq_len=24),
    StateTracking(group="s3", seq_len=13),
    StateTracking(group="s5", seq_len=8),
    LengthExtrapolation(task=InContextRecall(vocab_size=8, seq_len=16), factor=3),
    LengthExtrapolation(task=SelectiveCopying(vocab_size=8, seq_len=16, tokens=3), factor=4),
    LengthExtrapolation(task=StateTracking(group="parity", seq_len=20), factor=2),
]
each_task = pytest.mark.parametrize("task", SMALL, ids=lambda task: f"{task.name}-{task.vocab_size}-{task.seq_len}")
each_split = pytest.mark.parametrize("split", ["train", "test"])


def _learn_facts(task):
    examples = task.sample(range(300), "train", seed=9)
    facts = FACTS.setdefault(task.vocab_size, {})
    for row, targets in zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True):
        for key, value in zip(row[::2], targets[1::2], strict=True):
            assert facts.setdefault(key, value) == value
    assert len(facts) == len(set(facts.values())) == (task.vocab_size - 1) // 2


@each_split
@each_task
def test_answers_follow_from_the_prompt(task, split):
    if isinstance(task, Memorization):
        _learn_facts(task)
    examples = task.sample(range(40), split, seed=1)
    assert examples.mask.any(1).all(), "a prompt without a question"
    for prompt, targets, mask in zip(*(each.tolist() for each in examples), strict=True):
        for position, is_scored in enumerate(mask):
            if is_scored:
                assert solve(task, prompt, position) == targets[position]


@each_split
@each_task
def test_shapes_vocabulary_and_ignored_targets(task, split):
    inputs, targets, mask = task.sample(range(30), split)
    assert inputs.shape == targets.shape == mask.shape == (30, task.input_length(split))
    assert (inputs.dtype, targets.dtype, mask.dtype) == (torch.int64, torch.int64, torch.bool)
    assert inputs.min() >= 0
    assert inputs.max() < task.vocab_size
    has_target = targets != IGNORED
    assert has_target[mask].all()
    assert targets[has_target].min() >= 0
    assert targets[has_target].max() < task.vocab_size
    base = task.task if isinstance(task, LengthExtrapolation) else task
    if isinstance(base, InContextRecall | NoisyRecall | FuzzyRecall):  # language modelling: every token is a target
        assert has_target.all()
        assert torch.equal(targets[:, :-1], inputs[:, 1:])
    else:
        assert torch.equal(has_target, mask)


@each_split
@each_task
def test_a_sample_depends_on_seed_split_and_index_alone(task, split):
    whole = task.sample(range(64), split, seed=5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = task.sample(order, split, seed=5)
    single = task.sample([41], split, seed=5)
    for all_, some, one in zip(whole, shuffled, single, strict=True):
        assert torch.equal(all_[order], some)
        assert torch.equal(all_[41:42], one)
    torch.manual_seed(123)  # neither the global generator nor the number of threads have a say
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(task.sample(range(64), split, seed=5).inputs, whole.inputs)
    finally:
        torch.set_num_threads(threads)
    other = task.sample(range(64), split, seed=6)
    assert not torch.equal(other.inputs, whole.inputs)
    assert len({tuple(row) for row in whole.inputs.tolist()}) > 1


@each_task
def test_no_prompt_is_in_both_splits(task):
    """Training draws without end, so being drawn from other streams is not enough."""
    for longer in task.evaluations().values():
        train = {tuple(row) for row in task.sample(range(3000), "train", seed=1).inputs.tolist()}
        test = {tuple(row) for row in longer.sample(range(1000), "test", seed=2).inputs.tolist()}
        assert not train & test
        assert train
        assert test


def test_splits_of_a_small_space_are_apart_and_exhaust_it():
    """With 64 prompts in all, streams without a rule would share most of them."""
    task = StateTracking(group="parity", seq_len=6)
    train = {tuple(row) for row in task.sample(range(2000), "train").inputs.tolist()}
    test = {tuple(row) for row in task.sample(range(2000), "test").inputs.tolist()}
    assert not train & test
    assert len(train | test) == 64
    assert 4 <= len(test) <= 30


def test_too_few_prompts_for_two_splits():
    class OnePrompt(Compression):
        def draw(self, draws, split):
            examples = super().draw(draws, split)
            return examples._replace(inputs=torch.zeros_like(examples.inputs))

    # The one prompt belongs to one of the splits, and the other has none.
    refused = []
    for split in ("train", "test"):
        try:
            OnePrompt(vocab_size=4, seq_len=4).sample([0, 1], split)
        except HybridgenError as error:
            refused.append(str(error))
    assert len(refused) == 1
    words = "compression: these settings allow too few different prompts to split them into train and test; make "
    assert refused[0].startswith(words)


@pytest.mark.parametrize("name", ["tiny", "mad"])
def test_tasks_of_presets_make_samples(name):
    for task in PRESETS[name].tasks.values():
        for test in task.evaluations().values():
            inputs = test.sample(range(4), "test").inputs
            assert inputs.shape == (4, test.input_length("test"))


def test_samples_are_the_same_in_every_version():
    """Results of different days are compared, so what a seed means is fixed."""
    assert InContextRecall(vocab_size=16, seq_len=16).sample([5]).inputs.tolist() == [
        [4, 13, 4, 13, 7, 15, 5, 8, 7, 15, 5, 8, 4, 13, 7]
    ]
    assert Memorization(vocab_size=32, seq_len=8).sample([5]).targets[0, 1::2].tolist() == [19, 21, 22, 17]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InContextRecall(vocab_size=3), "vocab_size: must be a whole number from 4 to 1048576; given 3"),
        (lambda: InContextRecall(vocab_size=True), "vocab_size: must be a whole number .* given True"),
        (lambda: InContextRecall(seq_len=31), "seq_len: must be even, as pairs fill it; given 31"),
        (lambda: NoisyRecall(vocab_size=16), "noise_vocab_size: .* from 1 to 12 .* given 16"),
        (lambda: NoisyRecall(noise_share=1.0), "noise_share: must be a number from 0 to below 1; given 1.0"),
        (lambda: FuzzyRecall(vocab_size=6, key_size=3), r"key_size: .* from 1 to 2 \(a key's tokens are different\)"),
        (lambda: FuzzyRecall(seq_len=11), "seq_len: .* from 12 to"),
        (lambda: FuzzyRecall(vocab_size=2**19, seq_len=64, key_size=6), "key_size: must be smaller for 262143 tokens"),
        (lambda: SelectiveCopying(seq_len=32, tokens=16), "tokens: must be a whole number from 1 to 15"),
        (lambda: Compression(vocab_size=2), "vocab_size: must be a whole number from 3"),
        (lambda: Memorization(seq_len=3), "seq_len: must be even"),
        (lambda: MultiQueryRecall(seq_len=64, pairs=17), "pairs: must be a whole number from 1 to 16"),
        (lambda: MultiQueryRecall(power=0.0), "power: must be a number above 0, at most 1; given 0.0"),
        (lambda: StateTracking(group="s4"), "group: must be one of parity, s3, s5; given 's4'"),
        (lambda: StateTracking(group="s3", vocab_size=7), "vocab_size: is the number of elements of s3, 6"),
        (lambda: LengthExtrapolation(factor=1), "factor: must be a whole number from 2"),
        (lambda: LengthExtrapolation(task=Compression()), "task: must be a recall, copying or state tracking task"),
        (lambda: LengthExtrapolation(seq_len=3), "seq_len: is the task's, 64; leave it out"),
        (lambda: Compression().sample([0], "valid"), "split: must be train or test; given 'valid'"),
        (lambda: Compression().sample([0], seed=-1), "seed: must be a whole number from 0"),
        (lambda: Compression().sample([-1]), "indices: must be a list of whole numbers, 0 or more"),
    ],
)
def test_faults_are_worded(make, words):
    with pytest.raises(HybridgenError, match=words):
        make()


@each_task
def test_settings_rebuild_nothing_but_describe_everything(task):
    settings = task.settings()
    assert settings["task"] == task.name
    assert settings["seq_len"] == task.seq_len
    assert task == replace(task)
    assert hash(task) == hash(replace(task))
