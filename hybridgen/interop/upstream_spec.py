"""Configurations of other systems as specs; their weights are not looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridgen.errors import SpecError
from hybridgen.interop import zonos
from hybridgen.interop.upstream_source import system_module
from hybridgen.json_file import read_json
from hybridgen.spec import ModelSpec
from hybridgen.spec.load import load_text
from hybridgen.spec.resolve import resolve
from hybridgen.spec.yaml_output import to_yaml

# Where the parts of a document come from, narrow ones first.
_PLACES = {
    "backbone.blocks.mixer.mixer": "", "backbone.ssm": "ssm_cfg", "backbone.attn": "attn_cfg", "backbone": "",
    "input": "", "head": "",
}  # fmt: skip


def load_upstream_spec(file: Path, system: str, overrides: Sequence[str] = ()) -> ModelSpec:
    """Reads another system's configuration file.

    Args:
        file: The configuration, JSON.
        system: Whose it is, a name in `SYSTEMS`.
        overrides: Changes to the document that it becomes, in Hydra's grammar, such as `backbone.n_layer=24`.

    Raises:
        CheckpointError: If the file is missing or damaged.
        SpecError: If the configuration or an override has faults.
        UnsupportedError: If it asks for something that we do not have.
    """
    config, module = read_json(file), system_module(system)
    spec = read_upstream_spec(config, file, module)
    if not overrides:
        return spec
    changed = load_text(to_yaml(module.spec_document(config)), str(file), overrides)
    try:
        return ModelSpec.from_resolved(resolve(changed.data, changed.locate))
    except SpecError as error:
        # Lines are those of a text that nobody has seen.
        hidden = (replace(fault, line=None, column=None, source=None) for fault in error.faults)
        raise SpecError(hidden) from None


def read_upstream_spec(config: Mapping[str, Any], path: Path, module: Any) -> ModelSpec:
    """Turns a configuration into a spec; its faults stand where its author wrote them, not where our document has them.

    Args:
        config: The configuration.
        path: Where it stands, for messages.
        module: The system's module.

    Raises:
        SpecError: If the configuration has faults.
        UnsupportedError: If it asks for something that we do not have.
    """
    section = "backbone" if module is zonos and "backbone" in config else ""
    try:
        document = module.spec_document(config)
    except SpecError as error:
        raise SpecError(replace(fault, file=str(path)) for fault in error.faults) from None
    try:
        return ModelSpec.model_validate(document)
    except SpecError as error:
        places = [(fault, _upstream_place(fault.path, section, module)) for fault in error.faults]
        raise SpecError(replace(fault, file=str(path), path=place) for fault, place in places) from None


def _upstream_place(path: str, section: str, module: Any) -> str:
    for ours, theirs in getattr(module, "PLACES", _PLACES).items():
        if path.startswith(ours) and path[len(ours) : len(ours) + 1] in ("", ".", "["):
            rest = path[len(ours) :].removeprefix(".")
            return ".".join(part for part in (section, theirs, rest) if part)
    return path
