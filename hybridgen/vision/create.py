"""From a spec to an image model in one call, as timm's `create_model`."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from hybridgen.builder import build
from hybridgen.model.vision import VisionModel, check_is_vision
from hybridgen.spec import ModelSpec, load_spec


def create_model(
    spec: ModelSpec | Mapping[str, Any] | str | os.PathLike[str],
    num_classes: int | None = None,
    drop_path: float | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    seed: int = 0,
) -> VisionModel:
    """Builds a model of images.

    It has what timm's models have: `forward_features`, `forward_head`, `forward_intermediates`, `num_features`,
    `num_classes`, `get_classifier`, `reset_classifier`, `default_cfg`, `no_weight_decay`. A saved model is loaded by
    `hybridgen.load`, and is of the same class.

    Args:
        spec: The spec, a document as a dict, or the path of a YAML file.
        num_classes: Classes of the head; 0 is no classifier; None as the spec says.
        drop_path: Stochastic depth in place of the spec's.
        device: As in `hybridgen.build`.
        dtype: As in `hybridgen.build`.
        seed: As in `hybridgen.build`.

    Raises:
        SpecError: If the document has faults.
        HybridgenError: If the model reads no images.
    """
    if isinstance(spec, str | os.PathLike):
        spec = load_spec(spec)
    document = ModelSpec.model_validate(spec).document()
    if num_classes is not None:
        document["head"] = {**document["head"], "type": "classifier", "num_classes": num_classes}
    if drop_path is not None:
        document["backbone"]["drop_path"] = drop_path
    return check_is_vision(build(ModelSpec.model_validate(document), device, dtype, seed))
