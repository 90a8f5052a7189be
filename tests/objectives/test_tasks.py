"""The objective `tasks`: what `probe` finds out about a model, for a point of a sweep."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.objectives import objective_from, parse_objectives
from hybridgen.objectives.tasks import TasksObjective
from hybridgen.probing import PRESETS, TASK_NAMES, attention_baseline, mlp_control, probe
from hybridgen.probing.results import TaskResult
from tests.cli.conftest import CONFIGS

SMALL = {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4}, "d_intermediate": 0}
SPEC = hg.ModelSpec.model_validate({"name": "small", "backbone": SMALL})
WITHOUT_TORCH = """
import sys
import hybridgen as hg
from hybridgen.objectives import parse_objectives
(tasks,) = parse_objectives(["tasks(preset=smoke)"])
spec = hg.load_spec(sys.argv[1])
tasks.check(spec)
assert list(tasks.references(spec)) == ["attention", "mlp"]
assert "torch" not in sys.modules
"""


def _plain(result: TaskResult) -> TaskResult:
    return replace(result, runs=tuple(replace(run, seconds=0) for run in result.runs))


def _without_seconds(plain: dict) -> dict:
    return {**plain, "runs": [{**run, "seconds": 0} for run in plain["runs"]]}


def test_it_is_the_probe_of_the_model_alone(capsys):
    objective = TasksObjective(preset="smoke", task=["parity", "compression"], seeds=2, steps=3, learning_rate=[1e-3])
    found = objective.measure(SPEC)
    told = capsys.readouterr().out.splitlines()
    result = probe(SPEC, "smoke", ["parity", "compression"], seeds=2, steps=3, learning_rates=[1e-3])
    own = [one for one in result.results if one.role == "model"]
    expected = [_plain(one).to_dict() for one in own]
    assert [_without_seconds(one) for one in found.details["results"]] == expected
    assert found.metrics["accuracy.parity"] == result.of("parity").accuracy
    assert found.metrics["accuracy.mean"] == sum(one.accuracy for one in own) / 2
    assert found.details["tasks"]["parity"] == PRESETS["smoke"].tasks["parity"].settings()
    assert found.details["training"]["parity"]["steps"] == 3
    assert found.details["warnings"][0].startswith("smoke only shows")
    assert [line.split(":")[0] for line in told] == [
        "1/4  parity, seed 0, learning rate 0.001",
        "2/4  parity, seed 1, learning rate 0.001",
        "3/4  compression, seed 0, learning rate 0.001",
        "4/4  compression, seed 1, learning rate 0.001",
    ]


def test_steps_to_the_threshold_are_a_number_or_infinite():
    never = TasksObjective(preset="smoke", task=["s3"], steps=2).measure(SPEC)
    assert never.metrics.keys() == {"accuracy.s3", "threshold_steps.s3"}
    assert math.isinf(never.metrics["threshold_steps.s3"])
    known = TasksObjective(preset="tiny", task=["memorization"], seeds=1, steps=100, learning_rate=[1e-2])
    assert known.measure(SPEC).metrics["threshold_steps.memorization"] in (50, 100)


def test_the_references_are_those_of_a_probe_and_can_be_measured():
    objective = TasksObjective(preset="smoke", task=["parity"], steps=2)
    others = objective.references(SPEC)
    assert others == {"attention": attention_baseline(SPEC), "mlp": mlp_control(SPEC)}
    result = probe(SPEC, "smoke", ["parity"], steps=2)
    for role, spec in others.items():
        objective.check(spec)
        assert objective.measure(spec).metrics["accuracy.parity"] == result.of("parity", role).accuracy


def test_settings_travel_as_they_are_written():
    (objective,) = parse_objectives(["tasks(preset=smoke,task=parity,learning_rate=[3e-3,1e-2],loss=lm,seeds=3)"])
    assert (objective.task, objective.learning_rate) == (["parity"], [3e-3, 1e-2])
    assert objective_from(objective.settings()) == objective
    assert [objective.goal(metric) for metric in ("accuracy.s3", "accuracy.mean", "threshold_steps.s3")] == [
        "max",
        "max",
        "min",
    ]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("tasks(task=[recall])", "'recall' is no task of preset tiny; it has in-context-recall, "),
        ("tasks(task=s5)", "'s5' is no task of preset tiny"),
        ("tasks(preset=big,task=parity)", "preset: must be 'smoke', 'tiny' or 'mad'; given 'big'"),
        ("tasks(seeds=0)", "seeds: .*; given 0"),
        ("tasks(learning_rate=fast)", r"learning_rate.0: .*; given 'fast'"),
        ("tasks(lr=0.1)", "tasks has no setting 'lr'; "),
    ],
)
def test_faults_of_settings_are_told(written, words):
    with pytest.raises(HybridgenError, match=words):
        parse_objectives([written])


def test_models_that_cannot_be_probed_are_refused():
    both = {"blocks": {"a": {"mixer": {"type": "attention", "num_heads": 2, "causal": False}}}, "pattern": "a a"}
    spec = hg.ModelSpec.model_validate({"name": "both-ways", "backbone": {"d_model": 32, **both}})
    with pytest.raises(HybridgenError, match=r"both-ways: .*causal"):
        TasksObjective().check(spec)
    with pytest.raises(HybridgenError, match="both-ways: a layer sees later tokens"):
        TasksObjective(task=["compression"]).check(spec)
    with pytest.raises(HybridgenError, match="vim-tiny: reads images"):
        TasksObjective().check(hg.load_spec(CONFIGS / "vim-tiny.yaml"))


def test_the_names_without_torch_are_those_of_the_presets():
    assert {name: tuple(preset.tasks) for name, preset in PRESETS.items()} == TASK_NAMES
    autoencoders = {name for preset in PRESETS.values() for name, task in preset.tasks.items() if task.kind != "lm"}
    assert autoencoders == {"compression"}, "TasksObjective.check knows it by its name"


def test_checking_does_not_load_torch():
    place = str(CONFIGS / "tiny-hybrid.yaml")
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, place], check=True)


def test_the_threads_of_the_process_stay_as_they_were():
    threads = torch.get_num_threads()
    TasksObjective(preset="smoke", task=["parity"], steps=1).measure(SPEC)
    assert torch.get_num_threads() == threads
