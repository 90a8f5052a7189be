"""Decoding state: what a model remembers of the tokens it has read."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.layers.mixers.base import MixerState
from hybridgen.layers.span import Span

_BOOKKEEPING = ("length", "peak", "starts", "last_seq_idx")
_BUSY = (
    "an earlier call with this state failed halfway, so its layers are out of step; call state.reset() and begin "
    "again, or go on with a copy.deepcopy made before"
)


@dataclass(repr=False)
class DecodingState:
    """State of every layer of a model, for a batch. `model(x, state=state)` advances it in place.

    Copying with `copy.deepcopy` branches a generation; `state_dict` and `load_state_dict` save and restore it.

    Attributes:
        layers: State of each layer's mixer; None for a layer without one.
        batch_size: Rows B.
        max_seqlen: Tokens per row that fit, padding and memory tokens included; no bound where no layer keeps all.
        model_key: Says for which stack of layers the state was made; see `Stack.state_key`.
        rollback: Tokens that can be taken back whatever the layers are; see `truncate`.
        length: Tokens per row read so far, padding and memory tokens included.
        peak: The greatest length since the state was empty.
        starts: (B,) slot at which each row's current sequence begins; None means slot 0 in every row.
        last_seq_idx: (B,) number of each row's current sequence in packed input; None without packing.
        has_waiting_rows: Whether a row may have had nothing but padding so far, so that its first token is to come.
        is_busy: Whether a call is under way; still true after one that failed, which leaves the layers out of step.
    """

    layers: list[MixerState | None]
    batch_size: int
    max_seqlen: int
    model_key: str
    rollback: int = 0
    memory_tokens: int = 0
    length: int = 0
    peak: int = 0
    starts: Int[Tensor, " B"] | None = None
    last_seq_idx: Int[Tensor, " B"] | None = None
    has_waiting_rows: bool = False
    is_busy: bool = False

    def __repr__(self) -> str:
        size = f"batch_size={self.batch_size}, max_seqlen={self.max_seqlen}, length={self.length}"
        return f"DecodingState({size}, {len(self.layers)} layers, {self.nbytes():,} bytes)"

    def reset(self) -> None:
        """Forgets everything read; the buffers are kept and can be used again."""
        for layer in self.layers:
            if layer is not None:
                layer.reset()
        self.length, self.peak, self.starts, self.last_seq_idx = 0, 0, None, None
        self.has_waiting_rows, self.is_busy = False, False

    def truncate(self, length: int) -> None:
        """Takes back all tokens but the first `length` of each row, as if they had not been read.

        Padding and memory tokens count, as in the attribute `length`.

        Key-value caches without a window can be rolled back to any length, and all states to 0, which is `reset`. What
        every token changes as a whole (Mamba states, convolutions, what selective layers hide, keys under a window or a
        budget) can be rolled back by as many tokens as `init_state(..., rollback=R)` says. In packed rows the sequence
        that is under way must have begun before.

        Raises:
            ShapeError: If there are not so many tokens, a sequence began later, or more than R tokens are to go.
            UnsupportedError: If a layer cannot go back because the state was made without `rollback`.
        """
        if type(length) is not int or not 0 <= length <= self.length:
            raise ShapeError(f"truncate takes a length of 0 ... {self.length}, the tokens read; given {length!r}")
        if length == 0:
            self.reset()
            return
        if self.is_busy:
            raise ShapeError(_BUSY)
        if length == self.length:
            return
        first = 0 if self.starts is None else int(self.starts.max())
        if self.memory_tokens and length < first + self.memory_tokens:
            raise ShapeError(
                f"truncate({length}) would take back some of the {self.memory_tokens} memory tokens, which end at "
                f"{first + self.memory_tokens}; truncate(0) takes back everything, and the next call begins with them"
            )
        self._check_reach(length)
        if self.starts is not None:
            later = self.starts >= length
            if self.last_seq_idx is not None and bool(later.any()):
                row = int(later.nonzero()[0, 0])
                raise ShapeError(
                    f"truncate({length}) would go behind the beginning of a sequence: that of row {row} began at token "
                    f"{int(self.starts[row])}, and where the one before it began is not kept"
                )
            # Rows that have had nothing but padding by then wait for their first token.
            self.starts = self.starts.clamp(max=length)
            self.has_waiting_rows = bool(later.any())
        for layer in self.layers:
            if layer is not None:
                layer.roll_back(self.length, length)
        self.length = length

    def select_rows(self, index: Tensor) -> None:
        """Makes row i what row index[i] is: reorders beams, repeats rows, or keeps some of them.

        Everything is copied into new tensors, also what `truncate` needs. Those of before, as `state_dict` returned
        them, keep their values; a CUDA graph captured before still uses them, and must be captured again.

        Args:
            index: (R,) int64 or int32, on any device, each in 0 ... batch_size - 1. R is the batch size then; 0 too.

        Raises:
            ShapeError: If these are no such numbers, or if a call with the state failed halfway.
        """
        if self.is_busy:
            raise ShapeError(_BUSY)
        _check_index(index, self.batch_size)
        for layer in self.layers:
            if layer is not None:
                layer.select_rows(index)
        for name in ("starts", "last_seq_idx"):
            value: Tensor | None = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, index.to(value.device)))
        self.batch_size = len(index)
        self.has_waiting_rows = self.has_waiting_rows and self._any_waits()

    def grow(self, max_seqlen: int) -> None:
        """Makes room for more tokens; the state is then as if it had been made for so many. What was read stays.

        Only layers that keep all tokens take more memory: under a window or a budget as much as that asks for, and in
        recurrent layers none. All that is kept is copied, so grow by a share of the size, not token by token.

        Args:
            max_seqlen: Tokens per row, padding included and memory tokens not, as `init_state` takes it. Nothing
                happens if so many fit already.

        Raises:
            ShapeError: If it is no whole number, 0 or more, or if a call with the state failed halfway.
        """
        if type(max_seqlen) is not int or max_seqlen < 0:
            raise ShapeError(f"max_seqlen must be a whole number, 0 or more; given {max_seqlen!r}")
        if self.is_busy:
            raise ShapeError(_BUSY)
        wanted = max_seqlen + self.memory_tokens
        if wanted <= self.max_seqlen:
            return
        for layer in self.layers:
            if layer is not None:
                layer.grow(wanted)
        self.max_seqlen = wanted

    def _any_waits(self) -> bool:
        return self.starts is not None and bool((self.starts == self.length).any())

    def _check_reach(self, length: int) -> None:
        for index, layer in enumerate(self.layers):
            lowest = 0 if layer is None else layer.lowest(self.peak, self.rollback)
            if lowest <= length:
                continue
            if not self.rollback:
                raise UnsupportedError(
                    f"layer {index} cannot be rolled back: every token changes its state as a whole; make the state "
                    f"with init_state(..., rollback={self.length - length}) to take back so many tokens"
                )
            raise ShapeError(
                f"truncate({length}) would take back {self.peak - length} of the {self.peak} tokens that were read; "
                f"layer {index} remembers rollback = {self.rollback}"
            )

    def nbytes(self) -> int:
        """Returns the bytes that the layers' buffers take."""
        tensors = [tensor for layer in self.layers if layer is not None for tensor in layer.tensors().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def capacities(self) -> list[int | None]:
        """Returns how many tokens fit into each layer's state; None where there is no bound."""
        return [layer.capacity() for layer in self.layers if layer is not None]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns everything as tensors by name, ready for safetensors; the layers' buffers are not copied."""
        saved = {"length": torch.tensor(self.length)}
        if self.peak != self.length:
            saved["peak"] = torch.tensor(self.peak)
        for name in ("starts", "last_seq_idx"):
            value = getattr(self, name)
            if value is not None:
                saved[name] = value
        for index, layer in enumerate(self.layers):
            if layer is not None:
                saved |= {f"layers.{index}.{name}": tensor for name, tensor in layer.tensors().items()}
        return saved

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` of a state of the same model, batch size and max_seqlen returned.

        Raises:
            ShapeError: If names or shapes differ.
        """
        own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("layers.")}
        given = {name: tensor for name, tensor in saved.items() if name not in _BOOKKEEPING}
        wrong = sorted(own.keys() ^ given.keys()) or [n for n in own if own[n].shape != given[n].shape]
        if wrong or "length" not in saved:
            raise ShapeError(
                f"this saved state belongs to another model, batch size or max_seqlen; it differs at "
                f"{', '.join(wrong[:5]) or 'length'}"
            )
        length = int(saved["length"])
        if length < 0 or any(bound is not None and length > bound for bound in self.capacities()):
            raise ShapeError(f"the saved state says it has read {length} tokens; this one holds {self.max_seqlen}")
        for name, tensor in own.items():
            tensor.copy_(given[name])
        self.length, self.peak = length, int(saved.get("peak", saved["length"]))
        device = next(iter(own.values())).device if own else None
        for name in ("starts", "last_seq_idx"):
            setattr(self, name, saved[name].to(device, copy=True) if name in saved else None)
        self.is_busy = False
        self.has_waiting_rows = self._any_waits()


class Step(NamedTuple):
    """Where the tokens of one call stand, and what the state has to remember of that when the call is over."""

    span: Span
    starts: Tensor | None = None
    last_seq_idx: Tensor | None = None
    has_waiting_rows: bool = False

    def finish(self, state: DecodingState) -> None:
        """Advances the state's bookkeeping by this call."""
        state.length += self.span.length
        state.peak = max(state.peak, state.length)
        state.has_waiting_rows, state.is_busy = self.has_waiting_rows, False
        state.starts, state.last_seq_idx = self.starts, self.last_seq_idx


def plan_step(
    shape: tuple[int, int],
    device: torch.device,
    state: DecodingState | None,
    mask: Bool[Tensor, "B T"] | None,
    seq_idx: Int[Tensor, "B T"] | None,
) -> Step:
    """Works out where the tokens of a call stand.

    Args:
        shape: Batch size B and number of tokens T.
        device: Device of the call.
        state: State that the call continues, if any.
        mask: False for padding tokens. They stand before the real tokens of their row; in a call without a state they
            may stand behind them too.
        seq_idx: Number of the sequence that each token of a packed row belongs to.

    Raises:
        ShapeError: If the arguments do not fit each other or the state.
    """
    batch, length = shape
    offset = 0 if state is None else state.length
    if state is not None:
        _check_state(state, batch, length)
    if mask is not None and seq_idx is not None:
        raise ShapeError("give mask (padding) or seq_idx (packing), not both; packed rows need no padding mask")
    if seq_idx is not None:
        _check_rows("seq_idx", seq_idx, shape)
        if seq_idx.is_floating_point() or seq_idx.dtype == torch.bool:
            raise ShapeError(f"seq_idx must hold integers, the number of each token's sequence; given {seq_idx.dtype}")
        return _packed(seq_idx, offset, state)
    if mask is not None:
        _check_rows("mask", mask, shape)
        return _padded(check_mask(mask), offset, state)
    if state is None or state.starts is None:
        return Step(Span(offset, length, device), None, None if state is None else state.last_seq_idx)
    starts = state.starts[:, None].expand(batch, length)
    span = Span(offset, length, device, starts, begins=state.has_waiting_rows)
    return Step(span, state.starts, state.last_seq_idx, state.has_waiting_rows and length == 0)


def _check_state(state: DecodingState, batch: int, length: int) -> None:
    if state.batch_size != batch:
        raise ShapeError(f"the state was made for batch_size {state.batch_size}; the input has {batch} rows")
    if state.is_busy:
        raise ShapeError(_BUSY)
    if any(bound is not None and state.length + length > bound for bound in state.capacities()):
        raise ShapeError(
            f"the state holds max_seqlen = {state.max_seqlen} tokens and has read {state.length}; {length} more do not "
            f"fit: call init_state with a larger max_seqlen"
        )


def _check_index(index: Tensor, batch: int) -> None:
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in (torch.int64, torch.int32):
        given = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise ShapeError(f"select_rows takes a tensor of row numbers, (R,) int64 or int32; given {given}")
    wrong = index[(index < 0) | (index >= batch)]
    if len(wrong):
        raise ShapeError(
            f"select_rows takes row numbers below the batch size, {batch}, and none below 0; given {int(wrong[0])}"
        )


def _check_rows(name: str, given: Tensor, shape: tuple[int, int]) -> None:
    if not isinstance(given, Tensor):
        raise ShapeError(f"{name} must be a tensor; given {type(given).__name__}")
    if tuple(given.shape) != shape:
        raise ShapeError(f"{name} must have the shape (B, T) = {shape} of the input; given {tuple(given.shape)}")


def check_mask(mask: Tensor) -> Tensor:
    """Returns a mask as booleans.

    Raises:
        ShapeError: If it is none: additive float masks mean the opposite at zero.
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point():
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ShapeError(f"mask must be a tensor of booleans, true for real tokens; given {given}")
    return mask.bool()


def _padded(mask: Tensor, offset: int, state: DecodingState | None) -> Step:
    batch, length = mask.shape
    slots = torch.arange(offset, offset + length, device=mask.device)
    before = None if state is None else state.starts
    if before is None and offset:
        before = torch.zeros(batch, dtype=torch.long, device=mask.device)
    has_begun = torch.zeros(batch, dtype=torch.bool, device=mask.device) if before is None else before < offset
    if not torch.compiler.is_compiling():
        if bool(mask.all()) and before is None:
            return Step(Span(offset, length, mask.device))
        _check_padding(mask, has_begun, may_end=state is None)
    first = offset + (mask.cumsum(dim=1) == 0).sum(dim=1)
    starts = first if before is None else torch.where(has_begun, before, first)
    # A padding token is a sequence of its own: it starts where it stands.
    per_token = torch.where(mask, starts[:, None], slots)
    waits = torch.compiler.is_compiling() or bool((starts == offset + length).any())
    return Step(Span(offset, length, mask.device, per_token), starts, None, waits)


def _check_padding(mask: Tensor, has_begun: Tensor, may_end: bool) -> None:
    """Refuses padding after real tokens; with `may_end`, only if real tokens follow it again."""
    ends = mask[:, :-1] & ~mask[:, 1:]
    begins = ~mask[:, :-1] & mask[:, 1:]
    if may_end:
        wrong = (begins & (ends.cumsum(dim=1) > 0)).any(dim=1)
        rule = "the real tokens of a row must stand together"
    else:
        wrong = ends.any(dim=1) | (has_begun & ~mask.all(dim=1))
        rule = "with a state, padding must stand on the left of its row, before the real tokens"
    if bool(wrong.any()):
        raise ShapeError(f"{rule}; row {int(wrong.nonzero()[0, 0])} has padding after a real token")


def _packed(seq_idx: Tensor, offset: int, state: DecodingState | None) -> Step:
    batch, length = seq_idx.shape
    if state is not None and offset and state.last_seq_idx is None:
        raise ShapeError("the state was started without seq_idx, so its sequence has no number to continue from")
    if length == 0:
        starts = None if state is None else state.starts
        last = None if state is None else state.last_seq_idx
        return Step(Span(offset, 0, seq_idx.device, seq_idx), starts, last)
    slots = torch.arange(offset, offset + length, device=seq_idx.device)
    begins = torch.ones(batch, length, dtype=torch.bool, device=seq_idx.device)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    before = torch.full((batch,), offset, dtype=torch.long, device=seq_idx.device)
    if state is not None and state.last_seq_idx is not None and state.starts is not None:
        begins[:, 0] = seq_idx[:, 0] != state.last_seq_idx
        before = state.starts
    starts = torch.where(begins, slots, -1).cummax(dim=1).values
    starts = torch.where(starts < 0, before[:, None], starts)
    return Step(Span(offset, length, seq_idx.device, starts), starts[:, -1].clone(), seq_idx[:, -1].clone())
