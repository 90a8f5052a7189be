"""The cost of a model from its spec."""

from hybridgen.costs.results import Causal, Checkpointing, ModelCost, PartCost, Setting, TrainingMemory
from hybridgen.spec import LayerSpec, ModelSpec


def cost(
    spec: ModelSpec,
    seq_len: int = 4096,
    batch_size: int = 1,
    *,
    dtype: str = "bfloat16",
    causal: Causal = "half",
    checkpointing: Checkpointing = "none",
    data_shards: int = 1,
    tensor_shards: int = 1,
) -> ModelCost:
    """Works out what a model costs: parameters, FLOPs, bytes of state, memory of training. Nothing is built.

    Args:
        spec: The model.
        seq_len: Tokens per row; models of images have their own, and take None or that.
        batch_size: Rows.
        dtype: Of weights, activations and keys.
        causal: Whether attention counts the pairs that a token may see (`half`), or all (`full`).
        checkpointing: What training computes again: nothing; all but the results of matrix products (`selective`); all
            but the input of each layer (`full`).
        data_shards: Devices that share weights, gradients and optimiser states, each with batch_size rows.
        tensor_shards: Devices that share every matrix product.
    """
    setting = Setting(seq_len, batch_size, dtype, causal, checkpointing, data_shards, tensor_shards)
    parts = [PartCost("embedding", "embedding")]
    parts += [PartCost(f"layers.{index}", kind_of(layer)) for index, layer in enumerate(spec.backbone.layers)]
    parts += [PartCost("norm_f", "norm"), PartCost("head", "head")]
    return ModelCost(spec.name, setting, tuple(parts), TrainingMemory())


def kind_of(layer: LayerSpec) -> str:
    """Names a layer by its mixer."""
    return "mlp" if layer.mixer is None else layer.mixer.type
