"""Compiles cases whole and prints their greatest difference from eager, as JSON; run by test_compile.py.

A program of its own, because the shape checks of the test run wrap every method and Dynamo cannot look through them.
"""

import json
import sys

import torch

from tests.helpers.mixer_cases import D_MODEL, make


def differences(case: str) -> dict[str, float]:
    torch.compiler.reset()
    model = make(case)
    x = torch.randn(2, 33, D_MODEL, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(2, 33, dtype=torch.bool)
    mask[0, :4] = False
    seq_idx = (torch.arange(33) // 10).expand(2, 33)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = {}
    for name, arguments in (("plain", {}), ("padded", {"mask": mask}), ("packed", {"seq_idx": seq_idx})):
        expected, got = model(x, **arguments), compiled(x, **arguments)
        found[name] = (got - expected)[mask].abs().max().item()
    weights = [x, *model.parameters()]
    pairs = zip(torch.autograd.grad(got.sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True)
    found["gradient"] = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item() for a, b in pairs)
    return found


if __name__ == "__main__":
    print(json.dumps({case: differences(case) for case in sys.argv[1:]}))
