"""How a model is trained on a task: the settings, and the loop of one run."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.errors import HybridgenError
from hybridgen.probing.descent import Descent, rate_factor
from hybridgen.probing.measuring import score
from hybridgen.probing.models import TaskModel, build_for
from hybridgen.probing.results import Run
from hybridgen.spec.model import ModelSpec
from hybridgen.tasks import IGNORED, Examples, Task

TEST_SEED = 0
"""Every model is tested on the same prompts."""
_WHOLE = {"steps": 1, "batch_size": 1, "warmup": 0, "evaluate_every": 1, "test_examples": 1}


@dataclass(frozen=True)
class Training:
    """How models are trained and tested: AdamW, a warmup and a cosine to zero, gradients clipped at norm 1.

    Attributes:
        steps: Steps of the optimiser; a run ends sooner at an accuracy of `stop_at`.
        batch_size: Prompts per step.
        learning_rates: Each is tried with every seed, and the best is reported, as MAD does.
        weight_decay: Of matrices; vectors (norms, biases, A, D) have none.
        warmup: Steps of linear warmup.
        evaluate_every: Steps between tests, which steps to the threshold are counted in.
        test_examples: Prompts of a test.
        loss: `masked` trains on the answers, `lm` on every token that the task has a target for.
        train_examples: Size of the training set; None for new prompts at every step.
        threshold: The accuracy that steps are counted to.
        stop_at: The accuracy at which a run ends; above 1 for never.
    """

    steps: int
    batch_size: int = 32
    learning_rates: tuple[float, ...] = (3e-3,)
    weight_decay: float = 0.1
    warmup: int = 20
    evaluate_every: int = 25
    test_examples: int = 256
    loss: Literal["masked", "lm"] = "masked"
    train_examples: int | None = None
    threshold: float = 0.9
    stop_at: float = 0.995

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            given = getattr(self, name)
            if type(given) is not int or given < least:
                raise HybridgenError(f"{name}: must be a whole number, {least} or more; given {given!r}")
        if self.train_examples is not None and (type(self.train_examples) is not int or self.train_examples < 1):
            raise HybridgenError(f"train_examples: must be a whole number, 1 or more; given {self.train_examples!r}")
        if not self.learning_rates or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise HybridgenError(f"learning_rates: must be numbers above 0; given {self.learning_rates!r}")
        if self.loss not in ("masked", "lm"):
            raise HybridgenError(f"loss: must be masked or lm; given {self.loss!r}")
        if not 0 < self.threshold <= 1:
            raise HybridgenError(f"threshold: must be above 0, at most 1; given {self.threshold!r}")

    def rate_factor(self, step: int) -> float:
        """Returns the share of the learning rate at a step, counted from 0."""
        return rate_factor(step, self.steps, self.warmup)


def train_on_task(
    spec: ModelSpec,
    task: Task,
    training: Training,
    *,
    name: str | None = None,
    role: str = "model",
    learning_rate: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Run:
    """Trains the backbone of a spec on a task, from fresh weights, and tests it.

    Args:
        spec: Any causal model or backbone; its ends are replaced by the task's.
        task: What it is trained on.
        training: How.
        name: What the task is called in the results; None is the task's own name.
        role: What the model is called there.
        learning_rate: One rate; None is the first of training's.
        seed: Decides the weights and the prompts that are trained on.
        device: Where it runs.
        progress: Called with the step and the accuracy after each test.

    Raises:
        HybridgenError: If the model is not causal or reads images.
    """
    rate = training.learning_rates[0] if learning_rate is None else learning_rate
    started = time.perf_counter()
    with torch.random.fork_rng():  # dropout draws from the global generator, which is the caller's
        torch.manual_seed(seed)
        model = build_for(spec, task, device=device, seed=seed)
        tests = {test: _test_set(one, training, model.device) for test, one in task.evaluations().items()}
        headline = list(tests)[-1]
        learning = _learn(model, task, training, rate, seed, tests[headline], progress)
        scores = {test: score(model, batches) for test, batches in tests.items()}
    last = scores[headline]
    return Run(
        role=role,
        task=name or task.name,
        seed=seed,
        learning_rate=rate,
        steps=learning.steps,
        accuracy=last.accuracy,
        macro_accuracy=last.macro_accuracy,
        loss=last.loss if math.isfinite(last.loss) else None,
        threshold_step=next((step for step, accuracy in learning.curve if accuracy >= training.threshold), None),
        curve=tuple(learning.curve),
        evaluations={test: one.accuracy for test, one in scores.items()},
        has_diverged=learning.has_diverged,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - started,
    )


class _Learning(NamedTuple):
    """How a training went: steps taken, steps and accuracies of the tests on the way, whether the loss was lost."""

    steps: int
    curve: list[tuple[int, float]]
    has_diverged: bool


def _learn(
    model: TaskModel,
    task: Task,
    training: Training,
    rate: float,
    seed: int,
    test: Sequence[Examples],
    progress: Callable[[int, float], None] | None,
) -> _Learning:
    """Trains a model in place."""
    descent = Descent(model, rate, training.steps, training.warmup, training.weight_decay)
    curve: list[tuple[int, float]] = []
    for step, indices in enumerate(_batches(training, seed), start=1):
        loss = _loss(model, task.sample(indices.to(model.device), "train", seed), training.loss)
        if not descent.step(loss):
            return _Learning(step, curve, True)
        if step % training.evaluate_every == 0 or step == training.steps:
            accuracy = score(model, test).accuracy
            curve.append((step, accuracy))
            if progress is not None:
                progress(step, accuracy)
            if accuracy >= training.stop_at:
                return _Learning(step, curve, False)
    return _Learning(training.steps, curve, False)


def _batches(training: Training, seed: int) -> Iterator[Tensor]:
    """Yields the indices of the prompts of each step: new ones, or the training set in a new order each epoch."""
    size, batch = training.train_examples, training.batch_size
    if size is None:
        yield from (torch.arange(step * batch, (step + 1) * batch) for step in range(training.steps))
        return
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(training.steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(size, generator=generator)])
        yield order[:batch]
        order = order[batch:]


def _test_set(task: Task, training: Training, device: torch.device) -> list[Examples]:
    """Makes the test prompts, in batches of the size that is trained."""
    indices = torch.arange(training.test_examples, device=device)
    return [task.sample(some, "test", TEST_SEED) for some in indices.split(training.batch_size)]


def _loss(model: nn.Module, examples: Examples, kind: str) -> Tensor:
    targets = examples.targets if kind == "lm" else examples.targets.masked_fill(~examples.mask, IGNORED)
    logits = model(examples.inputs)
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
