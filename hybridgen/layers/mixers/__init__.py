"""The mixers by the `type` of their spec."""

from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.mixers.base import Mixer
from hybridgen.layers.mixers.mamba1 import Mamba1
from hybridgen.layers.mixers.mamba2 import Mamba2
from hybridgen.spec.mixers import AttentionSpec, Mamba1Spec, Mamba2Spec
from hybridgen.spec.parts import NormSpec


def make_mixer(spec: Mamba1Spec | Mamba2Spec | AttentionSpec, d_model: int, norm: NormSpec) -> Mixer:
    """Makes the mixer that a spec describes, in a stack of width d_model whose norms are `norm`."""
    match spec:
        case Mamba1Spec():
            return Mamba1(spec, d_model)
        case Mamba2Spec():
            return Mamba2(spec, d_model)
        case AttentionSpec():
            return Attention(spec, d_model, norm)
