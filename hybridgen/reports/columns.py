"""The columns of a report: what each number is called, its unit, and which way it is better."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hybridgen.objectives import KINDS
from hybridgen.runs import Record

Unit = Literal["count", "bytes", "flops", "ms", "share", "seconds", "number"]
_LABELS = {
    "params": "parameters",
    "active_params": "active parameters",
    "non_embedding_params": "parameters of the stack",
    "weight_bytes": "weights",
    "prefill_flops": "prefill FLOPs per token",
    "decode_flops": "FLOPs of decoding a token",
    "train_flops": "training FLOPs per token",
    "state_bytes": "decoding state",
    "kv_bytes": "keys and values",
    "ssm_bytes": "states of scans and convolutions",
    "activation_bytes": "activations kept in training",
    "train_memory": "training memory",
    "prefill_ms": "time of a prefill",
    "decode_ms": "time of decoding a token",
    "prefill_tokens_per_s": "prefill tokens per second",
    "decode_tokens_per_s": "decoded tokens per second",
    "peak_memory_prefill": "peak memory of a prefill",
    "peak_memory_decode": "peak memory of decoding",
    "peak_memory_train": "peak memory of training",
    "lm.loss": "held-out loss",
    "lm.bits_per_byte": "held-out bits per byte",
    "lm.perplexity": "held-out perplexity",
}
_FIRST = ("params",)
_MEAN = "accuracy.mean"  # before those of single tasks
_USERS_OWN = "python"  # nobody knows what the user's names mean


@dataclass(frozen=True)
class Metric:
    """A column of numbers.

    Attributes:
        name: In the report; that of the record unless two objectives have the same.
        label: For readers.
        unit: Of its numbers.
        goal: Which way it is better, if that is known.
        objective: The key of the objective that found it.
        own: Its name in the outcome of that objective.
        possible: The least and the largest number that there can be.
    """

    name: str
    label: str
    unit: Unit
    goal: Literal["min", "max"] | None
    objective: str
    own: str
    possible: tuple[float, float] = (-math.inf, math.inf)


def metrics_of(records: Sequence[Record]) -> list[Metric]:
    """Returns the columns of records: parameters first, then what was measured, then the other costs."""
    found: dict[tuple[str, str], str] = {}  # objective and name, to the kind of the objective
    for record in records:
        for key, outcome in record.outcomes.items():
            for name in outcome.metrics:
                found.setdefault((key, name), str(outcome.settings.get("kind", key)))
    # What is worked out is first to have the name of a size: the user's own function may return one of that name.
    ordered = sorted(
        found, key=lambda one: (one[1] not in _FIRST, (found[one] == "cost") != (one[1] in _FIRST), one[1] != _MEAN)
    )
    taken: set[str] = set()
    metrics = []
    for key, own in ordered:
        name = own if own not in taken else f"{key}: {own}"
        taken.add(name)
        kind = found[key, own]
        unit = _unit(own, kind)
        metrics.append(Metric(name, _label(own, name), unit, _goal(own, kind), key, own, _possible(unit, kind)))
    return metrics


def short_labels(keys: Sequence[str]) -> list[str]:
    """Returns the last parts of each key, as many as tell it from the others."""
    paths = [key.partition("@")[0].split(".") for key in keys]
    labels = []
    for key, path in zip(keys, paths, strict=True):
        tails = (path[-count:] for count in range(1, len(path) + 1))
        alone = (".".join(tail) for tail in tails if sum(other[-len(tail) :] == tail for other in paths) == 1)
        labels.append(next(alone, key))
    return labels


def headline(metrics: Iterable[Metric]) -> Metric | None:
    """Returns what models are judged by beside their parameters.

    An accuracy if there is one, else a loss on text, else another measured number, one with a known goal if there is
    one. A cost only where nothing was measured: what was asked for beside costs is what the reader wants to see.
    """
    known = [one for one in metrics if one.own not in _FIRST and (one.goal is not None or one.objective != "cost")]
    order: tuple[Callable[[Metric], bool], ...] = (
        lambda one: one.goal is not None and one.own == _MEAN,
        lambda one: one.goal is not None and one.own.startswith("accuracy"),
        lambda one: one.goal is not None and one.own.startswith("lm."),
        lambda one: one.goal is not None and one.objective != "cost",
        lambda one: one.objective != "cost",
        lambda one: one.own == "prefill_flops",
        lambda one: True,
    )
    return next((one for wanted in order for one in known if wanted(one)), None)


def written(value: float, unit: Unit) -> str:
    """Writes a number for people, with its unit."""
    if unit == "share":
        return f"{value:.3f}"
    if unit in ("bytes", "flops", "count"):
        from hybridgen.curves.quantities import written as scaled

        return scaled(value, unit)
    ends = {"ms": " ms", "seconds": " s"}
    return f"{value:.4g}{ends.get(unit, '')}"


def _label(own: str, name: str) -> str:
    base, _, rest = own.partition(".")
    words = _LABELS.get(own) or base.replace("_", " ") + (f", {rest}" if rest else "")
    return words if own == name else f"{words} ({name.rpartition(':')[0]})"


def _unit(own: str, kind: str) -> Unit:
    words = own.partition(".")[0].split("_")
    if kind == _USERS_OWN:
        return "number"
    if "accuracy" in words:
        return "share"
    units: dict[str, Unit] = {"ms": "ms", "seconds": "seconds", "bytes": "bytes", "memory": "bytes", "flops": "flops"}
    units |= {"params": "count", "parameters": "count", "tokens": "count"}
    return next((units[word] for word in reversed(words) if word in units), "number")


def _possible(unit: Unit, kind: str) -> tuple[float, float]:
    """All that is measured here is a size, a time or a loss; the user's own numbers can be below zero."""
    return (-math.inf if kind == _USERS_OWN else 0.0), (1.0 if unit == "share" else math.inf)


def _goal(own: str, kind: str) -> Literal["min", "max"] | None:
    goal = KINDS[kind].goal(own) if kind in KINDS else None
    return "min" if goal == "min" else "max" if goal == "max" else None
