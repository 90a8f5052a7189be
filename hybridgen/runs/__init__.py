"""Runs: the points of a sweep measured by worker processes, and the store that keeps what was found."""

from hybridgen.runs.jobs import Job as Job
from hybridgen.runs.jobs import Limits as Limits
from hybridgen.runs.records import Failure as Failure
from hybridgen.runs.records import InvalidInfo as InvalidInfo
from hybridgen.runs.records import Outcome as Outcome
from hybridgen.runs.records import PointInfo as PointInfo
from hybridgen.runs.records import Record as Record
from hybridgen.runs.records import SweepInfo as SweepInfo
from hybridgen.runs.store import Store as Store
