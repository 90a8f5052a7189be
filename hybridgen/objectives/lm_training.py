"""Training on the bytes of a text file, and testing on its end."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.builder import build, parse_device
from hybridgen.intervals import mean_interval
from hybridgen.model.generate import generate
from hybridgen.model.model import HybridModel
from hybridgen.probing.descent import Descent
from hybridgen.spec import ModelSpec

if TYPE_CHECKING:
    from hybridgen.objectives.lm import LmObjective

_WEIGHT_DECAY = 0.1
_WARMUP = 20
_FEW = 10_000
_PROMPT = 64
_TEMPERATURE = 0.8


class Text:
    """A file as bytes: rows to train on, drawn from all but its end, and rows of its end to test on.

    A row is seq_len + 1 bytes: each but the first is predicted from those before it in the row. Rows of the test share
    one byte, the last of one and the first of the next, so that no byte is predicted twice; none begins before the
    first byte that is held out, and no row of training reaches it.

    Args:
        path: The file; it is mapped, not read.
        size: Bytes of it.
        first_held_out: The number of the first byte that is held out.
        seq_len: Bytes that are predicted in a row.
        windows: The most rows of the test; evenly spread where there are more.
    """

    def __init__(self, path: str, size: int, first_held_out: int, seq_len: int, windows: int) -> None:
        self._bytes = torch.from_file(path, shared=False, size=size, dtype=torch.uint8)
        self._first_held_out, self._places = first_held_out, torch.arange(seq_len + 1)
        self.size, self.windows_in_all = size, (size - first_held_out - 1) // seq_len
        count = min(windows, self.windows_in_all)
        numbers = torch.arange(count) * self.windows_in_all // count
        self.test_starts = first_held_out + numbers * seq_len

    def training_starts(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws the first bytes of rows to train on."""
        return torch.randint(self._first_held_out - len(self._places) + 1, (count,), generator=generator)

    def rows(self, starts: Tensor) -> Tensor:
        """Returns the bytes of rows, (B, seq_len + 1), int64."""
        return self._bytes[starts[:, None] + self._places].long()

    def unigram_loss(self) -> float:
        """Cross entropy of the tested bytes by how often each stands in the training part: what needs no model.

        One is added to each count, so that bytes that the training part lacks have a probability.
        """
        counts = torch.bincount(self._bytes[: self._first_held_out], minlength=256).double() + 1
        nats = -(counts / counts.sum()).log()
        return nats[self.rows(self.test_starts)[:, 1:]].mean().item()

    def prompt(self) -> Tensor:
        """Returns the bytes with which the held-out part begins, (1, T)."""
        return self._bytes[self._first_held_out :][:_PROMPT].long()[None]

    def describe(self) -> dict[str, int]:
        """What is trained and tested on, as plain data."""
        return {
            "bytes": self.size,
            "first_held_out": self._first_held_out,
            "windows": len(self.test_starts),
            "windows_in_all": self.windows_in_all,
            "predicted_bytes": len(self.test_starts) * (len(self._places) - 1),
        }


