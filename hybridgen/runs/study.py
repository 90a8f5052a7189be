"""Optuna, kept in one place: the study in a store's sqlite file, and the samplers."""

import fcntl
import hashlib
import random
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridgen.errors import HybridgenError
from hybridgen.runs.goals import Goal

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

INSTALL = "pip install 'hybridgen[sweep]'"
SAMPLERS = ("tpe", "nsga2", "random")
FILE = "optuna.db"
LEFT_OUT = "hybridgen.left_out"
_SECONDS = 60.0  # that another search may hold the file
_POPULATION = "hybridgen.population"
_POPULATIONS = (8, 50)
_GENERATIONS = 6
_ENOUGH = 20  # trials from which on importances are more than chance


def check_optuna() -> None:
    """Refuses to go on where Optuna is missing.

    Raises:
        HybridgenError: With the command that installs it.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise HybridgenError(f"--sampler needs Optuna; install it with {INSTALL}") from error


@contextmanager
def open_study(folder: Path, name: str, goals: Sequence[Goal], trials: int) -> "Iterator[Study]":
    """Yields the study of this name in a store, new or as it was left; no other process has it meanwhile.

    Args:
        folder: The store.
        trials: How many there will be, for a new study.

    Raises:
        HybridgenError: If another process has it, the file cannot be used, or Optuna is missing.
    """
    check_optuna()
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it writes a line for each trial, and so do we
    try:
        with _only_one(folder, name):
            try:
                storage = _storage(folder / FILE)
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError, sqlite3.Error) as error:
                raise _unusable(folder, error) from error
            try:
                way = optuna.study.StudyDirection
                directions = [way.MAXIMIZE if goal.way == "max" else way.MINIMIZE for goal in goals]
                study = optuna.create_study(
                    storage=storage, study_name=name, directions=directions, load_if_exists=True
                )
                if _POPULATION not in study.user_attrs:
                    least, most = _POPULATIONS
                    study.set_user_attr(_POPULATION, min(max(trials // _GENERATIONS, least), most))
                yield study
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                raise _unusable(folder, error) from error
            finally:
                storage.remove_session()
                storage.engine.dispose()
    finally:
        optuna.logging.set_verbosity(before)


def _unusable(folder: Path, error: Exception) -> HybridgenError:
    problem = str(error.__cause__ or error).split("\n")[0]
    return HybridgenError(
        f"{folder / FILE}: cannot be used: {problem}; without it the search starts anew from the records there are"
    )


def _storage(file: Path) -> "RDBStorage":
    import optuna

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=_SECONDS, check_same_thread=False)
        # A process that is killed loses nothing so. A machine that loses power may lose the file, not the records.
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    # The address is only a word: a folder's name may hold characters that mean something in one.
    return optuna.storages.RDBStorage("sqlite:///optuna.db", engine_kwargs={"creator": connect})


@contextmanager
def _only_one(folder: Path, name: str) -> Iterator[None]:
    """Holds the study's lock, which the system lets go when the process ends."""
    place = folder / f".{hashlib.sha256(name.encode()).hexdigest()[:12]}.search.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = place.open("ab")
    except OSError as error:
        raise HybridgenError(f"{folder}: cannot be written: {error.strerror or error}") from error
    with closing(file):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HybridgenError(f"{folder}: another process makes this search now; wait for it") from None
        except OSError as error:
            raise HybridgenError(
                f"{place}: the file system has no locks ({error.strerror}); keep the store on one that has"
            ) from error
        yield


def sampler(kind: str, seed: int, index: int, study: "Study") -> "BaseSampler":
    """The sampler for one trial.

    Each trial has a sampler of its own, whose random numbers come from the seed and the trial's number: what it
    proposes then follows from these and the trials before it alone, also after a search was killed and gone on with.

    Args:
        kind: `tpe`, `nsga2` or `random`.
        index: Trials before it.
    """
    import optuna

    number = random.Random(f"{seed}:{index}").getrandbits(32)
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=number)
    if kind == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=study.user_attrs[_POPULATION], seed=number)
    # What Optuna 5 does by itself, Optuna 4 calls an experiment. With several goals, 5 samples each value alone.
    arguments: dict[str, Any] = {"multivariate": len(study.directions) == 1, "constant_liar": True, "seed": number}
    if not hasattr(optuna.trial.Trial, "set_constraint"):
        arguments["constraints_func"] = _constraints
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(**arguments)


def _constraints(trial: "FrozenTrial") -> tuple[float]:
    return (float(trial.user_attrs.get(LEFT_OUT, False)),)


def constrain(trial: "Trial", is_left_out: bool) -> None:
    """Tells samplers whether a trial is one of those that they should keep away from."""
    if hasattr(trial, "set_constraint"):
        trial.set_constraint(LEFT_OUT, float(is_left_out))
    else:
        trial.set_user_attr(LEFT_OUT, is_left_out)


def importances(study: "Study", goals: Sequence[Goal]) -> dict[str, dict[str, float]]:
    """How much each key matters for being among the best tenth, as shares of 1, by goal and key (PED-ANOVA).

    Empty with fewer than 20 trials that have values, which would say nothing. Source: Watanabe, Bansal, Hutter,
    "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", 2023.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _ENOUGH or not complete[0].params:
        return {}
    found = {}
    for place, goal in enumerate(goals):
        with warnings.catch_warnings():
            # That it is new in Optuna 4, and that less must be better, which the sign sees to.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes", category=UserWarning)
            warnings.filterwarnings("ignore", message="Target and region quantiles", category=UserWarning)
            shares = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial, place=place, sign=goal.sign: sign * trial.values[place],  # type: ignore[misc]
            )
        found[goal.metric] = {key.lstrip("+~"): float(share) for key, share in shares.items()}
    return found
