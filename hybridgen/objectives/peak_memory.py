"""How much memory a model takes at most, measured: reading a prompt, each token behind it, and training."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from hybridgen.objectives.base import Measurement
from hybridgen.objectives.setting import RunObjective
from hybridgen.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hybridgen.model.model import HybridModel
    from hybridgen.objectives.memory import Meter


class PeakMemoryObjective(RunObjective):
    """The most bytes that PyTorch's allocator has given out at once: weights and all else.

    Attributes:
        train: Whether a step of training is measured too.
    """

    kind: ClassVar[str] = "peak_memory"

    train: bool = True

    def measure(self, spec: ModelSpec) -> Measurement:
        """Builds the model with random weights, runs it, and trains it for two steps."""
        from hybridgen.builder import build, parse_device
        from hybridgen.objectives.calls import circumstances
        from hybridgen.objectives.memory import meter_for

        self.check(spec)
        device = parse_device(self.device)
        meter = meter_for(device)
        model, _ = meter.run(lambda: build(spec, device=device, dtype=self.dtype))
        metrics: dict[str, int | float] = {}
        details: dict[str, Any] = {"seq_len": self.length(spec), "weights": _bytes(model.parameters())}
        self._infer(model, meter, metrics, details)
        if self.train:
            self._train(model, meter, metrics, details)
        return Measurement(metrics, details | circumstances(device, spec))

    def _infer(
        self, model: "HybridModel", meter: "Meter", metrics: dict[str, int | float], details: dict[str, Any]
    ) -> None:
        import torch

        from hybridgen.objectives.calls import Calls

        length, steps = self.length(model.spec), self.steps(model.spec)
        model.eval()

        def prefill() -> Calls:
            calls = Calls(model, self.batch_size, length, steps)
            calls.make_state()
            calls.prefill()
            return calls

        with torch.no_grad():
            meter.run(lambda: prefill().decode())  # what is made once and stays is made here
            calls, metrics["peak_memory_prefill"] = meter.run(prefill)
            if steps:
                _, metrics["peak_memory_decode"] = meter.run(calls.decode)
            details["state"] = 0 if calls.state is None else calls.state.nbytes()
            meter.run(calls.release)

    def _train(
        self, model: "HybridModel", meter: "Meter", metrics: dict[str, int | float], details: dict[str, Any]
    ) -> None:
        import torch

        from hybridgen.objectives.calls import random_input
        from hybridgen.objectives.memory import training_step

        model.train()
        # The fused one works in place; the others make copies of weights, as their own habit and not the model's.
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        length = self.length(model.spec)
        step, _ = meter.run(lambda: training_step(model, random_input(model, self.batch_size, length), optimizer))
        meter.run(step)  # makes gradients and moments
        _, peak = meter.run(step)
        metrics["peak_memory_train"] = peak
        moments = (value for state in optimizer.state.values() for value in state.values())
        parts = {
            "gradients": _bytes(one.grad for one in model.parameters() if one.grad is not None),
            "optimizer": _bytes(value for value in moments if isinstance(value, torch.Tensor)),
        }
        details |= {**parts, "activations": peak - details["weights"] - sum(parts.values())}


def _bytes(tensors: "Iterable[Tensor]") -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
