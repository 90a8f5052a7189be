"""Every shipped sweep: all its points are models, none twice, and plain Hydra makes the same of them."""

from pathlib import Path

import hydra
import pytest

from hybridgen import cost
from hybridgen.hydra import spec_from_cfg
from hybridgen.sweep import compose_points, merge_equal, read_sweep

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEPS = sorted((CONFIGS / "sweep").glob("*.yaml"))
COUNTS = {
    "attention-placement": 10,
    "gate-activation": 18,
    "mamba-generations": 5,
    "selective-residual": 12,
    "state-size": 10,
}


def test_all_are_counted():
    assert {path.stem for path in SWEEPS} == set(COUNTS)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_all_points_are_different_models(path):
    found = compose_points(read_sweep(path))
    assert (found.count, found.invalid) == (COUNTS[path.stem], [])
    assert len(merge_equal(found.valid)) == found.count
    assert {point.spec.name for point in found.valid} == {path.stem}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_plain_hydra_makes_the_same_models(path):
    points = compose_points(read_sweep(path)).valid
    for point in points[:: max(1, len(points) // 4)]:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            assert spec_from_cfg(hydra.compose(f"sweep/{path.stem}", list(point.overrides))) == point.spec


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_files_begin_with_the_package_and_a_comment(path):
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == "# @package _global_"
    assert second.startswith("# ")
    assert second.endswith(".")


def test_generations_have_equal_parameters():
    sizes = [cost(point.spec).metrics()["params"] for point in compose_points(read_sweep(SWEEPS[2])).valid]
    assert SWEEPS[2].stem == "mamba-generations"
    assert max(sizes) / min(sizes) < 1.025


def test_the_kinds_that_are_compared_are_there():
    points = compose_points(read_sweep(CONFIGS / "sweep" / "mamba-generations.yaml")).valid
    kinds = [{layer.mixer.type for layer in point.spec.backbone.layers} for point in points]
    assert kinds == [{"mamba1"}, {"mamba2"}, {"mamba1", "attention"}, {"mamba2", "attention"}, {"attention"}]
