"""How many floating point operations each part takes; a multiply-accumulate is two.

Counted is what the model's equations ask for, whatever way a kernel goes about it: the recurrence of a scan and not the
products of its chunks, the scores of a layer once though training may compute them again. Norms, activations, gates and
rotations are left out, as everywhere; so are look-ups.
"""

from dataclasses import replace
from typing import NamedTuple, assert_never

from hybridgen.costs.places import Place
from hybridgen.costs.results import Causal, Checkpointing, Flops
from hybridgen.spec import BackboneSpec, LayerSpec, ModelSpec
from hybridgen.spec.ends import (
    ClassifierHeadSpec,
    CodebooksHeadSpec,
    CodebooksInputSpec,
    LmHeadSpec,
    NoHeadSpec,
    PatchesInputSpec,
    TokensInputSpec,
)
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec, MixerSpec
from hybridgen.spec.parts import MlpSpec


class Reading(NamedTuple):
    """The tokens of one row that are read in a call.

    Attributes:
        tokens: How many, memory tokens included.
        before: Tokens that have been read before: 0, or all but one when decoding.
        causal: Which pairs of attention count.
    """

    tokens: int
    before: int = 0
    causal: Causal = "half"


def embedding_flops(spec: ModelSpec) -> Flops:
    """The projection of an image's patches, a convolution; looking up rows of a table is free."""
    source = spec.input
    if not isinstance(source, PatchesInputSpec):
        return Flops()
    rows, columns = source.grid()
    return Flops(convolution=2 * rows * columns * source.channels * source.patch_size**2 * spec.backbone.d_model)


def head_flops(spec: ModelSpec, tokens: int) -> Flops:
    """Logits of one row's tokens, memory tokens excluded; a classifier that pools first makes them once."""
    head, source, d_model = spec.head, spec.input, spec.backbone.d_model
    match head:
        case NoHeadSpec():
            return Flops()
        case LmHeadSpec():
            assert isinstance(source, TokensInputSpec), "a rule of the spec"
            return Flops(head=2 * tokens * d_model * source.padded_vocab_size())
        case CodebooksHeadSpec():
            assert isinstance(source, CodebooksInputSpec), "a rule of the spec"
            return Flops(head=2 * tokens * d_model * source.n_codebooks * (head.vocab_size or source.vocab_size))
        case ClassifierHeadSpec():
            vectors = tokens if head.pool_for(source) in ("all", "max") else 1
            return Flops(head=2 * vectors * d_model * head.num_classes)
        case _:
            assert_never(head)


def layer_flops(layer: LayerSpec, stack: BackboneSpec, place: Place, reading: Reading) -> Flops:
    """One row's tokens through one layer."""
    total = Flops() if layer.mixer is None else _mixer_flops(layer.mixer, stack, place, reading)
    return total if layer.mlp is None else total + Flops(linear=reading.tokens * mlp_flops(layer.mlp, stack.d_model))


def mlp_flops(mlp: MlpSpec, d_model: int) -> int:
    """fc1 and fc2 of one token."""
    return 2 * d_model * mlp.hidden() * (2 + mlp.gated)


def training_flops(forward: Flops, checkpointing: Checkpointing, is_layer: bool) -> Flops:
    """Forward, twice as much backward, and what layers compute again.

    Every product has two in the backward pass, for the gradients of both its factors; the same is taken for scans.

    Args:
        forward: FLOPs of the forward pass.
        checkpointing: `full` computes a layer again, `selective` all of it but linear maps and attention.
        is_layer: Whether the part is a layer; ends are never computed again.
    """
    again = Flops()
    if is_layer and checkpointing == "full":
        again = forward
    elif is_layer and checkpointing == "selective":
        again = replace(forward, linear=0, attention=0)
    return forward * 3 + again


def _mixer_flops(mixer: MixerSpec, stack: BackboneSpec, place: Place, reading: Reading) -> Flops:
    match mixer:
        case AttentionSpec():
            return _attention_flops(mixer, stack, place, reading)
        case Mamba1Spec():
            return _mamba1_flops(mixer, stack.d_model) * reading.tokens
        case Mamba2Spec():
            return _mamba2_flops(mixer, stack.d_model) * reading.tokens
        case _:
            assert_never(mixer)


