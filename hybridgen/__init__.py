"""hybridgen: a YAML file becomes a validated, built, saved, loadable PyTorch model.

The names below are the public interface. They are imported when first used, so that `import hybridgen` and checking a
file do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridgen.allocator import keep_memory as keep_memory
    from hybridgen.builder import build as build
    from hybridgen.checkpoint import load as load
    from hybridgen.checkpoint import save as save
    from hybridgen.comparison import ModelDiff as ModelDiff
    from hybridgen.comparison import diff as diff
    from hybridgen.costs import ModelCost as ModelCost
    from hybridgen.costs import cost as cost
    from hybridgen.drawing import draw as draw
    from hybridgen.drawing import picture as picture
    from hybridgen.errors import BackendUnavailableError as BackendUnavailableError
    from hybridgen.errors import CheckpointError as CheckpointError
    from hybridgen.errors import Fault as Fault
    from hybridgen.errors import HybridgenError as HybridgenError
    from hybridgen.errors import ShapeError as ShapeError
    from hybridgen.errors import SpecError as SpecError
    from hybridgen.errors import UnsupportedError as UnsupportedError
    from hybridgen.export import export_onnx as export_onnx
    from hybridgen.export import export_program as export_program
    from hybridgen.layers.selection_memory import selection_memory as selection_memory
    from hybridgen.model.checkpointing import checkpoint_layers as checkpoint_layers
    from hybridgen.model.generate import generate as generate
    from hybridgen.model.model import base_model as base_model
    from hybridgen.ops.backends import use_backend as use_backend
    from hybridgen.spec import ModelSpec as ModelSpec
    from hybridgen.spec import load_spec as load_spec

__version__ = "0.1.0"

_HOMES = {
    "keep_memory": "hybridgen.allocator",
    "build": "hybridgen.builder",
    "load": "hybridgen.checkpoint",
    "save": "hybridgen.checkpoint",
    "ModelDiff": "hybridgen.comparison",
    "diff": "hybridgen.comparison",
    "ModelCost": "hybridgen.costs",
    "cost": "hybridgen.costs",
    "draw": "hybridgen.drawing",
    "picture": "hybridgen.drawing",
    "BackendUnavailableError": "hybridgen.errors",
    "CheckpointError": "hybridgen.errors",
    "Fault": "hybridgen.errors",
    "HybridgenError": "hybridgen.errors",
    "ShapeError": "hybridgen.errors",
    "SpecError": "hybridgen.errors",
    "UnsupportedError": "hybridgen.errors",
    "export_onnx": "hybridgen.export",
    "export_program": "hybridgen.export",
    "checkpoint_layers": "hybridgen.model.checkpointing",
    "generate": "hybridgen.model.generate",
    "base_model": "hybridgen.model.model",
    "selection_memory": "hybridgen.layers.selection_memory",
    "use_backend": "hybridgen.ops.backends",
    "ModelSpec": "hybridgen.spec",
    "load_spec": "hybridgen.spec",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybridgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
