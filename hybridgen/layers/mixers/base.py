"""What every mixer is: a map over tokens that can also be continued from a state."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules import module as _module

from hybridgen.layers.span import Span


@dataclass
class MixerState:
    """What one mixer remembers of the tokens it has seen; the tensors are updated in place.

    Attributes:
        history: (R, ...) for each buffer of `running`, its value in front of each of the last R tokens: that of slot s
            at index s modulo R. Empty where the last tokens cannot, or need not, be remembered.
    """

    history: dict[str, Tensor] = field(default_factory=dict, kw_only=True)

    def buffers(self) -> dict[str, Tensor]:
        """Returns what the mixer reads, by name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the buffers and their history by name."""
        return self.buffers() | {f"history.{name}": value for name, value in self.history.items()}

    def running(self) -> dict[str, Tensor]:
        """Returns the buffers that a token changes as a whole; in others it has a place of its own."""
        return self.buffers()

    def keep_history(self, steps: int) -> None:
        """Makes an empty state remember what it was in front of each of the last `steps` tokens."""
        self.history = {name: value.new_zeros(steps, *value.shape) for name, value in self.running().items()}

    def record(self, slot: int) -> None:
        """Remembers the state in front of the token of a slot."""
        running = self.running()
        for name, ring in self.history.items():
            ring[slot % len(ring)] = running[name].detach()

    def lowest(self, peak: int, steps: int) -> int:
        """Returns the least length to which it can be rolled back, after `peak` tokens, with so many remembered."""
        return max(0, peak - steps) if self.running() else 0

    def roll_back(self, length: int, target: int) -> None:
        """Makes a state of `length` tokens that of its first `target`."""
        running = self.running()
        for name, ring in self.history.items():
            running[name].copy_(ring[target % len(ring)])

    def select_rows(self, index: Int[Tensor, " R"]) -> None:
        """Makes row i what row index[i] is, in new tensors: those there were keep their values."""
        for name, value in self.buffers().items():
            setattr(self, name, value.index_select(0, index.to(value.device)))
        self.history = {name: ring.index_select(1, index.to(ring.device)) for name, ring in self.history.items()}

    def grow(self, max_seqlen: int) -> None:
        """Makes room for max_seqlen tokens per row, where there is a bound; all that was read stays."""

    def capacity(self) -> int | None:
        """Returns how many tokens fit; None if there is no bound, as in every recurrent state."""
        return None

    def reset(self) -> None:
        """Forgets everything; the buffers keep their place in memory."""
        for value in self.tensors().values():
            value.zero_()


class Mixer(nn.Module, ABC):
    """A mixer over tokens. One call on T tokens equals any split of them into calls that hand on a state.

    With a state the mixer reads what came before, and leaves in it what the next call needs. A state carries no
    gradient from one call to the next.
    """

    is_causal: bool = True
    """Whether later tokens leave earlier outputs as they are; only then does a state have a meaning."""

    keeps_history: bool = False
    """Whether `forward` fills the state's history itself; otherwise the last tokens are given to it one by one."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, span: Span | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mixes the tokens.

        Args:
            x: Layer input.
            state: Made by `init_state`; advanced in place.
            span: Where the tokens stand; None is a plain batch that begins at slot 0.
        """

    @abstractmethod
    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> MixerState:
        """Makes an empty state for up to max_seqlen tokens per row; recurrent states ignore that bound."""


def run_and_remember(mixer: Mixer, x: Float[Tensor, "B T D"], state: MixerState, span: Span) -> Float[Tensor, "B T D"]:
    """Runs a mixer that knows of no history: the last tokens one by one, each after a copy of the state."""
    length, steps = x.shape[1], min(x.shape[1], len(next(iter(state.history.values()))))
    if torch.is_grad_enabled():
        # A state hands on no gradient, so the outputs come from one call, and what is remembered from others.
        earlier = {name: value.clone() for name, value in state.buffers().items()}
        y = _output(mixer, x, state, span)
        for name, value in state.buffers().items():
            value.copy_(earlier[name])
        with torch.no_grad():
            run_and_remember(mixer, x, state, span)
        return y
    first = length - steps
    parts = [_output(mixer, x[:, :first], state, span.part(0, first))] if first else []
    for index in range(first, length):
        state.record(span.offset + index)
        parts.append(_output(mixer, x[:, index : index + 1], state, span.part(index, index + 1)))
    return torch.cat(parts, dim=1) if parts else _output(mixer, x, state, span)


def _output(mixer: Mixer, x: Tensor, state: MixerState, span: Span) -> Tensor:
    y: Tensor = mixer(x, state, span)
    return y


def before(buffer: Tensor | None, span: Span) -> Tensor | None:
    """Returns a state's buffer as an input of this call.

    Nothing stands before slot 0, and saying so by None lets kernels in that take no initial state. A copy is returned
    if autograd may need the values after they are overwritten.
    """
    if buffer is None or span.offset == 0:
        return None
    return buffer.clone() if torch.is_grad_enabled() else buffer


def is_single_step(x: Tensor, state: MixerState | None, span: Span) -> bool:
    """Tells whether a call can take the in-place path for one token, which autograd cannot follow."""
    return state is not None and x.shape[1] == 1 and span.resets() is None and not torch.is_grad_enabled()


def plain_span(x: Tensor) -> Span:
    """Returns the span of a batch that begins at slot 0 and has neither padding nor packing."""
    return Span(0, x.shape[1], x.device)


def layer_scaled(y: Float[Tensor, "B T D"], gamma: Float[Tensor, " D"] | None) -> Float[Tensor, "B T D"]:
    """Multiplies a mixer's output by its factor per channel, if it has one. Source: CaiT, arXiv 2103.17239, eq. 4."""
    return y if gamma is None else y * gamma


def runs_as_written(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Tells whether a module is one of this very class, and calling it does what the class says and no more.

    Adapters, quantised and parametrised modules are of other classes; hooks and patched methods are seen here.
    """
    return (
        type(module) is kind
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (_module._global_forward_hooks or _module._global_forward_pre_hooks)
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
    )


def weights_of(module: nn.Module | None) -> tuple[Any, Any]:
    """Returns weight and bias, as attribute access would, in a fraction of its time."""
    assert module is not None
    parameters = module._parameters
    if "weight" in parameters and "bias" in parameters:
        return parameters["weight"], parameters["bias"]
    return module.weight, module.bias