def visible_pairs(mixer: AttentionSpec, reading: Reading) -> int:
    """Pairs of a query and a key that it sees, of one row.

    A query sees itself and what is before it, at most `window` keys; with a budget those that are kept and its own.
    `full` counts as many for every query as the last one sees. Without `causal` each sees all.
    """
    held = reading.before + reading.tokens
    if not mixer.causal:
        return reading.tokens * held
    reach = held if mixer.window is None else min(held, mixer.window)
    if mixer.context_budget is not None:
        reach = min(held, mixer.context_budget + 1)
    if reading.causal == "full":
        return reading.tokens * reach
    # The first queries see fewer than `reach` keys: before + 1, before + 2, and so on.
    fewer = min(max(reach - reading.before, 0), reading.tokens)
    growing = fewer * reading.before + fewer * (fewer + 1) // 2
    return growing + (reading.tokens - fewer) * reach


def _attention_flops(mixer: AttentionSpec, stack: BackboneSpec, place: Place, reading: Reading) -> Flops:
    """Projections; 2 P for the score of a pair and 2 P for its value, per head; the convolution's taps.

    A selective layer that takes the choices of others computes the scores of their selection heads anew, 2 P per pair
    and chooser. Its own choice costs nothing: the head attends like the others. With residual attention a layer
    computes its own scores once and adds those of the others; what training computes again is left out.
    """
    d_model, head_dim, kv_heads = stack.d_model, mixer.head_dim_for(stack.d_model), mixer.kv_heads()
    q_dim, mlp_dim = mixer.num_heads * head_dim, mixer.mlp_dim_rounded()
    qkv_dim = q_dim + 2 * kv_heads * head_dim
    outputs = qkv_dim + mlp_dim + q_dim + mlp_dim // 2
    outputs += {"none": 0, "elementwise": q_dim, "head": mixer.num_heads}[mixer.output_gate]
    if stack.value_residual == "learned" and place.follows_attention:
        outputs += kv_heads
    pairs = visible_pairs(mixer, reading)
    return Flops(
        linear=reading.tokens * 2 * d_model * outputs,
        attention=pairs * (4 * q_dim + 2 * sum(place.choosers)),
        convolution=reading.tokens * 2 * mixer.d_conv * qkv_dim,
    )


def _mamba1_flops(mixer: Mamba1Spec, d_model: int) -> Flops:
    """One token through Mamba-1.

    The recurrence h = exp(dt A) h + (dt x) B, y = C h + D x takes per channel and state: dt A 1, exp 1, times h 1, the
    product with B 1, the sum 1, C h 2 (a multiply-accumulate): 7; and per channel: dt x 1, D x 1, its sum 1: 3.

    Each direction scans. The projections that make dt, B and C are applied once if all directions share them and the
    convolution in front, whose output they read; the convolution once if it is shared.
    """
    d_inner, rank, state = mixer.d_inner(d_model), mixer.dt_rank_for(d_model), mixer.d_state
    directions, shared = len(mixer.directions()), mixer.shared()
    convolutions = 1 if "conv" in shared else directions
    projections = 1 if {"conv", "proj"} <= shared else directions
    low = d_inner * (rank + 2 * state) + rank * d_inner
    return Flops(
        linear=2 * (3 * d_model * d_inner + projections * low),
        scan=directions * (7 * d_inner * state + 3 * d_inner),
        convolution=convolutions * 2 * mixer.d_conv * d_inner,
    )


def _mamba2_flops(mixer: Mamba2Spec, d_model: int) -> Flops:
    """One token through Mamba-2.

    The recurrence h = exp(dt A) h + (dt x) B, y = C h + D x has one decay per head: dt A 1, exp 1 per head. Per channel
    and state: times h 1, the product with B 1, the sum 1, C h 2: 5; per channel: dt x 1, D x 1, its sum 1: 3.

    in_proj makes x, B, C and dt of all directions; each has its scan, and a convolution unless that is shared.
    """
    d_inner, d_ssm, heads = mixer.d_inner(d_model), mixer.d_ssm_for(d_model), mixer.nheads(d_model)
    d_bc = mixer.ngroups * mixer.d_state
    directions = len(mixer.directions())
    convolutions = 1 if "conv" in mixer.shared() else directions
    return Flops(
        linear=2 * d_model * (3 * d_inner + 2 * d_bc + heads),
        scan=directions * (5 * d_ssm * mixer.d_state + 3 * d_ssm + 2 * heads),
        convolution=convolutions * 2 * mixer.d_conv * (d_ssm + 2 * d_bc),
    )
