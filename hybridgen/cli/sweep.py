"""`hybridgen sweep`: many models from one document, all checked before anything runs, and what each costs and does."""

import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, DType
from hybridgen.cli.model_source import DOCUMENT
from hybridgen.cli.units import length, seconds, size
from hybridgen.errors import HybridgenError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hybridgen.cli.sweep_progress import Progress
    from hybridgen.objectives import Objective
    from hybridgen.runs import Record
    from hybridgen.runs.sweeping import Engine
    from hybridgen.sweep import Condition, Match
    from hybridgen.sweep.costs_of_points import Costs

FAILED = 1
"""Exit status when the sweep came to its end, and some points have a failure or no result."""

_ONE_LENGTH = "a sweep takes one length; --where takes others, as in state_bytes(8k)"
File = Annotated[Path, typer.Argument(help="YAML document of a model, or a sweep file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Values in Hydra's grammar: backbone.ssm.d_state=64,128 'backbone.d_model=range(256,769,256)'."
    ),
]


class MatchBy(StrEnum):
    """Widths by which models can be made equal in size."""

    d_model = "backbone.d_model"
    mlp = "backbone.mlp.d_intermediate"
    d_intermediate = "backbone.d_intermediate"
    attn_mlp_d_intermediate = "backbone.attn_mlp_d_intermediate"
    d_state = "backbone.ssm.d_state"


class Sampler(StrEnum):
    """What proposes the points of a search."""

    tpe = "tpe"
    nsga2 = "nsga2"
    random = "random"


class Launcher(StrEnum):
    """What runs the points: our own processes, or one of Hydra's launchers."""

    local = "local"
    joblib = "joblib"
    submitit_local = "submitit_local"
    submitit_slurm = "submitit_slurm"
    ray = "ray"


Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        help="What to find out: cost,latency,'tasks(preset=tiny,seeds=3)','lm(text=FILE)',python:FILE.py:function.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the table and write nothing under -o.")]
Where = Annotated[
    str | None, typer.Option(help="Keep points with these costs: 'params < 150M and state_bytes(8192) < 64MiB'.")
]
MatchWhat = Annotated[
    str | None, typer.Option(help="Make points equal in a cost, to the first or to a value: params, params=130M.")
]
MatchByWidth = Annotated[MatchBy, typer.Option(help="The width that --match changes.")]
Tolerance = Annotated[float, typer.Option(help="How far off a point may be, as a share.")]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Go on without the points at fault.")]
SeqLen = Annotated[
    str | None,
    typer.Option(help="Tokens per row, for the costs, such as 4k; 4k, or those of an image.", show_default=False),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Directory of the store: a folder for each point, and tables.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a store: what has a result there is not run again.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: run again what failed.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Points side by side; as many as cores by --threads.", show_default=False)
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each point.")]
Timeout = Annotated[str | None, typer.Option(help="What an objective of a point may take: 90s, 10m, 2h.")]
MaxMemory = Annotated[str | None, typer.Option(help="Memory that a point may take: 500MiB, 4GiB.")]
LauncherName = Annotated[Launcher, typer.Option(help="What runs the points.")]
LauncherOption = Annotated[
    list[str] | None, typer.Option(help="A parameter of the launcher, such as partition=gpu; several by repeating it.")
]
SamplerName = Annotated[
    Sampler | None,
    typer.Option(help="Search instead of running every point: Optuna proposes them.", show_default=False),
]
Trials = Annotated[int | None, typer.Option(min=1, help="With --sampler: how many models to try.", show_default=False)]
Optimize = Annotated[
    list[str] | None,
    typer.Option(help="With --sampler: what is to become large or small: accuracy.mean,params or max:NAME,min:NAME."),
]
Seed = Annotated[int, typer.Option(help="Of the sampler.")]


@dataclass(frozen=True)
class _Options:
    """What the command was given, by the names of its parameters."""

    file: Path
    overrides: list[str] | None
    objective: list[str] | None
    dry_run: bool
    where: str | None
    match: str | None
    match_by: MatchBy
    match_tolerance: float
    skip_invalid: bool
    seq_len: str | None
    batch_size: int
    dtype: DType
    as_json: bool
    csv: Path | None
    output: Path | None
    resume: bool
    retry_failed: bool
    jobs: int | None
    threads: int
    timeout: str | None
    max_memory: str | None
    launcher: Launcher
    launcher_option: list[str] | None
    sampler: Sampler | None
    trials: int | None
    optimize: list[str] | None
    seed: int
    allow_env: bool

    def condition(self) -> "Condition | None":
        """The condition on costs."""
        from hybridgen.sweep import parse_condition

        return None if self.where is None else parse_condition(self.where)

    def equal(self) -> "Match | None":
        """What the points are to be equal in."""
        from hybridgen.sweep import Match

        return None if self.match is None else Match.parse(self.match, self.match_by.value, self.match_tolerance)

    def costs(self) -> "Costs":
        """What the costs are for."""
        from hybridgen.sweep.costs_of_points import Costs

        return Costs(
            None if self.seq_len is None else length(self.seq_len, _ONE_LENGTH), self.batch_size, self.dtype.value
        )

    def document(self) -> Path:
        """The file of the document."""
        return self.file / DOCUMENT if self.file.is_dir() else self.file

    def engine(self) -> "Engine":
        """What runs the points."""
        from hybridgen.runs.sweeping import Engine

        timeout = None if self.timeout is None else seconds(self.timeout, "--timeout")
        max_memory = None if self.max_memory is None else size(self.max_memory, "--max-memory")
        options = tuple(self.launcher_option or ())
        return Engine(self.jobs, self.threads, timeout, max_memory, self.launcher.value, options)


def sweep(
    file: File,
    overrides: Overrides = None,
    *,
    objective: Objectives = None,
    dry_run: DryRun = False,
    where: Where = None,
    match: MatchWhat = None,
    match_by: MatchByWidth = MatchBy.d_model,
    match_tolerance: Tolerance = 0.05,
    skip_invalid: SkipInvalid = False,
    seq_len: SeqLen = None,
    batch_size: Annotated[int, typer.Option(help="Rows, for the costs.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Number format, for the costs.")] = DType.bfloat16,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="File to write the costs to.", show_default=False)] = None,
    output: Output = None,
    resume: Resume = False,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    threads: Threads = 1,
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    launcher: LauncherName = Launcher.local,
    launcher_option: LauncherOption = None,
    sampler: SamplerName = None,
    trials: Trials = None,
    optimize: Optimize = None,
    seed: Seed = 0,
    allow_env: AllowEnv = False,
) -> None:
    """Check every combination of the given values, show what each model costs, and measure what is asked for."""
    _sweep(_Options(**locals()))


