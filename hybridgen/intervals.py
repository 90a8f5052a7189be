"""Intervals of means by Student's t."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# Two-sided 95 % quantiles of Student's t for 1 ... 10 degrees of freedom; beyond, an expansion is exact to 0.001.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z95 = 1.959964


def t95(freedom: int) -> float:
    """Returns the two-sided 95 % quantile of Student's t (Abramowitz and Stegun 26.7.5 beyond 10 degrees)."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def mean_interval(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean of a sample, cut at what is possible; None for a single value."""
    count = len(values)
    if count < 2:
        return None
    half = t95(count - 1) * stdev(values) / math.sqrt(count)
    middle = fmean(values)
    return max(least, middle - half), min(most, middle + half)
