"""Probing: training a model on synthetic tasks, beside an attention baseline and an MLP control."""

from hybridgen.probing.models import attention_baseline as attention_baseline
from hybridgen.probing.models import mlp_control as mlp_control
from hybridgen.probing.models import spec_for as spec_for
from hybridgen.probing.presets import PRESETS as PRESETS
from hybridgen.probing.presets import Preset as Preset
from hybridgen.probing.results import ProbeResult as ProbeResult
from hybridgen.probing.results import Run as Run
from hybridgen.probing.results import TaskResult as TaskResult
from hybridgen.probing.running import probe as probe
from hybridgen.probing.training import Training as Training
from hybridgen.probing.training import train_on_task as train_on_task
