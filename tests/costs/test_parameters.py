"""Parameters from the spec alone are those of a model that is built."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import hybridgen as hg
from hybridgen.costs.results import Parameters
from tests.costs.designs import designs

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "model").glob("*.yaml"))
BACKBONE = "backbone."
KINDS = {"mixer": "mixer", "mlp": "mlp"}  # of a layer's modules; the others are norms


def counted(model) -> dict[str, Parameters]:
    """Parameters of every part of a model, by the names of its modules."""
    found: dict[str, Counter] = {}
    for name, parameter in model.named_parameters():
        first, *rest = name.removeprefix(BACKBONE).split(".")
        if first == "layers":
            part, kind = f"layers.{rest[0]}", KINDS.get(rest[1], "norm")
        elif first == "norm_f":
            part, kind = "norm_f", "norm"
        elif first in ("lm_head", "head", "heads"):
            part, kind = "head", "head"
        else:
            part, kind = "embedding", "embedding"
        found.setdefault(part, Counter())[kind] += parameter.numel()
    return {part: Parameters(**counts) for part, counts in found.items()}


def check(spec) -> None:
    model, cost = hg.build(spec, device="meta"), hg.cost(spec)
    real = counted(model)
    assert set(real) <= {part.name for part in cost.parts}
    for part in cost.parts:
        assert part.parameters == real.get(part.name, Parameters()), part.name
    assert cost.total.parameters.total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_parameters_of_shipped_configs_are_those_of_the_built_model(path):
    check(hg.load_spec(path))


@given(designs())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parameters_of_random_specs_are_those_of_the_built_model(spec):
    check(spec)
