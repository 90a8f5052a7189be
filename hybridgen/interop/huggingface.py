"""transformers' own models: the configuration and the weights of a model directory, for the types in `MODEL_TYPES`.

The configuration is that of `config.json`. Names and layouts of weights differ from ours; `huggingface_weights` has
them. Which model type a model of ours becomes shows in its layers; see `upstream_config`.
"""

from collections.abc import Mapping

from torch import Tensor

from hybridgen.interop.huggingface_config import upstream_config
from hybridgen.interop.huggingface_document import PLACES, spec_document
from hybridgen.interop.huggingface_types import MODEL_TYPES, TITLE
from hybridgen.interop.huggingface_weights import fit_theirs, ours_of, theirs_of
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.spec import ModelSpec

__all__ = [
    "MODEL_TYPES", "PLACES", "TITLE", "from_upstream", "spec_document", "to_upstream", "upstream_config",
]  # fmt: skip


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model.

    No value changes, but some weights are new tensors: q_proj, k_proj and v_proj become one in_proj, up_proj and
    gate_proj one fc1. The head's weight may be absent if it is tied.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    where = f"weights of {TITLE}"
    return fit_weights(ours_of(fit_theirs(state_dict, spec, where), spec, where), spec, where)


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict, without a tied head; bit by bit the way back.

    Raises:
        CheckpointError: If the weights do not fit the spec.
    """
    return theirs_of(fit_weights(state_dict, spec, "the weights"), spec)
