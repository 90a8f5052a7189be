"""Our decoding states inside transformers' caches.

`DynamicCache(config=model.config)` and `StaticCache(...)` are what users and `generate` make. Before their first use by
one of our models their layers are replaced by ours, which all share one `DecodingState`: so a cache holds keys and
values, convolution and SSM states alike, and the same object goes through `generate`, beam search and cropping.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache, StaticCache

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.model.backbone import Stack
from hybridgen.model.reading import make_state
from hybridgen.model.state import DecodingState

_FIRST_ROOM = 64


class SharedState:
    """The state that the layers of a cache share.

    Attributes:
        state: What was read; None before the first call.
        room: Tokens that the cache may hold; None for any number, for which it grows.
    """

    def __init__(self, room: int | None) -> None:
        self.state: DecodingState | None = None
        self.room = room

    @property
    def length(self) -> int:
        """Tokens read, padding included, memory tokens not."""
        if self.state is None or not self.state.length:
            return 0
        return self.state.length - self.state.memory_tokens

    def prepare(self, stack: Stack, batch: int, length: int) -> DecodingState:
        """Returns the state with room for `length` more tokens of each row, made if there is none.

        Raises:
            ShapeError: If it is another model's, of another batch, or full.
        """
        end = self.length + length
        if self.state is None:
            room = max(_FIRST_ROOM, end) if self.room is None else self.room
            self.state = make_state(stack, batch, room, stack.norm_f.weight.dtype)
        self._check(stack, batch)
        if end <= self.state.max_seqlen - self.state.memory_tokens:
            return self.state
        if self.room is None:
            self.state.grow(max(end, 2 * self.state.max_seqlen))
        elif any(bound is not None for bound in self.state.capacities()):
            raise ShapeError(
                f"the StaticCache has room for {self.room} tokens and holds {self.length}; {length} more do not fit: "
                f"make it with a larger max_cache_len"
            )
        return self.state

    def _check(self, stack: Stack, batch: int) -> None:
        assert self.state is not None, "called behind the making of it"
        if self.state.model_key != stack.state_key:
            raise ShapeError("past_key_values was filled by a model of another spec; give a new DynamicCache")
        if self.state.is_busy:
            raise ShapeError("an earlier call with past_key_values failed halfway; give a new cache, or reset() it")
        if self.state.batch_size != batch:
            raise ShapeError(
                f"past_key_values holds {self.state.batch_size} rows, and the input has {batch}; give a new cache, or "
                f"choose rows with batch_select_indices or batch_repeat_interleave"
            )


class StateLayer(CacheLayerMixin):
    """One layer of a cache. The first one acts for all of them, as they share one state.

    Attributes:
        shared: That state.
        leads: Whether it is the first layer.
        whole: Says which layers cannot take back tokens; None if all can.
    """

    supports_early_init = False
    is_sliding = False

    def __init__(self, shared: SharedState, leads: bool, whole: str | None) -> None:
        super().__init__()
        self.shared, self.leads, self.whole = shared, leads, whole

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]  # a class attribute there
        """Whether tokens can be taken back."""
        return self.whole is None

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first call."""
        return -1 if self.shared.state is None else self.shared.state.batch_size

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: the model makes the state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuses: the model itself writes its state."""
        raise UnsupportedError("this cache belongs to a model of hybridgen's, which alone writes to it")

    def get_seq_length(self) -> int:
        """Returns the tokens read, padding included."""
        return self.shared.length

    def get_max_length(self) -> int:
        """Returns how many tokens fit; -1 for any number."""
        return -1 if self.shared.room is None else self.shared.room

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the length of a mask for a call of so many tokens, and where it begins."""
        return self.shared.length + query_length, 0

    def reset(self) -> None:
        """Forgets everything read; the next call may be of another batch."""
        self.shared.state = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Makes row i what row beam_idx[i] was."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        if self.leads and self.shared.state is not None:
            self.shared.state.select_rows(torch.arange(self.shared.state.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        if self.leads and self.shared.state is not None:
            self.shared.state.select_rows(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back tokens.

        Args:
            tokens_to_remove: Their number, written negative; all, if fewer were read.

        Raises:
            UnsupportedError: If a layer's state is changed as a whole by every token.
            ShapeError: If it is above 0.
        """
        if tokens_to_remove > 0:
            raise ShapeError(f"crop takes 0 or a negative number, the tokens to remove; given {tokens_to_remove}")
        if not self.leads or self.shared.state is None or not tokens_to_remove:
            return
        length = self.shared.length + tokens_to_remove
        if length <= 0:
            self.reset()
        elif self.whole is None:
            self.shared.state.truncate(length + self.shared.state.memory_tokens)
        else:
            raise UnsupportedError(
                f"crop takes tokens back, and {self.whole} cannot: every token changes their state as a whole; keep a "
                f"copy.deepcopy of the cache from before"
            )

    def offload(self) -> None:
        """Does nothing; see `state_of`, which refuses caches that are to be offloaded."""

    def prefetch(self) -> None:
        """Does nothing; see `offload`."""


def new_cache(config: Any) -> DynamicCache:
    """Makes an empty cache that grows."""
    return DynamicCache(config=config)


def state_of(cache: Any, layers: int, whole: str | None) -> SharedState:
    """Returns the state inside a cache, whose layers become ours if it is new.

    Args:
        cache: A `DynamicCache` or a `StaticCache`.
        layers: Layers of the model.
        whole: See `StateLayer`.

    Raises:
        UnsupportedError: For other caches, or one that another model has filled.
    """
    if type(cache) not in (DynamicCache, StaticCache):
        raise UnsupportedError(
            f"past_key_values must be a DynamicCache or a StaticCache of transformers; given {type(cache).__name__}"
        )
    if cache.offloading:
        raise UnsupportedError("the states of hybridgen's models cannot be offloaded; give a cache without offloading")
    if cache.layers and isinstance(cache.layers[0], StateLayer):
        return cache.layers[0].shared
    if any(_is_filled(layer) for layer in cache.layers):
        raise UnsupportedError("past_key_values was filled by another model; give a new DynamicCache")
    room = cache.get_max_length() if isinstance(cache, StaticCache) else -1
    shared = SharedState(room if room >= 0 else None)
    cache.layers = [StateLayer(shared, index == 0, whole) for index in range(layers)]
    cache.layer_class_to_replicate = None
    return shared


def _is_filled(layer: Any) -> bool:
    if isinstance(layer, CacheLayerMixin):
        return int(layer.get_seq_length()) > 0
    return any(getattr(layer, "has_previous_state", {}).values())
