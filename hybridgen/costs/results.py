"""What a cost is made of: plain numbers that add up, for each part of a model and for the whole."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

Causal = Literal["half", "full"]
Checkpointing = Literal["none", "selective", "full"]
STATE_PARTS = ("kv", "selection", "ssm", "conv")


@dataclass(frozen=True, slots=True)
class Amounts:
    """Whole numbers by name, which are added up name by name."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))

    def __mul__(self, factor: int) -> Self:
        return type(self)(*(getattr(self, one.name) * factor for one in fields(self)))

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(getattr(self, one.name) for one in fields(self))


@dataclass(frozen=True, slots=True)
class Parameters(Amounts):
    """Numbers in weights; a tied weight counts once, at the embedding.

    Attributes:
        embedding: Tables of tokens, codes and positions, class and memory tokens, the projection of patches.
        mixer: Mixers, norms inside them included.
        mlp: Feed-forward parts.
        norm: Norms of the residual stream.
        head: What makes logits, if it is not tied.
    """

    embedding: int = 0
    mixer: int = 0
    mlp: int = 0
    norm: int = 0
    head: int = 0

    @property
    def non_embedding(self) -> int:
        """The stack alone: mixers, MLPs and norms, neither embeddings nor head (Kaplan et al., arXiv 2001.08361)."""
        return self.mixer + self.mlp + self.norm

    @property
    def active(self) -> int:
        """Those that one token uses: all, as no kind of layer here chooses among weights."""
        return self.total


@dataclass(frozen=True, slots=True)
class Flops(Amounts):
    """Floating point operations, a multiply-accumulate counting as 2. Norms, activations and gates are not counted.

    Attributes:
        linear: Products with weight matrices.
        attention: Scores and weighted sums of values; one head's scores more for each that chooses what to hide.
        scan: The recurrence of state space mixers.
        convolution: Depthwise convolutions and the projection of patches.
        head: The product that makes logits.
    """

    linear: int = 0
    attention: int = 0
    scan: int = 0
    convolution: int = 0
    head: int = 0


@dataclass(frozen=True, slots=True)
class StateBytes(Amounts):
    """Bytes of a decoding state, exactly those of `model.init_state(batch_size, seq_len, dtype)`.

    Attributes:
        kv: Keys and values.
        selection: What selective layers note of each key.
        ssm: States of scans, float32 (float64 in float64 models).
        conv: Last inputs of convolutions.
    """

    kv: int = 0
    selection: int = 0
    ssm: int = 0
    conv: int = 0


