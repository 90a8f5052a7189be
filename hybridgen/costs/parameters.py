"""How many numbers the weights of each part hold. Nothing is estimated: a built model has exactly as many."""

from typing import assert_never

from hybridgen.costs.places import Place
from hybridgen.costs.results import Parameters
from hybridgen.spec import BackboneSpec, LayerSpec, ModelSpec
from hybridgen.spec.ends import (
    ClassifierHeadSpec,
    CodebooksHeadSpec,
    CodebooksInputSpec,
    HiddenInputSpec,
    LmHeadSpec,
    NoHeadSpec,
    PatchesInputSpec,
    TokensInputSpec,
)
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec, MixerSpec
from hybridgen.spec.parts import MlpSpec, NormSpec


def linear(inputs: int, outputs: int, bias: bool) -> int:
    """A linear map: inputs * outputs weights, and a bias per output."""
    return (inputs + bias) * outputs


def embedding_parameters(spec: ModelSpec) -> int:
    """Tables of tokens or codes, memory tokens, or the projection of patches, class tokens and positions."""
    source, d_model = spec.input, spec.backbone.d_model
    match source:
        case HiddenInputSpec():
            return 0
        case TokensInputSpec():
            return (source.padded_vocab_size() + source.memory_tokens) * d_model
        case CodebooksInputSpec():
            return source.n_codebooks * source.vocab_size * d_model
        case PatchesInputSpec():
            projection = linear(source.channels * source.patch_size**2, d_model, True)
            rows = len(source.class_places()) + (source.length() if source.pos_embed else 0)
            return projection + rows * d_model
        case _:
            assert_never(source)


def head_parameters(spec: ModelSpec) -> int:
    """What makes logits; a tied weight is the embedding's."""
    head, source, d_model = spec.head, spec.input, spec.backbone.d_model
    match head:
        case NoHeadSpec():
            return 0
        case LmHeadSpec():
            assert isinstance(source, TokensInputSpec), "a rule of the spec"
            rows = source.padded_vocab_size()
            return rows * head.bias + (0 if head.tie_embeddings else rows * d_model)
        case CodebooksHeadSpec():
            assert isinstance(source, CodebooksInputSpec), "a rule of the spec"
            return source.n_codebooks * (head.vocab_size or source.vocab_size) * d_model
        case ClassifierHeadSpec():
            return linear(d_model, head.num_classes, head.bias)
        case _:
            assert_never(head)


def norm_parameters(norm: NormSpec, channels: int) -> int:
    """A weight per channel, and a bias where norms have one."""
    return channels * (1 + norm.has_bias())


def last_norm_parameters(stack: BackboneSpec) -> int:
    """The norm at the end of the stack, which can have a bias where others have none."""
    return stack.d_model * (1 + (stack.norm.has_bias() or stack.norm.final_bias))


def layer_parameters(layer: LayerSpec, stack: BackboneSpec, place: Place) -> Parameters:
    """Mixer, MLP and norms of one layer."""
    per_branch = {"pre": 1, "post": 1, "sandwich": 2, "residual": 1}[stack.norm_placement]
    branches = (layer.mixer is not None) + (layer.mlp is not None)
    norms = per_branch * branches
    if stack.norm_placement == "residual" and place.is_last:
        norms -= 1  # the norm behind the last branch is the stack's
    return Parameters(
        mixer=0 if layer.mixer is None else mixer_parameters(layer.mixer, stack, place),
        mlp=0 if layer.mlp is None else mlp_parameters(layer.mlp, stack.d_model),
        norm=norms * norm_parameters(stack.norm, stack.d_model),
    )


def mlp_parameters(mlp: MlpSpec, d_model: int) -> int:
    """fc1 and fc2; the first is twice as wide where half of it gates the other."""
    hidden = mlp.hidden()
    return linear(d_model, hidden * (1 + mlp.gated), mlp.bias) + linear(hidden, d_model, mlp.has_out_bias())


def mixer_parameters(mixer: MixerSpec, stack: BackboneSpec, place: Place) -> int:
    """Everything inside a mixer, its norms included."""
    match mixer:
        case AttentionSpec():
            return _attention_parameters(mixer, stack, place)
        case Mamba1Spec():
            return _mamba1_parameters(mixer, stack.d_model)
        case Mamba2Spec():
            return _mamba2_parameters(mixer, stack.d_model)
        case _:
            assert_never(mixer)


def _attention_parameters(mixer: AttentionSpec, stack: BackboneSpec, place: Place) -> int:
    d_model, head_dim, kv_heads = stack.d_model, mixer.head_dim_for(stack.d_model), mixer.kv_heads()
    q_dim, kv_dim, mlp_dim = mixer.num_heads * head_dim, kv_heads * head_dim, mixer.mlp_dim_rounded()
    qkv_dim = q_dim + 2 * kv_dim
    count = linear(d_model, qkv_dim + mlp_dim, mixer.qkv_proj_bias)
    count += linear(q_dim + mlp_dim // 2, d_model, mixer.out_proj_bias)
    if mixer.d_conv:
        count += qkv_dim * (mixer.d_conv + 1)
    count += {"none": 0, "head": 2 * head_dim, "full": q_dim + kv_dim}[mixer.qk_norm]
    if stack.value_residual == "learned" and place.follows_attention:
        count += linear(d_model, kv_heads, True)
    count += mixer.num_heads * mixer.sink
    return count + d_model * {"none": 0, "elementwise": q_dim, "head": mixer.num_heads}[mixer.output_gate]


def _mamba1_parameters(mixer: Mamba1Spec, d_model: int) -> int:
    d_inner, rank = mixer.d_inner(d_model), mixer.dt_rank_for(d_model)
    parts = {
        "conv": d_inner * (mixer.d_conv + mixer.conv_bias),
        "proj": d_inner * (rank + 2 * mixer.d_state) + linear(rank, d_inner, True),
        "A": d_inner * mixer.d_state,
        "D": d_inner,
    }
    count = linear(d_model, 2 * d_inner, mixer.bias) + linear(d_inner, d_model, mixer.bias)
    count += _over_directions(mixer, parts)
    count += (rank + 2 * mixer.d_state) * (mixer.bcdt_norm == "learned")
    return count + d_model * (mixer.layer_scale is not None)


def _mamba2_parameters(mixer: Mamba2Spec, d_model: int) -> int:
    d_inner, d_ssm, heads = mixer.d_inner(d_model), mixer.d_ssm_for(d_model), mixer.nheads(d_model)
    d_bc = mixer.ngroups * mixer.d_state
    parts = {
        "conv": (d_ssm + 2 * d_bc) * (mixer.d_conv + mixer.conv_bias),
        "proj": heads,  # the bias of dt alone; in_proj makes x, B, C and dt of all directions
        "A": heads,
        "D": d_ssm if mixer.D_has_hdim else heads,
    }
    count = linear(d_model, 2 * d_inner + 2 * d_bc + heads, mixer.bias) + linear(d_inner, d_model, mixer.bias)
    count += _over_directions(mixer, parts) + d_ssm * mixer.rmsnorm
    return count + d_model * (mixer.layer_scale is not None)


def _over_directions(mixer: Mamba1Spec | Mamba2Spec, parts: dict[str, int]) -> int:
    """Parts that all directions share count once, others once per direction."""
    directions, shared = len(mixer.directions()), mixer.shared()
    return sum(size * (1 if name in shared else directions) for name, size in parts.items())
