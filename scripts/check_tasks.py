"""Shows that every task is solved by a model that should solve it, and that the MLP control stays at chance.

Sizes are those of the preset `tiny`, and for S5, which `tiny` leaves out, products of three. Two processes of one
thread each; about ten minutes on two cores. Prints a table, and fails if a task is not solved or its control is above
chance.

    python scripts/check_tasks.py [TASK ...]
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch

from hybridgen import keep_memory
from hybridgen.probing import PRESETS, Run, Training, attention_baseline, mlp_control, train_on_task
from hybridgen.spec import ModelSpec
from hybridgen.tasks import StateTracking, Task

SOLVED = 0.9
ABOVE_CHANCE = 0.05  # more than tests of 256 prompts are off by
CONTROL_STEPS = 300
HYBRID = {
    "d_model": 64,
    "n_layer": 2,
    "attn_layer_idx": [1],
    "ssm": {"type": "mamba1", "d_state": 16},
    "d_intermediate": 128,
    "attn": {"num_heads": 4, "rotary_emb_dim": 16},
    "attn_mlp_d_intermediate": 128,
}
TRANSFORMER = {
    "d_model": 128,
    "n_layer": 3,
    "attn_layer_idx": "all",
    "attn": {"num_heads": 4, "rotary_emb_dim": 32},
    "attn_mlp_d_intermediate": 512,
}


@dataclass(frozen=True)
class Case:
    """A task with who should solve it."""

    name: str
    solver: str
    backbone: dict[str, object]
    task: Task
    training: Training

    def spec(self) -> ModelSpec:
        """The model that should solve it."""
        return ModelSpec.model_validate({"backbone": self.backbone})


def cases() -> Iterator[Case]:
    tiny = PRESETS["tiny"]
    baseline = attention_baseline(ModelSpec.model_validate({"backbone": HYBRID})).document()["backbone"]
    hybrid = "one layer of Mamba-1, one of attention"
    for name, task in tiny.tasks.items():
        training = replace(tiny.training[name], evaluate_every=25)
        if name == "compression":
            yield Case(name, "two layers of attention", baseline, task, training)
        elif name == "s3":
            yield Case(name, hybrid, HYBRID, task, replace(training, steps=2000, stop_at=0.95))
        else:
            yield Case(name, hybrid, HYBRID, task, training)
    training = Training(4000, batch_size=256, learning_rates=(1e-3,), evaluate_every=250, test_examples=512)
    yield Case("s5", "three layers of attention", TRANSFORMER, StateTracking(group="s5", seq_len=3), training)


def solve(case: Case) -> Run:
    return train_on_task(case.spec(), case.task, case.training)


def control(case: Case) -> Run:
    return train_on_task(mlp_control(case.spec()), case.task, replace(case.training, steps=CONTROL_STEPS))


def begin() -> None:
    torch.set_num_threads(1)
    keep_memory()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*")
    names = parser.parse_args().tasks
    chosen = [case for case in cases() if not names or case.name in names]
    failed = 0
    print("| task | solved by | accuracy | steps | MLP control | chance |\n|---|---|---:|---:|---:|---:|", flush=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), begin) as pool:
        runs = [(case, pool.submit(solve, case), pool.submit(control, case)) for case in chosen]
        for case, solving, controlling in runs:
            solved, at_chance = solving.result(), controlling.result()
            chance = case.task.chance
            is_shown = solved.accuracy >= SOLVED and at_chance.accuracy <= chance + ABOVE_CHANCE
            failed += not is_shown
            cells = [case.name, case.solver, f"{solved.accuracy:.3f}", str(solved.steps)]
            cells += [f"{at_chance.accuracy:.3f}", f"{chance:.3f}"]
            print("| " + " | ".join(cells) + " |" + ("" if is_shown else " **not shown**"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
