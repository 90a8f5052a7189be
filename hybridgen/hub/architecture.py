"""Which class of `hybridgen.hf` a spec is, and what transformers calls its layers."""

from hybridgen.errors import UnsupportedError
from hybridgen.spec import (
    AttentionSpec,
    ClassifierHeadSpec,
    LayerSpec,
    LmHeadSpec,
    ModelSpec,
    NoHeadSpec,
    PatchesInputSpec,
    TokensInputSpec,
)

CAUSAL_LM = "HybridgenForCausalLM"
SEQUENCE_CLASSIFICATION = "HybridgenForSequenceClassification"
IMAGE_CLASSIFICATION = "HybridgenForImageClassification"
BASE = "HybridgenModel"
AUTO_CLASSES = {
    BASE: "AutoModel",
    CAUSAL_LM: "AutoModelForCausalLM",
    SEQUENCE_CLASSIFICATION: "AutoModelForSequenceClassification",
    IMAGE_CLASSIFICATION: "AutoModelForImageClassification",
}
"""The class of transformers that opens each of ours."""

_WAY_OUT = "save with format='hybridgen'"


def architecture(spec: ModelSpec) -> str:
    """Returns the name of the class that a model of this spec is for transformers.

    Raises:
        UnsupportedError: If no class of transformers has such ends: codes, or hidden states that are classified.
    """
    source, head = spec.input, spec.head
    if isinstance(source, PatchesInputSpec):
        return IMAGE_CLASSIFICATION
    if isinstance(source, TokensInputSpec) and isinstance(head, LmHeadSpec):
        return CAUSAL_LM
    if isinstance(source, TokensInputSpec) and isinstance(head, ClassifierHeadSpec):
        return SEQUENCE_CLASSIFICATION
    if source.type == "codebooks":
        raise UnsupportedError(f"{_name(spec)}: no class of transformers reads codes; {_WAY_OUT}")
    if isinstance(head, NoHeadSpec):
        return BASE
    raise UnsupportedError(
        f"{_name(spec)}: no class of transformers puts a head of type '{head.type}' on hidden states that it is called "
        f"with; {_WAY_OUT}"
    )


def layer_types(spec: ModelSpec) -> list[str]:
    """Returns what transformers calls each layer, first layer first; each name is one that its configurations allow."""
    return [_layer_type(layer) for layer in spec.backbone.layers]


def _layer_type(layer: LayerSpec) -> str:
    if layer.mixer is None:
        # Its caches make room for nothing in a layer of this name, the only such name that it allows.
        return "moe"
    if isinstance(layer.mixer, AttentionSpec):
        return "full_attention" if layer.mixer.window is None else "sliding_attention"
    return "linear_attention"


def _name(spec: ModelSpec) -> str:
    return spec.name or "the model"
