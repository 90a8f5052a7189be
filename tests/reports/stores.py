"""Stores made by hand, with records as sweeps write them."""

from pathlib import Path

import hybridgen as hg
from hybridgen.probing.results import Run, TaskResult
from hybridgen.runs import Failure, InvalidInfo, Outcome, PointInfo, Record, Store, SweepInfo

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
SPEC = hg.load_spec(CONFIGS / "tiny-hybrid.yaml").document()
TASKS = {"kind": "tasks", "preset": "tiny"}
WARNING = "tiny measures how fast a model learns"


def an_id(number):
    return f"{number:012x}"


def outcome(settings, metrics=None, details=None, failure=None, seconds=1.0):
    return Outcome(
        settings=settings,
        metrics=metrics or {},
        details=details or {},
        failure=failure,
        seconds=seconds,
        finished="2026-11-24T02:00:00Z",
        host="here",
    )


def cost_outcome(params, **more):
    return outcome({"kind": "cost"}, {"params": params, "state_bytes": 10 * params, **more}, seconds=0.25)


def run_of(task, seed, accuracy, role="model", steps=600):
    return Run(
        role=role,
        task=task,
        seed=seed,
        learning_rate=3e-3,
        steps=steps,
        accuracy=accuracy,
        macro_accuracy=accuracy,
        loss=0.5,
        threshold_step=300 if accuracy >= 0.9 else None,
        curve=((50, accuracy / 2), (steps, accuracy)),
        evaluations={"test": accuracy},
        has_diverged=False,
        parameters=1000,
        seconds=2.0,
    )


def tasks_outcome(accuracies, chance=0.125):
    """What the objective keeps, of accuracies by task, one for each seed."""
    results = [
        TaskResult(task, "model", chance, tuple(run_of(task, seed, one) for seed, one in enumerate(seeds)))
        for task, seeds in accuracies.items()
    ]
    details = {
        "preset": "tiny",
        "tasks": {task: {} for task in accuracies},
        "training": {task: {"threshold": 0.9} for task in accuracies},
        "results": [one.to_dict() for one in results],
        "warnings": [WARNING],
    }
    return outcome(TASKS, {f"accuracy.{one.task}": one.accuracy for one in results}, details)


def record(number, outcomes, values=None, spec=None, **more):
    point = PointInfo(id=an_id(number), number=number, values=values or {}, **more)
    return Record(hybridgen="0.1.0", point=point, spec=spec or SPEC, outcomes=outcomes)


def sweep(points, name="state-size", command=("hybridgen", "sweep", "state size.yaml", "-o", "out"), **more):
    fields = {"folder": "/work", "started": "2026-11-24T01:00:00+00:00", "keys": ("backbone.ssm.d_state",)}
    fields |= {"combinations": len(points), "objectives": ({"kind": "cost"}, TASKS)} | more
    return SweepInfo(command=command, name=name, points=tuple(points), **fields)


def store_of(folder, records, sweeps=()):
    store = Store(folder)
    for one in records:
        store.place(one.point.id).mkdir(parents=True)
        store.write(one)
    for one in sweeps:
        store.write_sweep(one)
    return store


def usual(folder):
    """Six points of two fields, one of which failed, a baseline and a control, and a point that is still to come."""
    records = []
    for number, (state, conv) in enumerate([(16, 3), (16, 4), (32, 3), (32, 4), (64, 3), (64, 4)], start=1):
        values = {"backbone.ssm.d_state": str(state), "backbone.ssm.d_conv": str(conv)}
        quality = 0.3 + state / 128 + 0.01 * conv
        tasks = tasks_outcome({"recall": (quality, quality + 0.02), "parity": (0.5, 0.5 + 0.001 * number)})
        if number == 2:
            tasks = outcome(TASKS, failure=Failure(kind="timeout", message="took longer than 60 s"))
        spec = hg.load_spec(
            CONFIGS / "tiny-hybrid.yaml", [f"backbone.ssm.d_state={state}", f"backbone.ssm.d_conv={conv}"]
        ).document()
        records.append(record(number, {"cost": cost_outcome(1000 * state), "tasks": tasks}, values, spec))
    for place, (role, quality) in enumerate((("attention", 0.6), ("mlp", 0.13))):
        tasks = tasks_outcome({"recall": (quality, quality + 0.02), "parity": (0.5, 0.51)})
        point = PointInfo(id=an_id(0xA00 + place), number=0, role=role)
        outcomes = {"cost": cost_outcome(40_000), "tasks": tasks}
        records.append(Record(hybridgen="0.1.0", point=point, spec=SPEC, outcomes=outcomes))
    invalid = (InvalidInfo(points=(7, 8), values={"backbone.ssm.d_state": "7"}, faults=("must be a multiple of 8",)),)
    ids = [*(one.point.id for one in records), an_id(99)]
    return store_of(folder, records, [sweep(ids, invalid=invalid, combinations=9, notes=("2 points were merged",))])
