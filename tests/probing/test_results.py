"""What runs say together."""

import json
import math

import pytest
import torch

from hybridgen.intervals import t95
from hybridgen.probing.measuring import score
from hybridgen.probing.results import ProbeResult, Run, TaskResult, grouped, interval
from hybridgen.tasks import Examples


def _run(accuracy=0.5, seed=0, rate=1e-3, step=None, role="model", task="recall", **more):
    fields = {"macro_accuracy": accuracy, "loss": 1.0, "curve": ((10, accuracy),), "evaluations": {"test": accuracy}}
    fields |= {"has_diverged": False, "parameters": 10, "seconds": 1.0, "steps": 10} | more
    return Run(role, task, seed, rate, accuracy=accuracy, threshold_step=step, **fields)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (1000, 1.962)])
def test_students_t(freedom, quantile):
    assert abs(t95(freedom) - quantile) < 0.001


def test_interval_of_a_mean():
    assert interval([0.7]) is None
    low, high = interval([0.4, 0.5, 0.6])
    half = 4.303 * 0.1 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert interval([0.0, 1.0]) == (0.0, 1.0)


def test_the_best_rate_is_reported_with_all_its_seeds():
    runs = [_run(0.9, 0, 1e-3), _run(0.1, 1, 1e-3), _run(0.6, 0, 1e-2), _run(0.6, 1, 1e-2), _run(0.2, role="mlp")]
    model, control = grouped(runs, {"recall": 0.125})
    assert (model.role, model.learning_rate, model.accuracy) == ("model", 1e-2, 0.6)
    assert [run.seed for run in model.runs] == [0, 1]
    assert (control.role, control.accuracy, control.chance) == ("mlp", 0.2, 0.125)


def test_steps_to_the_threshold_count_seeds_that_never_got_there():
    def result(*steps):
        return TaskResult("recall", "model", 0.1, tuple(_run(step=step, seed=seed) for seed, step in enumerate(steps)))

    assert (result(100, 300, 200).threshold_steps, result(100, 300, 200).reached) == (200, 3)
    assert (result(100, None, 200).threshold_steps, result(100, None, 200).reached) == (200, 2)
    assert (result(None, 100, None).threshold_steps, result(None, 100, None).reached) == (None, 1)


def test_plain_data():
    results = grouped([_run(0.75), _run(0.25, role="attention"), _run(0.1, role="mlp")], {"recall": 0.125})
    found = ProbeResult("m", "tiny", {"recall": {}}, {"recall": {}}, {"model": 1}, results, ("careful",), 2.0)
    plain = json.loads(json.dumps(found.to_dict()))
    assert [(one["role"], one["accuracy"], one["chance"]) for one in plain["results"]] == [
        ("model", 0.75, 0.125),
        ("attention", 0.25, 0.125),
        ("mlp", 0.1, 0.125),
    ]
    assert plain["results"][0]["runs"][0]["curve"] == [[10, 0.75]]
    assert plain["warnings"] == ["careful"]
    assert found.metrics() == {"accuracy.recall": 0.75}
    assert found.of("recall", "mlp").accuracy == 0.1


def test_micro_and_macro_accuracy():
    """Three of four right; of the answers 1 (three times) two are right, of the answers 2 all: macro (2/3 + 1) / 2."""

    class Fixed(torch.nn.Module):
        def forward(self, tokens):
            return torch.nn.functional.one_hot(tokens, 4).float() * 3

    predictions = torch.tensor([[1, 1, 3], [0, 2, 3]])
    targets = torch.tensor([[1, 1, 1], [-100, 2, 0]])
    mask = torch.tensor([[True, True, True], [False, True, False]])
    found = score(
        Fixed(), [Examples(predictions[:1], targets[:1], mask[:1]), Examples(predictions[1:], targets[1:], mask[1:])]
    )
    assert found.accuracy == 0.75
    assert found.macro_accuracy == pytest.approx((2 / 3 + 1) / 2)
    right = -math.log(math.exp(3) / (math.exp(3) + 3))
    assert found.loss == pytest.approx((3 * right + right + 3) / 4)
