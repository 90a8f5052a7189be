"""What fields mean once defaults are worked out: `num_heads_kv: null` with 8 heads is 8."""

from typing import Any

from hybridgen.spec.base import Spec
from hybridgen.spec.ends import ClassifierHeadSpec, CodebooksHeadSpec, InputSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import MlpSpec, NormSpec

NEUTRAL = frozenset({"name", "ssm.chunk_size", "input.mean", "input.std", "residual_attn.training"})
"""Fields that change neither weights nor results: names, speed, and what is recorded for programs around the model."""


def meanings(part: Spec, d_model: int, source: InputSpec) -> dict[str, Any]:
    """What those fields of a part mean that have a default to be worked out, or are rounded.

    Two parts of one type whose fields differ, but not what they mean, are the same.

    Args:
        part: A mixer, an MLP, a norm, an input or a head.
        d_model: Width of the stack that it is in.
        source: The input of its model.
    """
    match part:
        case Mamba1Spec():
            return {"dt_rank": part.dt_rank_for(d_model), **_scanning(part)}
        case Mamba2Spec():
            return {"d_ssm": part.d_ssm_for(d_model), **_scanning(part)}
        case AttentionSpec():
            head_dim = part.head_dim_for(d_model)
            scale = head_dim**-0.5 if part.softmax_scale is None else part.softmax_scale
            return {
                "num_heads_kv": part.kv_heads(), "head_dim": head_dim, "softmax_scale": scale,
                "mlp_dim": part.mlp_dim_rounded(),
            }  # fmt: skip
        case MlpSpec():
            width = part.hidden()
            return {"d_intermediate": width, "multiple_of": width, "out_bias": part.has_out_bias()}
        case NormSpec():
            return {"bias": part.has_bias()}
    return _ends(part, source)


def _scanning(mixer: Mamba1Spec | Mamba2Spec) -> dict[str, Any]:
    scanned = (mixer.directions(), mixer.shared() if len(mixer.directions()) > 1 else None)
    return dict.fromkeys(("bidirectional", "scan", "scan_share"), scanned)


def _ends(part: Spec, source: InputSpec) -> dict[str, Any]:
    match part:
        case TokensInputSpec():
            return {"pad_vocab_size_multiple": part.padded_vocab_size()}
        case PatchesInputSpec():
            return {"image_size": part.size(), "stride": part.step()}
        case ClassifierHeadSpec():
            return {"pool": part.pool_for(source)}
        case CodebooksHeadSpec() if part.vocab_size is None:
            return {"vocab_size": getattr(source, "vocab_size", None)}
        case CodebooksHeadSpec():
            return {"vocab_size": part.vocab_size}
    return {}
