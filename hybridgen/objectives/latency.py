"""How long a model takes, measured: reading a prompt, and each token behind it."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hybridgen.objectives.base import Measurement
from hybridgen.objectives.setting import Count, RunObjective
from hybridgen.spec import ModelSpec

if TYPE_CHECKING:
    from hybridgen.objectives.calls import Calls

_clock = time.perf_counter


class LatencyObjective(RunObjective):
    """Times of prefill and decoding: medians over repeats, after calls that are not counted.

    Attributes:
        warmup: Repeats that are not counted; the first few are slower, by allocation and by caches that are cold.
        repeats: Repeats that are.
    """

    kind: ClassVar[str] = "latency"
    is_timed: ClassVar[bool] = True

    warmup: Annotated[int, Field(ge=0, le=1000)] = 3
    repeats: Annotated[Count, Field(le=1000)] = 5

    def measure(self, spec: ModelSpec) -> Measurement:
        """Builds the model with random weights and runs it."""
        import torch

        from hybridgen.builder import build
        from hybridgen.objectives.calls import Calls, circumstances

        self.check(spec)
        length, steps = self.length(spec), self.steps(spec)
        model = build(spec, device=self.device, dtype=self.dtype).eval()
        with torch.inference_mode():
            calls = Calls(model, self.batch_size, length, steps)
            calls.make_state()
            for _ in range(self.warmup):
                _timed(calls)
            times = [_timed(calls) for _ in range(self.repeats)]
        prefill = [1e3 * first for first, _ in times]
        metrics = _metrics("prefill", prefill, self.batch_size * length)
        details: dict[str, Any] = {"seq_len": length, "prefill_ms": _spread(prefill)}
        if steps:
            decode = [1e3 * second / steps for _, second in times]
            metrics |= _metrics("decode", decode, self.batch_size)
            details["decode_ms"] = _spread(decode)
        return Measurement(metrics, details | circumstances(model.device, spec))

    @classmethod
    def goal(cls, metric: str) -> Literal["max", "min"]:
        """More tokens per second are better, and fewer milliseconds."""
        return "max" if metric.endswith("_per_s") else "min"


def _timed(calls: "Calls") -> tuple[float, float]:
    """Seconds of a prefill, and of all steps of decoding behind it."""
    from hybridgen.objectives.calls import synchronize

    times = []
    for call in (calls.prefill, calls.decode):
        synchronize(calls.model.device)
        begin = _clock()
        call()
        synchronize(calls.model.device)  # a GPU is told what to do, and does it later
        times.append(_clock() - begin)
    return times[0], times[1]


def _metrics(name: str, times: Sequence[float], tokens: int) -> dict[str, int | float]:
    median = statistics.median(times)
    return {f"{name}_ms": median, f"{name}_tokens_per_s": 1e3 * tokens / median}


def _spread(times: Sequence[float]) -> dict[str, Any]:
    """Quartiles of times, and all of them in the order in which they were taken."""
    # One time is all quartiles of itself, which Python refuses before 3.13.
    cuts = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
    return {"q1": cuts[0], "median": cuts[1], "q3": cuts[2], "repeats": list(times)}
