"""Objectives: what a sweep finds out about each model, and how it is asked for."""

from hybridgen.objectives.base import Measurement as Measurement
from hybridgen.objectives.base import Objective as Objective
from hybridgen.objectives.kinds import KINDS as KINDS
from hybridgen.objectives.kinds import objective_from as objective_from
from hybridgen.objectives.reading import parse_objectives as parse_objectives
