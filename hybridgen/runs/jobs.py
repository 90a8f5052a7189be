"""A job: one point of a sweep and what is to be found out about it, as plain data that travels anywhere."""

import os
from dataclasses import dataclass, field
from typing import Any

from hybridgen.runs.records import PointInfo


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


@dataclass(frozen=True)
class Limits:
    """What one objective of one point may take.

    Attributes:
        timeout: Seconds; None for any time.
        max_memory: Bytes of resident memory of the worker process and its children; None for any.
    """

    timeout: float | None = None
    max_memory: int | None = None


@dataclass(frozen=True)
class Job:
    """One point and its objectives. It can be pickled, and holds all that a worker on another machine needs.

    Attributes:
        store: Folder of the store, as an absolute path.
        point: What the record says of the point.
        document: Its resolved document.
        objectives: `Objective.settings()` of each, in the order in which they run.
        limits: Of each objective.
        threads: Threads of the worker process.
    """

    store: str
    point: PointInfo
    document: dict[str, Any]
    objectives: tuple[dict[str, Any], ...]
    limits: Limits = field(default_factory=Limits)
    threads: int = 1
