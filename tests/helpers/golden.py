"""The golden cases: inputs, weights, outputs and gradients that upstream's own code computed."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import hybridgen as hg
from hybridgen.interop import mamba_ssm, vim, x_transformers, zonos
from hybridgen.layers.span import Span

ROOT = Path(__file__).parent.parent / "golden"
SYSTEMS: dict[str, ModuleType] = {
    "mamba_ssm": mamba_ssm, "vim": vim, "x_transformers": x_transformers, "zonos": zonos,
}  # fmt: skip
# The gradients of a case too large for one file stand beside it.
_GRADIENTS = ".gradients"
NAMES = [
    f"{system}/{path.stem}"
    for system in SYSTEMS
    for path in sorted((ROOT / system).glob("*.safetensors"))
    if not path.stem.endswith(_GRADIENTS)
]
# Image models and mixers of two directions have no decoding state.
WITH_STEPS = [name for name in NAMES if not name.startswith("vim/")]
ATOL = 2e-5
VIM_ATOL = 1e-5
GRADIENT_RTOL = 1e-4
# Of cases in float64, outputs and gradients.
EXACT = 1e-10
# Where a case does not say how long its prefill is.
_PREFILL = 9


@dataclass(frozen=True)
class GoldenCase:
    """One file. `parameters` and `gradients` have upstream's names; `gradients` may be empty, or hold `input`.

    Upstream's cache does not go with selective attention, so there `output_prefill_step` is the whole output.
    """

    system: ModuleType
    config: dict[str, Any]
    prefill: int
    input: Tensor
    output: Tensor
    output_prefill_step: Tensor
    grad_output: Tensor | None
    parameters: dict[str, Tensor]
    gradients: dict[str, Tensor]

    @property
    def is_mixer(self) -> bool:
        """Whether the case is a mixer alone, called with hidden states."""
        return not self.config.keys() & {"n_layer", "attn_layers", "img_size"}

    @property
    def atol(self) -> float:
        """How far outputs may be off."""
        if self.output.dtype == torch.float64:
            return EXACT
        return VIM_ATOL if self.system is vim else ATOL

    @property
    def gradient_rtol(self) -> float:
        """How far gradients may be off, relative to the greatest of the same tensor."""
        return EXACT if self.output.dtype == torch.float64 else GRADIENT_RTOL

    def spec(self) -> hg.ModelSpec:
        return hg.ModelSpec.model_validate(self.system.spec_document(self.config))

    def model(self, parameters: dict[str, Tensor] | None = None) -> nn.Module:
        """Builds the model and loads the weights (or others in their place) strictly."""
        spec = self.spec()
        model = hg.build(spec, seed=1, dtype=self.output.dtype)
        weights = self.system.from_upstream(self.parameters if parameters is None else parameters, spec)
        model.load_state_dict(weights, strict=True)
        return model.train(self.system is not vim)  # Vim drops paths in training


def load_case(name: str) -> GoldenCase:
    """Reads a case by its name in `NAMES`."""
    with safe_open(ROOT / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["case"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if (ROOT / f"{name}{_GRADIENTS}.safetensors").exists():
        tensors |= load_file(ROOT / f"{name}{_GRADIENTS}.safetensors")

    def group(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    return GoldenCase(
        system=SYSTEMS[case["system"]],
        config=_config(case),
        prefill=case.get("prefill", _PREFILL),
        input=tensors["input"],
        output=tensors["output"],
        output_prefill_step=tensors.get("output_prefill_step", tensors["output"]),
        grad_output=tensors.get("grad_output"),
        parameters=group("param."),
        gradients=group("grad."),
    )


def _config(case: dict[str, Any]) -> dict[str, Any]:
    """Upstream's configuration; a gate that it has no name for is under ours."""
    gate = case.get("gate_activation", "silu")
    return case["config"] if gate == "silu" else {**case["config"], "gate_activation": gate}


def run(case: GoldenCase, model: nn.Module, x: Tensor) -> Tensor:
    """Calls what the case is about: the whole model, or the mixer of its only layer."""
    return model.backbone.layers[0].mixer(x) if case.is_mixer else model(x)


def run_prefill_and_steps(case: GoldenCase, model: nn.Module) -> Tensor:
    """Runs a prefill and then token by token through a decoding state."""
    batch, length = case.input.shape[:2]
    chunks = case.input.split([case.prefill, *[1] * (length - case.prefill)], dim=1)
    if not case.is_mixer:
        state = model.init_state(batch, length)
        return torch.cat([model(chunk, state=state) for chunk in chunks], dim=1)
    mixer = model.backbone.layers[0].mixer
    state = mixer.init_state(batch, length, torch.float32, torch.device("cpu"))
    outputs, offset = [], 0
    for chunk in chunks:
        outputs.append(mixer(chunk, state, Span(offset, chunk.shape[1], chunk.device)))
        offset += chunk.shape[1]
    return torch.cat(outputs, dim=1)
