"""Probing: training a model on synthetic tasks, beside an attention baseline and an MLP control.

Names whose modules need torch are imported when first used, so that checking what is asked does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hybridgen.probing.names import TASK_NAMES as TASK_NAMES
from hybridgen.probing.results import ProbeResult as ProbeResult
from hybridgen.probing.results import Run as Run
from hybridgen.probing.results import TaskResult as TaskResult
from hybridgen.probing.specs import attention_baseline as attention_baseline
from hybridgen.probing.specs import mlp_control as mlp_control
from hybridgen.probing.specs import spec_for as spec_for

if TYPE_CHECKING:
    from hybridgen.probing.presets import PRESETS as PRESETS
    from hybridgen.probing.presets import Preset as Preset
    from hybridgen.probing.running import probe as probe
    from hybridgen.probing.training import Training as Training
    from hybridgen.probing.training import train_on_task as train_on_task

_HOMES = {
    "PRESETS": "hybridgen.probing.presets",
    "Preset": "hybridgen.probing.presets",
    "probe": "hybridgen.probing.running",
    "Training": "hybridgen.probing.training",
    "train_on_task": "hybridgen.probing.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybridgen.probing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
