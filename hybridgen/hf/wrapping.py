"""From a model of `hg.build` or `hg.load` to one of transformers and back, the weights shared."""

import torch
from torch import nn

from hybridgen.builder import build
from hybridgen.errors import HybridgenError
from hybridgen.hf.classification import HybridgenForImageClassification, HybridgenForSequenceClassification
from hybridgen.hf.config import HybridgenConfig
from hybridgen.hf.language import HybridgenForCausalLM
from hybridgen.hf.modeling import HybridgenModel, HybridgenPreTrainedModel
from hybridgen.hub.architecture import architecture
from hybridgen.hub.configuration import config_document
from hybridgen.model.model import HybridModel, check_is_hybrid

_CLASSES: dict[str, type[HybridgenPreTrainedModel]] = {
    one.__name__: one
    for one in (
        HybridgenForCausalLM,
        HybridgenForImageClassification,
        HybridgenForSequenceClassification,
        HybridgenModel,
    )
}


def wrap(model: HybridModel) -> HybridgenPreTrainedModel:
    """Returns a model of transformers with the same parameters: what trains one trains the other.

    Args:
        model: From `hg.build` or `hg.load`.

    Raises:
        UnsupportedError: If transformers has no class for what it reads or says.
    """
    inner = check_is_hybrid(model)
    kind = _CLASSES[architecture(inner.spec)]
    dtype = str(inner.dtype).removeprefix("torch.")
    config = HybridgenConfig.from_dict(config_document(inner.spec, dtype))
    with torch.device("meta"):
        made = kind._from_config(config)
    _share(inner, made)
    return made.train(inner.training)


def unwrap(model: nn.Module) -> HybridModel:
    """Returns the model of ours that a model of `hybridgen.hf` is, with the same parameters.

    Raises:
        HybridgenError: If it is none, or its layers have been replaced, as by adapters that were not merged.
    """
    if not isinstance(model, HybridgenPreTrainedModel):
        raise HybridgenError(f"unwrap takes a model of hybridgen.hf; given {type(model).__name__}")
    made = build(model.spec, device="meta")
    _share(model, made)
    return made.train(model.training)


def _share(source: nn.Module, target: nn.Module) -> None:
    """Gives a model on the meta device the parameters of another, by their names inside a whole model."""
    given = {_full(source, name): value for name, value in source.named_parameters(remove_duplicate=False)}
    own = {_full(target, name): name for name, _ in target.named_parameters(remove_duplicate=False)}
    if given.keys() != own.keys():
        odd = sorted(given.keys() ^ own.keys())
        raise HybridgenError(
            f"the parameters are not those of the spec: {', '.join(odd[:4])}; merge adapters into their layers first "
            f"(PEFT: merge_and_unload)"
        )
    for full, name in own.items():
        module, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(module), leaf, given[full])


def _full(model: nn.Module, name: str) -> str:
    return f"backbone.{name}" if isinstance(model, HybridgenModel) else name
