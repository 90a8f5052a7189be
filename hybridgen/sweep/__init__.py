"""Sweeps: many models from one document, all checked before anything runs."""

from hybridgen.sweep.identity import spec_id as spec_id
from hybridgen.sweep.matching import Match as Match
from hybridgen.sweep.matching import match_points as match_points
from hybridgen.sweep.points import Point as Point
from hybridgen.sweep.points import Points as Points
from hybridgen.sweep.points import compose_points as compose_points
from hybridgen.sweep.points import merge_equal as merge_equal
from hybridgen.sweep.sweep_file import Sweep as Sweep
from hybridgen.sweep.sweep_file import read_sweep as read_sweep
from hybridgen.sweep.where import Condition as Condition
from hybridgen.sweep.where import parse_condition as parse_condition
from hybridgen.sweep.widths import MATCH_BY as MATCH_BY
