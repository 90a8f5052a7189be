"""One launcher plugin of Hydra's, set up from a program of ours: it is given points, and calls a task for each.

What `@hydra.main --multirun` does for a sweeper is done here by Hydra's interface for sweepers: no command line is
read, no logging set up, and no folder made beside the one that is named.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridgen.errors import HybridgenError
from hybridgen.spec.spelling import nearest

Launch = Callable[[Sequence[str]], list[str]]
"""Runs points, and returns in words what went wrong in those that came to their end; raises what the plugin raises."""
NAMES = ("joblib", "submitit_slurm", "submitit_local", "ray")
_PACKAGES = {
    "joblib": ("hydra_joblib_launcher", "sweep"),
    "submitit_slurm": ("hydra_submitit_launcher", "sweep-slurm"),
    "submitit_local": ("hydra_submitit_launcher", "sweep-slurm"),
    "ray": ("hydra_ray_launcher", "sweep-ray"),
}
_OURS = {"_target_", "backend", "prefer", "require", "submitit_folder", "nodes", "tasks_per_node"}
"""Settings that are not the user's: a point is one process on one node."""


@dataclass(frozen=True)
class Hydra:
    """Hydra with a launcher chosen.

    Attributes:
        config: As composed.
        context: Of Hydra's, that plugins want.
        task: Called for each point.
    """

    config: Any
    context: Any
    task: Callable[[Any], Any]

    def launcher(self) -> Launch:
        """Makes a launcher; threads must not share one."""
        from hydra.core.plugins import Plugins

        made = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=self.config
        )
        return lambda ids: _launched(made, ids)

    def setting(self, key: str) -> dict[str, Any]:
        """A group of the launcher's settings."""
        from omegaconf import OmegaConf

        found = OmegaConf.to_container(OmegaConf.select(self.config.hydra.launcher, key), resolve=True)
        assert isinstance(found, dict)
        return {str(name): value for name, value in found.items()}


def check_installed(name: str) -> None:
    """Refuses a launcher whose plugin is not there.

    Raises:
        HybridgenError: With the command that installs it.
    """
    package, extra = _PACKAGES[name]
    try:
        found = importlib.util.find_spec(f"hydra_plugins.{package}")
    except ModuleNotFoundError:  # no plugin at all
        found = None
    if found is None:
        raise HybridgenError(
            f"--launcher {name}: {package.replace('_', '-')} is not installed; install it with "
            f"`pip install 'hybridgen[{extra}]'`"
        )


@contextmanager
def plugin(name: str, task: Callable[[Any], Any], folder: Path, settings: Sequence[str]) -> Iterator[Hydra]:
    """Sets Hydra up; its state is as before at the end.

    Args:
        name: One of `NAMES`.
        task: Called with a configuration that holds `point`; can be pickled.
        folder: Where Hydra and the plugin keep files.
        settings: `KEY=VALUE` for `hydra.launcher.KEY`; later ones win.

    Raises:
        HybridgenError: If a setting is not one of the plugin's.
    """
    from hydra import initialize
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext

    base = [
        f"hydra/launcher={name}",
        "hydra/hydra_logging=none",
        "hydra/job_logging=none",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        f"hydra.sweep.dir={_quoted(str(folder))}",
        "hydra.sweep.subdir=.",
    ]
    with warnings.catch_warnings():
        # Hydra 1.4 warns of what Hydra 1.3 asks for.
        warnings.filterwarnings("ignore", message=".*version_base", category=DeprecationWarning)
        with initialize(config_path=None, version_base="1.3", job_name="hybridgen"):
            _check_settings(name, _composed(base, []).hydra.launcher, settings)
            config = _composed(base, settings)
            yield Hydra(config, HydraContext(GlobalHydra.instance().config_loader(), Callbacks()), task)


def _launched(launcher: Any, ids: Sequence[str]) -> list[str]:
    # In quotes: an id such as 12e456789012 is a number to Hydra.
    returned = launcher.launch([[f"+point='{id}'"] for id in ids], 0)
    words = []
    for id, one in zip(ids, returned, strict=True):
        with redirect_stderr(io.StringIO()):  # Hydra prints what it is about to raise
            try:
                said = one.return_value
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
        if said is not None:
            words.append(f"{id}: {said}")
    return words


def _check_settings(name: str, known: Mapping[str, Any], settings: Sequence[str]) -> None:
    """Refuses what the plugin does not have; below `ray.init` and the like, anything may stand."""
    from omegaconf import OmegaConf

    for one in settings:
        key, equals, _ = one.partition("=")
        if not equals:
            raise HybridgenError(f"--launcher-option: write KEY=VALUE, such as timeout_min=60; given {one!r}")
        node, place = known, ""
        for part in key.split("."):
            words = sorted(f"{place}{word}" for word in node if word not in _OURS)
            if place + part not in words:
                near = nearest(place + part, words)
                advice = f"did you mean {near}?" if near else f"it has {', '.join(words)}"
                raise HybridgenError(f"--launcher-option: {name} has no setting {key!r}; {advice}")
            node, place = node[part], f"{place}{part}."
            if not OmegaConf.is_config(node) or OmegaConf.get_type(node) is dict:
                break


def _composed(base: list[str], settings: Sequence[str]) -> Any:
    from hydra import compose
    from hydra.errors import HydraException

    found = None
    for end in range(len(settings) + 1):  # one more at a time, to know which is at fault
        written = [f"++hydra.launcher.{one}" for one in settings[:end]]
        try:
            found = compose(overrides=[*base, *written], return_hydra_config=True)
        except HydraException as error:
            words = str(error.__cause__ or error).split("\n")[0]
            raise HybridgenError(f"--launcher-option: {settings[end - 1]}: {words}") from None
    return found


def _quoted(text: str) -> str:
    """A string in Hydra's grammar, in which `${` begins no reference."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"
