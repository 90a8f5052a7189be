"""The golden cases: inputs, weights, outputs and gradients that upstream's own code computed."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

import hybridgen as hg
from hybridgen.interop import mamba_ssm, zonos
from hybridgen.layers.span import Span

ROOT = Path(__file__).parent.parent / "golden"
SYSTEMS: dict[str, ModuleType] = {"mamba_ssm": mamba_ssm, "zonos": zonos}
NAMES = [f"{system}/{path.stem}" for system in SYSTEMS for path in sorted((ROOT / system).glob("*.safetensors"))]
ATOL = 2e-5
GRADIENT_RTOL = 1e-4


@dataclass(frozen=True)
class GoldenCase:
    """One file. `parameters` and `gradients` have upstream's names; `gradients` may be empty, or hold `input`."""

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
        return "n_layer" not in self.config

    def spec(self) -> hg.ModelSpec:
        return hg.ModelSpec.model_validate(self.system.spec_document(self.config))

    def model(self, parameters: dict[str, Tensor] | None = None) -> nn.Module:
        """Builds the model and loads the weights (or others in their place) strictly."""
        spec = self.spec()
        model = hg.build(spec, seed=1)
        weights = self.system.from_upstream(self.parameters if parameters is None else parameters, spec)
        model.load_state_dict(weights, strict=True)
        return model


def load_case(name: str) -> GoldenCase:
    """Reads a case by its name in `NAMES`."""
    with safe_open(ROOT / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["case"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def group(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    return GoldenCase(
        system=SYSTEMS[case["system"]],
        config=case["config"],
        prefill=case["prefill"],
        input=tensors["input"],
        output=tensors["output"],
        output_prefill_step=tensors["output_prefill_step"],
        grad_output=tensors.get("grad_output"),
        parameters=group("param."),
        gradients=group("grad."),
    )


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
