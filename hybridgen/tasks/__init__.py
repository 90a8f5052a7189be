"""Synthetic tasks: what a model must be able to do with its tokens, in samples without end. Knows no spec."""

from hybridgen.tasks.base import IGNORED as IGNORED
from hybridgen.tasks.base import Examples as Examples
from hybridgen.tasks.base import Task as Task
from hybridgen.tasks.copying import Compression as Compression
from hybridgen.tasks.copying import SelectiveCopying as SelectiveCopying
from hybridgen.tasks.draws import Split as Split
from hybridgen.tasks.extrapolation import LengthExtrapolation as LengthExtrapolation
from hybridgen.tasks.fuzzy_recall import FuzzyRecall as FuzzyRecall
from hybridgen.tasks.memorization import Memorization as Memorization
from hybridgen.tasks.recall import InContextRecall as InContextRecall
from hybridgen.tasks.recall import MultiQueryRecall as MultiQueryRecall
from hybridgen.tasks.recall import NoisyRecall as NoisyRecall
from hybridgen.tasks.state_tracking import StateTracking as StateTracking