@dataclass(frozen=True, slots=True)
class TrainingMemory(Amounts):
    """Bytes that one device holds at the worst moment of a training step. The rules are in `costs.training`.

    Attributes:
        weights: Weights that the model computes with.
        gradients: Their gradients, all of them there throughout, as where several steps are added up.
        optimizer: AdamW's two moments in float32, and the float32 master weights under mixed precision.
        activations: What else is held at that moment: what is kept for the backward pass, and what an operation works
            with.
        logits: The logits at that moment, their gradient, and what the loss makes of them.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0


@dataclass(frozen=True, slots=True)
class PartCost:
    """What one part of a model costs, or several together.

    Attributes:
        name: `embedding`, `layers.0` ..., `norm_f`, `head`; for sums a kind, or `total`.
        kind: `embedding`, `norm`, `head`; for a layer its mixer (`mamba1`, `mamba2`, `attention`), or `mlp` where it
            has none; `total` for the whole.
        count: Parts in the sum.
        parameters: Numbers in its weights.
        prefill: FLOPs of reading `batch_size` rows of `seq_len` tokens.
        decode: FLOPs of one more token per row, the last of `seq_len`.
        training: FLOPs of a step on `batch_size` rows of `seq_len` tokens: three times prefill, plus what
            checkpointing computes again.
        state: Bytes of the decoding state of `batch_size` rows with room for `seq_len` tokens.
        activations: Bytes that a training step keeps of it for the backward pass.
    """

    name: str
    kind: str
    count: int = 1
    parameters: Parameters = Parameters()
    prefill: Flops = Flops()
    decode: Flops = Flops()
    training: Flops = Flops()
    state: StateBytes = StateBytes()
    activations: int = 0


def summed(name: str, kind: str, parts: Iterable[PartCost]) -> PartCost:
    """Adds up parts."""
    parts = list(parts)
    return PartCost(
        name,
        kind,
        sum(part.count for part in parts),
        sum((part.parameters for part in parts), Parameters()),
        sum((part.prefill for part in parts), Flops()),
        sum((part.decode for part in parts), Flops()),
        sum((part.training for part in parts), Flops()),
        sum((part.state for part in parts), StateBytes()),
        sum(part.activations for part in parts),
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """What a cost was worked out for.

    Attributes:
        seq_len: Tokens per row.
        batch_size: Rows.
        dtype: Of weights, activations and keys: `bfloat16`, `float16`, `float32` or `float64`.
        causal: Whether attention counts the pairs that a token may see (`half`), or all (`full`).
        checkpointing: What training computes again instead of keeping.
        data_shards: Devices that share weights, gradients and optimiser states (ZeRO-3, FSDP), with a batch each.
        tensor_shards: Devices that share every matrix product.
    """

    seq_len: int
    batch_size: int
    dtype: str
    causal: Causal
    checkpointing: Checkpointing
    data_shards: int
    tensor_shards: int


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs. See `cost`.

    Attributes:
        model: The model's name, or None.
        setting: What it was worked out for.
        parts: The embedding, every layer, the last norm and the head, in the order of the model.
        memory: Of a training step, on one device.
        weight_bytes: Of the whole model, on however many devices.
        has_state: Whether the model can decode; where not, all bytes of state are 0.
        crossover: Tokens at which keys and values take as many bytes as the states of scans and convolutions; None if
            there is no such length.
        written: Bytes of all that the operations of a forward pass make, and of its loss.
    """

    model: str | None
    setting: Setting
    parts: tuple[PartCost, ...]
    memory: TrainingMemory
    weight_bytes: int
    has_state: bool = True
    crossover: int | None = None
    written: int = 0
    _sums: dict[str, PartCost] = field(default_factory=dict, repr=False, compare=False)

    @property
    def layers(self) -> tuple[PartCost, ...]:
        """The layers alone."""
        return tuple(part for part in self.parts if part.name.startswith("layers."))

    @property
    def total(self) -> PartCost:
        """All parts together."""
        if "total" not in self._sums:
            self._sums["total"] = summed("total", "total", self.parts)
        return self._sums["total"]

    @property
    def kinds(self) -> dict[str, PartCost]:
        """The sum of the parts of each kind, in the order in which the model has them."""
        kinds = dict.fromkeys(part.kind for part in self.parts)
        return {kind: summed(kind, kind, (part for part in self.parts if part.kind == kind)) for kind in kinds}

    def metrics(self) -> dict[str, int]:
        """The totals that sweeps, comparisons and plots go by, by name.

        `params`, `active_params`, `non_embedding_params`, `weight_bytes`; `prefill_flops`, `decode_flops` and
        `train_flops` **per token**, rounded; `state_bytes`, `kv_bytes`, `ssm_bytes` (scans and convolutions);
        `activation_bytes`, `train_memory`.
        """
        total, setting = self.total, self.setting
        tokens = setting.batch_size * setting.seq_len
        return {
            "params": total.parameters.total,
            "active_params": total.parameters.active,
            "non_embedding_params": total.parameters.non_embedding,
            "weight_bytes": self.weight_bytes,
            "prefill_flops": round(total.prefill.total / tokens),
            "decode_flops": round(total.decode.total / setting.batch_size),
            "train_flops": round(total.training.total / tokens),
            "state_bytes": total.state.total,
            "kv_bytes": total.state.kv + total.state.selection,
            "ssm_bytes": total.state.ssm + total.state.conv,
            "activation_bytes": self.memory.activations,
            "train_memory": self.memory.total,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            "model": self.model,
            "setting": asdict(self.setting),
            "metrics": self.metrics(),
            "total": _plain(self.total),
            "kinds": {kind: _plain(part) for kind, part in self.kinds.items()},
            "parts": [_plain(part) for part in self.parts],
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "has_state": self.has_state,
            "crossover": self.crossover,
            "written": self.written,
        }


def _plain(part: PartCost) -> Mapping[str, Any]:
    """A part as plain data, with the totals of its amounts."""
    values = asdict(part)
    for one in fields(part):
        amount = getattr(part, one.name)
        if isinstance(amount, Amounts):
            values[one.name]["total"] = amount.total
    return values
