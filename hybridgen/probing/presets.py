"""Sizes of tasks and trainings that belong together."""

from dataclasses import dataclass, replace

from hybridgen.probing.training import Training
from hybridgen.tasks import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    LengthExtrapolation,
    Memorization,
    MultiQueryRecall,
    NoisyRecall,
    SelectiveCopying,
    StateTracking,
    Task,
)


@dataclass(frozen=True)
class Preset:
    """Tasks and how models are trained on them.

    Attributes:
        tasks: By name; a name may differ from the task's where one task is there in several sizes.
        training: For each of them.
        seeds: How many.
        warning: What a reader of the results must know.
    """

    tasks: dict[str, Task]
    training: dict[str, Training]
    seeds: int
    warning: str | None = None


_SMOKE_WARNING = "smoke only shows that everything runs: too few steps to learn anything"
_TINY_WARNING = (
    "tiny measures how fast a model learns a small task, not what it could learn: models that need longer, such as "
    "plain attention on recall, come last here and need not at full size; compare with steps and seeds in mind"
)

_SMALL: dict[str, Task] = {
    "in-context-recall": InContextRecall(vocab_size=16, seq_len=32),
    "noisy-recall": NoisyRecall(vocab_size=32, seq_len=32),
    "fuzzy-recall": FuzzyRecall(vocab_size=16, seq_len=32, key_size=2, value_size=2),
    "selective-copying": SelectiveCopying(vocab_size=16, seq_len=32, tokens=6),
    "compression": Compression(vocab_size=8, seq_len=8),
    "memorization": Memorization(vocab_size=128, seq_len=16),
    "multi-query-recall": MultiQueryRecall(vocab_size=64, seq_len=32, pairs=4),
    "length-extrapolation": LengthExtrapolation(task=InContextRecall(vocab_size=16, seq_len=32), factor=4),
    "parity": StateTracking(group="parity", seq_len=16),
    "s3": StateTracking(group="s3", seq_len=6),
}
_PUBLISHED: dict[str, Task] = {
    "in-context-recall": InContextRecall(),
    "noisy-recall": NoisyRecall(),
    "fuzzy-recall": FuzzyRecall(),
    "selective-copying": SelectiveCopying(),
    "compression": Compression(),
    "memorization": Memorization(),
    "multi-query-recall": MultiQueryRecall(),
    "length-extrapolation": LengthExtrapolation(),
    "parity": StateTracking(group="parity", seq_len=64),
    "s3": StateTracking(group="s3", seq_len=32),
    "s5": StateTracking(group="s5", seq_len=32),
}

_SMOKE = Training(steps=4, batch_size=8, warmup=1, evaluate_every=2, test_examples=16)
_TINY = Training(steps=600, evaluate_every=50)
# MAD: 12,800 prompts, 200 epochs, batches of 128, the best of three rates; 256 prompts for memorisation.
_MAD = Training(
    steps=20_000,
    batch_size=128,
    learning_rates=(1e-4, 5e-4, 1e-3),
    warmup=0,
    evaluate_every=500,
    test_examples=1280,
    loss="lm",
    train_examples=12_800,
    stop_at=0.999,
)

PRESETS = {
    "smoke": Preset(_SMALL, dict.fromkeys(_SMALL, _SMOKE), 1, _SMOKE_WARNING),
    "tiny": Preset(_SMALL, dict.fromkeys(_SMALL, _TINY), 2, _TINY_WARNING),
    "mad": Preset(
        _PUBLISHED,
        {**dict.fromkeys(_PUBLISHED, _MAD), "memorization": replace(_MAD, steps=400, train_examples=256)},
        1,
    ),
}
