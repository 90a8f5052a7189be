"""What a model learns of synthetic tasks: `hybridgen probe`, for each point alone."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from hybridgen.objectives.base import Measurement, Objective
from hybridgen.objectives.lists import Rates, Texts
from hybridgen.objectives.setting import Count, Device
from hybridgen.probing.names import TASK_NAMES
from hybridgen.probing.specs import Ends, attention_baseline, mlp_control, spec_for
from hybridgen.spec import ModelSpec

if TYPE_CHECKING:
    from hybridgen.probing import Run

_DETAILS = ("preset", "tasks", "training", "results", "warnings")


class TasksObjective(Objective):
    """Accuracy and steps to the threshold on synthetic tasks, trained as `hybridgen probe` trains the model.

    Attributes:
        preset: Sizes of tasks and trainings.
        task: Names of the preset's tasks; none for all.
        seeds: How many; None is the preset's number.
        steps: Of training; None is the preset's.
        learning_rate: Rates, the best of which is reported for each task; None is the preset's.
        loss: Train on the answers (`masked`) or on every token (`lm`); None is the preset's.
        device: Where models run.
    """

    kind: ClassVar[str] = "tasks"

    preset: Literal["smoke", "tiny", "mad"] = "tiny"
    task: Texts = Field(default_factory=list)
    seeds: Count | None = None
    steps: Count | None = None
    learning_rate: Rates | None = None
    loss: Literal["masked", "lm"] | None = None
    device: Device = "cpu"

    @field_validator("task")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        known = TASK_NAMES.get(info.data.get("preset", ""), ())  # a preset at fault is told by its own words
        for name in names if known else ():
            if name not in known:
                raise ValueError(f"{name!r} is no task of preset {info.data['preset']}; it has {', '.join(known)}")
        return list(dict.fromkeys(names))

    def check(self, spec: ModelSpec) -> None:
        """Refuses models of images and those whose layers see later tokens."""
        names = self.task or TASK_NAMES[self.preset]
        for kind in ("autoencoder", "lm"):
            name = next((one for one in names if (one == "compression") == (kind == "autoencoder")), None)
            if name is not None:
                spec_for(spec, Ends(name, kind, vocab_size=16))

    def measure(self, spec: ModelSpec) -> Measurement:
        """Trains the model on each task with each seed, one after the other, and tells each run."""
        from hybridgen.probing import probe

        result = probe(
            spec,
            self.preset,
            self.task,
            seeds=self.seeds,
            steps=self.steps,
            learning_rates=self.learning_rate or (),
            loss=self.loss,
            roles=("model",),
            device=self.device,
            progress=_tell,
        )
        accuracies = result.metrics()
        mean = {"accuracy.mean": sum(accuracies.values()) / len(accuracies)} if len(accuracies) > 1 else {}
        steps = {f"threshold_steps.{one.task}": one.threshold_steps for one in result.results}
        metrics = {**accuracies, **mean, **{name: math.inf if at is None else at for name, at in steps.items()}}
        plain = result.to_dict()
        return Measurement(metrics, {name: plain[name] for name in _DETAILS})

    def references(self, spec: ModelSpec) -> dict[str, ModelSpec]:
        """The attention baseline and the MLP control, about as large as the first point."""
        return {"attention": attention_baseline(spec), "mlp": mlp_control(spec)}

    @classmethod
    def goal(cls, metric: str) -> str | None:
        """Accuracies are to be high, steps low."""
        return "max" if metric.startswith("accuracy") else "min"


def _tell(done: int, count: int, run: "Run") -> None:
    """Writes a line for the log of the point."""
    rate = f"seed {run.seed}, learning rate {run.learning_rate:g}"
    end = ", diverged" if run.has_diverged else ""
    said = f"{run.accuracy:.3f} after {run.steps} steps, {run.seconds:.0f} s{end}"
    print(f"{done}/{count}  {run.task}, {rate}: {said}", flush=True)