def _sweep(options: _Options) -> None:
    from hybridgen.cli.sweep_progress import Progress
    from hybridgen.cli.sweep_table import SweepTable
    from hybridgen.objectives import parse_objectives
    from hybridgen.runs.names import check_names
    from hybridgen.runs.selection import Choice, choose_points
    from hybridgen.runs.sweeping import Asked, run
    from hybridgen.sweep import read_sweep
    from hybridgen.sweep.results import write_csv

    condition, match, costs, engine = options.condition(), options.equal(), options.costs(), options.engine()
    objectives = parse_objectives(options.objective or ())
    check_names(objectives)
    progress = Progress(objectives)
    if options.output is not None:
        _check_utf8()
    if options.output is None and (options.resume or progress.is_measured) and not options.dry_run:
        raise HybridgenError("results are kept in a store: name its directory with -o")
    if options.sampler is not None:
        _search(options, objectives, progress)
        return
    if options.trials is not None or options.optimize:
        raise HybridgenError("--trials and --optimize belong to a search: give --sampler tpe too")
    wanted = Choice(condition, match, costs, tuple(objectives), options.skip_invalid)
    asked_for = read_sweep(options.document(), options.overrides or (), options.allow_env)
    chosen = choose_points(asked_for, wanted, progress.say)
    table = SweepTable(chosen, costs)
    rows = table.rows  # a setting that no cost can be worked out for ends the command before anything is written
    if options.csv is not None:
        write_csv(options.csv, rows)
    records: Mapping[str, Record] = {}
    unfinished = 0
    if options.output is not None and not options.dry_run:
        kept = Asked(options.output, options.resume, options.retry_failed, _with_costs(objectives, costs))
        ended = run(chosen, engine, kept, progress)
        records, unfinished = ended.records, ended.unfinished
    # Last: a pipe that closes early loses no file.
    table.print_json(records) if options.as_json else table.print(records)
    _end(records, unfinished)


def _search(options: _Options, objectives: "Sequence[Objective]", progress: "Progress") -> None:
    from hybridgen.cli.sweep_search import search
    from hybridgen.runs.goals import parse_goals
    from hybridgen.runs.search import Question, check_sampler
    from hybridgen.runs.sweeping import Asked
    from hybridgen.sweep import read_sweep

    for name in ("match", "csv", "dry_run", "as_json", "skip_invalid", "retry_failed"):
        if getattr(options, name):
            option = {"as_json": "json"}.get(name, name).replace("_", "-")
            raise HybridgenError(f"--{option}: belongs to a sweep over all points, and --sampler searches")
    if options.launcher is not Launcher.local:
        raise HybridgenError(
            f"--launcher {options.launcher.value}: a search runs its points here, by the launcher local"
        )
    if options.output is None:
        raise HybridgenError("results are kept in a store: name its directory with -o")
    sampler = "" if options.sampler is None else options.sampler.value
    check_sampler(sampler, options.trials)
    costs = options.costs()
    wanted = _with_costs(objectives, costs)
    question = Question(
        read_sweep(options.document(), options.overrides or (), options.allow_env, intervals=True),
        wanted,
        parse_goals(options.optimize or (), wanted) if options.optimize else (),
        options.trials or 0,
        sampler,
        options.seed,
        options.condition(),
        costs,
    )
    _end(search(question, options.engine(), Asked(options.output, options.resume, False, wanted), progress))


def _check_utf8() -> None:
    """Refuses what a store, whose files are UTF-8, could not keep of the command."""
    try:
        words = [os.getcwd(), *sys.argv]
    except FileNotFoundError:
        raise HybridgenError("the current directory was removed; go to another") from None
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise HybridgenError(f"{printable(word)}: is no UTF-8, and could not be kept with the results") from None


def _with_costs(objectives: "Sequence[Objective]", costs: "Costs") -> "tuple[Objective, ...]":
    """The objectives, costs first: every point has them."""
    from hybridgen.objectives.cost import CostObjective

    if any(one.kind == CostObjective.kind for one in objectives):
        return tuple(objectives)
    setting = {"seq_len": costs.seq_len, "batch_size": costs.batch_size, "dtype": costs.dtype}
    return (CostObjective.model_validate(setting), *objectives)


def _end(records: "Mapping[str, Record]", unfinished: int = 0) -> None:
    if unfinished or any(record.failures for record in records.values()):
        raise typer.Exit(FAILED)
