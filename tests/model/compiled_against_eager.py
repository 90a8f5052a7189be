"""Compiles cases whole and prints their greatest difference from eager, as JSON; run by test_compile.py.

A program of its own, because the shape checks of the test run wrap every method and Dynamo cannot look through them.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridgen.layers.mixers import make_mixer
from hybridgen.layers.span import Grid, Span
from hybridgen.spec.mamba import Mamba1Spec
from hybridgen.spec.parts import StackSettings
from hybridgen.spec.scans import SCANS
from tests.helpers.mixer_cases import D_MODEL, make

# Whole chunks of Mamba-2 (16 tokens here), and a token more or less, among others.
LENGTHS = (33, 40, 47, 48, 65, 70, 97, 130, 150)
# A prompt, single tokens, and what a user adds in the middle.
STEPS = (33, *[1] * 8, 40, 23, *[1] * 4)


def values(case: str) -> dict[str, float]:
    """Compares outputs, also with padding and packing, and gradients."""
    model = make(case)
    x = _input(33).requires_grad_()
    mask = torch.ones(2, 33, dtype=torch.bool)
    mask[0, :4] = False
    seq_idx = (torch.arange(33) // 10).expand(2, 33)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = {}
    for name, arguments in (("plain", {}), ("padded", {"mask": mask}), ("packed", {"seq_idx": seq_idx})):
        expected, got = model(x, **arguments), compiled(x, **arguments)
        found[name] = _distance(got[mask], expected[mask])
    weights = [x, *model.parameters()]
    pairs = zip(torch.autograd.grad(got.sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True)
    found["gradient"] = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item() for a, b in pairs)
    return found


@torch.no_grad()
def lengths(case: str) -> dict[str, float]:
    """Compares calls of many lengths that share their graphs, and counts the graphs."""
    model, graphs = make(case), _Graphs()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    inputs = [_input(length) for length in LENGTHS]
    worst = max(_distance(compiled(x), model(x)) for x in inputs)
    return {"worst": worst, "graphs": graphs.count}


@torch.no_grad()
def decoding(case: str) -> dict[str, float]:
    """Compares a prompt and its continuation, each with a state of its own, and counts the graphs."""
    model, graphs = make(case), _Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    parts = _input(sum(STEPS)).split(STEPS, dim=1)
    states = [model.init_state(2, sum(STEPS)) for _ in range(2)]
    worst = max(_distance(compiled(x, state=states[0]), model(x, state=states[1])) for x in parts)
    return {"worst": worst, "graphs": graphs.count}


@torch.no_grad()
def export(case: str) -> dict[str, float]:
    """Compares a program exported for any length; Mamba-2's takes those beyond one chunk."""
    model = make(case)
    shapes = {"x": {1: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(_Plain(model), (_input(33),), dynamic_shapes=shapes).module()
    return {"worst": max(_distance(program(x), model(x)) for x in map(_input, LENGTHS))}


def image(scan: str) -> dict[str, float]:
    """Compares a mixer that reads an image with a class token in its middle, and its gradients."""
    spec = Mamba1Spec(type="mamba1", d_state=4, scan=SCANS[scan], scan_share=("conv",))
    mixer = make_mixer(spec, StackSettings(d_model=D_MODEL), is_first=False)
    generator = torch.Generator().manual_seed(0)
    for parameter in mixer.parameters():
        parameter.data.normal_(generator=generator).mul_(0.2)

    def read(x: Tensor) -> Tensor:
        return mixer(x, None, Span(0, 13, x.device, grid=Grid(3, 4, (6,))))

    x = _input(13).requires_grad_()
    expected, got = read(x), torch.compile(read, fullgraph=True, backend="aot_eager")(x)
    (ours,), (theirs,) = torch.autograd.grad(got.sum(), x), torch.autograd.grad(expected.sum(), x)
    return {"plain": _distance(got, expected), "gradient": _distance(ours, theirs)}


class _Plain(torch.nn.Module):
    """A model without its optional arguments."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Graphs:
    """A backend of torch.compile that counts what it is given and runs it as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


def _input(length: int) -> Tensor:
    return torch.randn(2, length, D_MODEL, generator=torch.Generator().manual_seed(0))


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


KINDS = {function.__name__: function for function in (values, lengths, decoding, export, image)}


def compare(name: str) -> dict[str, float]:
    """Runs one comparison, named kind:case."""
    torch.compiler.reset()
    kind, case = name.split(":")
    return KINDS[kind](case)


if __name__ == "__main__":
    print(json.dumps({name: compare(name) for name in sys.argv[1:]}))