@dataclass(frozen=True)
class LmRun:
    """One training.

    Attributes:
        learning_rate: That it was trained with.
        seed: Of weights and rows.
        steps: That were taken.
        loss: Held-out loss at the end, nats per byte; infinite if it diverged.
        curve: Steps, and the mean training loss of the steps since the one before.
        held_out_curve: Steps and held-out losses.
        has_diverged: Whether the loss was infinite or no number.
        tokens: Bytes that were trained on.
        tokens_per_second: Of training alone, without tests.
        seconds: In all.
        sample: What the model writes.
    """

    learning_rate: float
    seed: int
    steps: int
    loss: float
    curve: tuple[tuple[int, float], ...]
    held_out_curve: tuple[tuple[int, float], ...]
    has_diverged: bool
    tokens: int
    tokens_per_second: float
    seconds: float
    sample: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in which what is no number is None."""
        return {**asdict(self), "loss": self.loss if math.isfinite(self.loss) else None}


def train_all(spec: ModelSpec, text: Text, asked: "LmObjective") -> tuple[float, dict[str, Any]]:
    """Trains a model with each rate and seed.

    Args:
        spec: The model with the ends of bytes.
        text: What it learns.
        asked: How.

    Returns:
        The mean held-out loss over seeds at the best rate, and details.
    """
    runs: list[LmRun] = []
    count = len(asked.learning_rate) * asked.seeds
    for rate in asked.learning_rate:
        for seed in range(asked.seeds):
            place = f"{len(runs) + 1}/{count}  seed {seed}, learning rate {rate:g}"
            runs.append(_train(spec, text, asked, rate, seed, place))
            _tell(place, runs[-1])
    rates = [[one for one in runs if one.learning_rate == rate] for rate in asked.learning_rate]
    best = min(rates, key=lambda some: fmean(one.loss for one in some))
    losses = [one.loss for one in best]
    details = {
        "learning_rate": best[0].learning_rate,
        "interval": mean_interval(losses) if math.isfinite(sum(losses)) else None,
        "unigram_loss": text.unigram_loss(),
        "curve": _mean_curve([one.curve for one in best]),
        "held_out_curve": _mean_curve([one.held_out_curve for one in best]),
        "text": text.describe(),
        "tokens": best[0].tokens,
        "tokens_per_second": fmean(one.tokens_per_second for one in best),
        "sample": best[0].sample,
        "runs": [one.to_dict() for one in runs],
        "warnings": list(_warnings(text, asked, runs)),
    }
    return fmean(losses), details


def _train(spec: ModelSpec, text: Text, asked: "LmObjective", rate: float, seed: int, place: str) -> LmRun:
    """Trains from fresh weights, and tests on the way."""
    device, started, busy = parse_device(asked.device), time.perf_counter(), 0.0
    generator = torch.Generator().manual_seed(seed)
    curve: list[tuple[int, float]] = []
    tests: list[tuple[int, float]] = []
    recent: list[float] = []
    with torch.random.fork_rng():  # dropout draws from the global generator, which is the caller's
        torch.manual_seed(seed)
        model = build(spec, device=device, seed=seed).train()
        descent = Descent(model, rate, asked.steps, min(_WARMUP, asked.steps // 5), _WEIGHT_DECAY)
        step, is_well = 0, True
        while is_well and step < asked.steps:
            begun, step = time.perf_counter(), step + 1
            rows = text.rows(text.training_starts(asked.batch_size, generator)).to(device)
            loss = _loss(model, rows, asked.dtype)
            is_well = descent.step(loss)
            if is_well:
                recent.append(loss.item())  # on a GPU this waits for the step, so it belongs to its time
            busy += time.perf_counter() - begun
            if is_well and (step % asked.evaluate_every == 0 or step == asked.steps):
                curve.append((step, fmean(recent)))
                tests.append((step, _held_out_loss(model, text, asked)))
                recent = []
                is_well = math.isfinite(tests[-1][1])
                print(f"{place}, step {step}: training {curve[-1][1]:.4f}, held-out {tests[-1][1]:.4f}", flush=True)
        sample = _sample(model, text, asked.sample, seed) if is_well and asked.sample else None
    tokens = step * asked.batch_size * asked.seq_len
    return LmRun(
        learning_rate=rate,
        seed=seed,
        steps=step,
        loss=tests[-1][1] if is_well else math.inf,
        curve=tuple(curve),
        held_out_curve=tuple(tests if is_well else [one for one in tests if math.isfinite(one[1])]),
        has_diverged=not is_well,
        tokens=tokens,
        tokens_per_second=tokens / busy,
        seconds=time.perf_counter() - started,
        sample=sample,
    )


def _tell(place: str, run: LmRun) -> None:
    """Writes a line for the log of the point."""
    end = ", diverged" if run.has_diverged else ""
    print(f"{place}: held-out loss {run.loss:.4f} after {run.steps} steps, {run.seconds:.0f} s{end}", flush=True)


def _loss(model: nn.Module, rows: Tensor, dtype: str, reduction: str = "mean") -> Tensor:
    """Cross entropy of each byte but the first, in nats."""
    with _precision(rows.device, dtype):
        logits = model(rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction=reduction)


def _precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, dtype=torch.bfloat16)


@torch.no_grad()
def _held_out_loss(model: HybridModel, text: Text, asked: "LmObjective") -> float:
    """Mean over all tested bytes; leaves the model in training mode."""
    model.eval()
    losses = []
    for starts in text.test_starts.split(asked.batch_size):
        losses.append(_loss(model, text.rows(starts).to(model.device), asked.dtype, reduction="sum").double())
    model.train()
    return torch.stack(losses).sum().item() / (len(text.test_starts) * asked.seq_len)


def _sample(model: HybridModel, text: Text, count: int, seed: int) -> dict[str, Any]:
    """Lets a model write on from where the held-out part begins."""
    model.eval()
    prompt = text.prompt().to(model.device)
    written = generate(model, prompt, count, temperature=_TEMPERATURE, seed=seed)[0].tolist()
    prompted, added = bytes(written[: prompt.shape[1]]), bytes(written[prompt.shape[1] :])
    return {"temperature": _TEMPERATURE, "prompt": _readable(prompted), "text": _readable(added)}


def _readable(written: bytes) -> str:
    """Bytes as text; what is no UTF-8 or cannot be shown becomes a replacement character."""
    decoded = written.decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in decoded)


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean of curves over the same steps, as far as the shortest goes."""
    return [(points[0][0], fmean(value for _, value in points)) for points in zip(*curves, strict=False)]


def _warnings(text: Text, asked: "LmObjective", runs: Sequence[LmRun]) -> Iterator[str]:
    """Yields what a reader must know before comparing anything."""
    if asked.seeds == 1:
        yield "lm: one seed: small differences between models may be chance; take 3 seeds or more for intervals"
    predicted = text.describe()["predicted_bytes"]
    if predicted < _FEW:
        yield f"lm: the held-out loss is over {predicted:,} bytes only; a longer text says more"
    epochs = asked.steps * asked.batch_size * asked.seq_len / text.describe()["first_held_out"]
    if epochs > 2:
        yield f"lm: each byte was trained on about {epochs:.0f} times; a model that learns the text by heart does worse"
    if any(one.has_diverged for one in runs):
        yield "lm: the loss became infinite or no number; take a smaller learning rate"
