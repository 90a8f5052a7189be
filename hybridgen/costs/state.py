"""How many bytes a decoding state takes: those of the buffers that `model.init_state` makes."""

from typing import NamedTuple, assert_never

from hybridgen.costs.places import placed_layers
from hybridgen.costs.results import StateBytes
from hybridgen.spec import BackboneSpec, ModelSpec
from hybridgen.spec.ends import ClassifierHeadSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec, MixerSpec

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
"""Bytes of a number of each dtype that a model can have."""
_PLACE = 4  # of int32, the slot of a key that is kept


class Room(NamedTuple):
    """What a state is made for.

    Attributes:
        rows: Rows of the batch.
        tokens: Tokens per row, memory tokens included.
        dtype: Of keys, values and convolution states.
    """

    rows: int
    tokens: int
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of a number of the model's dtype."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a number that is float32 at least: states of scans, and what selective layers note."""
        return max(BYTES[self.dtype], 4)


def can_decode(spec: ModelSpec) -> bool:
    """Whether a model reads on from a state: not images, not to classify, and no layer sees later tokens."""
    if isinstance(spec.input, PatchesInputSpec) or isinstance(spec.head, ClassifierHeadSpec):
        return False
    if spec.backbone.bidirectional == "layers":
        return False
    return all(layer.mixer is None or layer.mixer.is_causal() for layer in spec.backbone.layers)


def memory_tokens(spec: ModelSpec) -> int:
    """Learned tokens before the first token of each row, which take slots like others."""
    return spec.input.memory_tokens if isinstance(spec.input, TokensInputSpec) else 0


def state_bytes(mixer: MixerSpec | None, stack: BackboneSpec, room: Room) -> StateBytes:
    """The bytes of one mixer's state."""
    match mixer:
        case None:
            return StateBytes()
        case AttentionSpec():
            return _attention_state(mixer, stack, room)
        case Mamba1Spec():
            d_inner = mixer.d_inner(stack.d_model)
            return _scan_state(mixer, d_inner, d_inner, room)
        case Mamba2Spec():
            d_ssm = mixer.d_ssm_for(stack.d_model)
            return _scan_state(mixer, d_ssm, d_ssm + 2 * mixer.ngroups * mixer.d_state, room)
        case _:
            assert_never(mixer)


def _attention_state(mixer: AttentionSpec, stack: BackboneSpec, room: Room) -> StateBytes:
    head_dim, kv_heads = mixer.head_dim_for(stack.d_model), mixer.kv_heads()
    chooses = mixer.selective and mixer.selection_from in ("self", "accumulate")
    noted = room.wide if chooses else 0
    if stack.residual_attn is not None:
        slots = room.tokens  # a later layer may look further than this one's window
    elif mixer.context_budget is not None:
        # One slot more for the newest key, and the slot of each in the sequence.
        slots, noted = min(mixer.context_budget, room.tokens) + 1, room.wide + _PLACE
    else:
        slots = room.tokens if mixer.window is None else min(mixer.window, room.tokens)
    qkv_dim = (mixer.num_heads + 2 * kv_heads) * head_dim
    return StateBytes(
        kv=room.rows * slots * 2 * kv_heads * head_dim * room.size,
        selection=room.rows * slots * noted,
        conv=room.rows * qkv_dim * max(mixer.d_conv - 1, 0) * room.size,
    )


def _scan_state(mixer: Mamba1Spec | Mamba2Spec, channels: int, conv_channels: int, room: Room) -> StateBytes:
    return StateBytes(
        ssm=room.rows * channels * mixer.d_state * room.wide,
        conv=room.rows * conv_channels * (mixer.d_conv - 1) * room.size,
    )


def crossover(spec: ModelSpec, dtype: str) -> int | None:
    """The least length at which keys and values take as many bytes as the states of scans and convolutions.

    None where one side has no state, or where windows and budgets keep keys and values below for ever.
    """
    if not can_decode(spec):
        return None
    # No cache grows beyond the largest bound, but for those without one, which grow by a token's bytes at least.
    bounds = [mixer.context_budget or mixer.window or 0 for mixer in _attention_layers(spec)]
    first = _state_at(spec, 1, dtype)
    states = first.ssm + first.conv
    if not states or not bounds:
        return None
    low, high = 1, max(*bounds, states, 2)
    if not _caches(spec, high, dtype) >= states:
        return None
    while low < high:
        middle = (low + high) // 2
        if _caches(spec, middle, dtype) >= states:
            high = middle
        else:
            low = middle + 1
    return low


def _attention_layers(spec: ModelSpec) -> list[AttentionSpec]:
    mixers = (layer.mixer for layer in spec.backbone.layers)
    return [mixer for mixer in mixers if isinstance(mixer, AttentionSpec)]


def _caches(spec: ModelSpec, seq_len: int, dtype: str) -> int:
    state = _state_at(spec, seq_len, dtype)
    return state.kv + state.selection


def _state_at(spec: ModelSpec, seq_len: int, dtype: str) -> StateBytes:
    room = Room(1, seq_len + memory_tokens(spec), dtype)
    counts: dict[int, int] = {}
    mixers = {}
    for layer, _ in placed_layers(spec.backbone):
        mixers[id(layer)] = layer.mixer
        counts[id(layer)] = counts.get(id(layer), 0) + 1
    parts = (state_bytes(mixers[key], spec.backbone, room) * count for key, count in counts.items())
    return sum(parts, StateBytes())
