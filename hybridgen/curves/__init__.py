"""Curves of what designs cost against length, depth or width, as pictures and as pages. torch is not loaded."""

from hybridgen.curves.crossings import Mark as Mark
from hybridgen.curves.quantities import QUANTITIES as QUANTITIES
from hybridgen.curves.quantities import parse_count as parse_count
from hybridgen.curves.sampling import Axis as Axis
from hybridgen.curves.sampling import Curve as Curve
from hybridgen.curves.sampling import CurveSet as CurveSet
from hybridgen.curves.sampling import Range as Range
from hybridgen.curves.sampling import cost_curves as cost_curves
from hybridgen.curves.writing import save_curves as save_curves
