"""For programs with Hydra's own `@hydra.main`: a composed configuration becomes a spec, a document a config to choose.

The name of this module hides nothing: imports in this package are absolute, so `hydra` below is Hydra.
"""

import os
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.spec.load import load_document

PROVIDER = "hybridgen"


def spec_from_cfg(cfg: Any) -> ModelSpec:
    """Checks and resolves the configuration that Hydra composed, or the part of one that describes the model.

    Args:
        cfg: A DictConfig, such as `cfg` or `cfg.model` in a function under `@hydra.main`; references in it may lead
            anywhere in the whole. A plain dict is taken too.

    Raises:
        SpecError: With every fault of the model.
        HybridgenError: If it is no mapping, a reference leads nowhere, or a value is missing (`???`).
    """
    if not OmegaConf.is_dict(cfg) and not isinstance(cfg, dict):
        raise HybridgenError(f"spec_from_cfg takes the mapping that describes a model, given {type(cfg).__name__}")
    try:
        data = OmegaConf.to_container(
            cfg if OmegaConf.is_dict(cfg) else OmegaConf.create(cfg), resolve=True, throw_on_missing=True
        )
    except OmegaConfBaseException as error:
        words = " ".join(str(error).split())
        raise HybridgenError(f"the configuration cannot be read: {words}") from None
    return ModelSpec.model_validate(data)


def register(path: str | os.PathLike[str], group: str = "model", name: str | None = None) -> list[str]:
    """Puts documents into Hydra's ConfigStore, where a `defaults:` list and `model=NAME` find them.

    Args:
        path: A document, or a folder, all of whose `*.yaml` are taken.
        group: The config group that they become choices of.
        name: The document's name; None is that of the file.

    Returns:
        The names.

    Raises:
        SpecError: If a document cannot be read.
        HybridgenError: If a folder is given a name, or holds no document.
    """
    place = Path(path)
    files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    if place.is_dir() and (name is not None or not files):
        words = "holds no *.yaml to register" if not files else "is a folder, whose files keep their own names"
        raise HybridgenError(f"{place}: {words}")
    store = ConfigStore.instance()
    documents = {name or file.stem: load_document(file).data for file in files}
    for one, data in documents.items():
        store.store(name=one, group=group, node=data, provider=PROVIDER)
    return list(documents)
