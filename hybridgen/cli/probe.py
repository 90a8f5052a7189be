"""`hybridgen probe`: what a model can do with its tokens, on synthetic tasks."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, Device, Overrides
from hybridgen.cli.model_source import Model, read_model
from hybridgen.cli.tables import print_table

if TYPE_CHECKING:
    from hybridgen.probing import ProbeResult, Run, TaskResult

Output = Annotated[Path | None, typer.Option("-o", "--output", help="File for the results, as JSON.")]


class PresetName(StrEnum):
    """Sizes of tasks and trainings."""

    smoke = "smoke"
    tiny = "tiny"
    mad = "mad"


class Loss(StrEnum):
    """What training looks at."""

    masked = "masked"
    lm = "lm"


def probe(
    model: Model,
    overrides: Overrides = None,
    *,
    preset: Annotated[
        PresetName,
        typer.Option(
            help="smoke: everything runs, in seconds. tiny: minutes on two cores for a model of width 64. "
            "mad: published sizes, for a GPU."
        ),
    ] = PresetName.tiny,
    task: Annotated[list[str] | None, typer.Option(help="A task; several by repeating it. All if not given.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds for each task and model.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training.")] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="A rate; several by repeating it, of which the best is reported.")
    ] = None,
    loss: Annotated[Loss | None, typer.Option(help="Train on the answers (masked) or on every token (lm).")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, in processes of one thread each.")] = 2,
    device: Device = "cpu",
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Train a model on synthetic tasks, beside an attention baseline and an MLP control."""
    from hybridgen.allocator import keep_memory
    from hybridgen.output_file import output_file, replaced_file
    from hybridgen.probing import probe as run_probe

    spec = read_model(model, overrides or (), allow_env)
    target = None if output is None else output_file(output, "probe.json")
    keep_memory()
    result = run_probe(
        spec,
        preset.value,
        task or (),
        seeds=seeds,
        steps=steps,
        learning_rates=learning_rate or (),
        loss=loss and loss.value,
        jobs=jobs,
        device=device,
        progress=_tell,
    )
    text = json.dumps(result.to_dict(), indent=2)
    if target is not None:
        with replaced_file(target) as file:
            file.write_text(text + "\n", encoding="utf-8")
    typer.echo(text) if as_json else _print(result)


def _tell(done: int, count: int, run: "Run") -> None:
    """Says on standard error how far the probe is; results alone go to standard output."""
    place = f"{run.task}, {run.role}, seed {run.seed}"
    typer.echo(f"{done}/{count}  {place}: {run.accuracy:.3f} after {run.steps} steps, {run.seconds:.0f} s", err=True)


def _print(result: "ProbeResult") -> None:
    threshold = next(iter(result.training.values()))["threshold"]
    headings = ("task", "model", "accuracy", "95 % interval", "chance", "macro", f"steps to {threshold:g}", "reached")
    name = result.model or "model"
    rows = [_row(one, name) for one in result.results]
    print_table(headings, rows, right=headings[2:])
    for one in result.results:
        if len(one.evaluations) > 1:
            tests = ", ".join(f"{test} {accuracy:.3f}" for test, accuracy in one.evaluations.items())
            typer.echo(f"{one.task}, {_role(one.role, name)}: {tests}")
    counts = ", ".join(f"{_role(role, name)} {count:,}" for role, count in result.parameters.items())
    typer.echo(f"Parameters of the stacks: {counts}. {result.seconds:.0f} s, preset {result.preset}.")
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _row(one: "TaskResult", name: str) -> tuple[str, ...]:
    bounds = one.interval
    return (
        one.task,
        _role(one.role, name),
        f"{one.accuracy:.3f}",
        "-" if bounds is None else f"{bounds[0]:.2f} ... {bounds[1]:.2f}",
        f"{one.chance:.3f}",
        f"{one.macro_accuracy:.3f}",
        "-" if one.threshold_steps is None else f"{one.threshold_steps:g}",
        f"{one.reached}/{len(one.runs)}",
    )


def _role(role: str, name: str) -> str:
    """Names a model for a reader."""
    return {"model": name, "attention": "attention baseline", "mlp": "MLP control"}[role]
