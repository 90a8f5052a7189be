"""The mixers by the `type` of their spec."""

from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.mixers.base import Mixer
from hybridgen.layers.mixers.mamba1 import Mamba1
from hybridgen.layers.mixers.mamba2 import Mamba2
from hybridgen.layers.mixers.pruned_attention import PrunedAttention
from hybridgen.layers.mixers.residual_attention import ResidualAttention
from hybridgen.layers.mixers.scans_mamba1 import ScansMamba1
from hybridgen.layers.mixers.scans_mamba2 import ScansMamba2
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import StackSettings


def make_mixer(spec: Mamba1Spec | Mamba2Spec | AttentionSpec, stack: StackSettings, is_first: bool) -> Mixer:
    """Makes the mixer that a spec describes, for a stack with these settings.

    Args:
        spec: The mixer.
        stack: Settings of the stack that it is for.
        is_first: Whether no attention layer stands before it.
    """
    d_model = stack.d_model
    match spec:
        case Mamba1Spec():
            return Mamba1(spec, d_model) if spec.is_causal() else ScansMamba1(spec, d_model)
        case Mamba2Spec():
            return Mamba2(spec, d_model) if spec.is_causal() else ScansMamba2(spec, d_model)
        case AttentionSpec():
            if stack.residual_attn is not None:
                return ResidualAttention(spec, d_model, stack.norm, stack.residual_attn, stack.value_residual, is_first)
            if spec.context_budget is not None:
                return PrunedAttention(spec, d_model, stack.norm, stack.value_residual, is_first)
            return Attention(spec, d_model, stack.norm, stack.value_residual, is_first)
