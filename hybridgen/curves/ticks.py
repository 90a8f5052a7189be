"""Where the marks of an axis stand: at numbers that people read at a glance."""

from math import ceil, floor, log2, log10

from hybridgen.curves.quantities import Scale

_MANTISSAS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
_ENOUGH = 4
_MOST = 8


def log_ticks(low: float, high: float, scale: Scale) -> list[float]:
    """Returns ticks of a logarithmic axis: powers of two for bytes, for the rest 1, 2 and 5 times powers of ten."""
    if scale == "bytes":
        return power_ticks(low, high) or linear_ticks(low, high, scale)
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for mantissas in _MANTISSAS:
        ticks = [m * 10.0**exponent for exponent in decades for m in mantissas if low <= m * 10.0**exponent <= high]
        if len(ticks) >= _ENOUGH:
            break
    else:
        return linear_ticks(low, high, scale)
    every = ceil(len(ticks) / _MOST)
    return ticks[::every]


def power_ticks(low: float, high: float) -> list[float]:
    """Returns powers of two, the same factor apart, no more than eight; none if fewer than three fit."""
    exponents = range(ceil(log2(low)), floor(log2(high)) + 1)
    if len(exponents) < 3:
        return []
    every = next(step for step in (1, 2, 5, 10, 20, 50) if len(exponents) <= step * _MOST)
    every = 4 if every == 5 and len(exponents) <= 4 * _MOST else every
    return [2.0**exponent for exponent in exponents if exponent % every == 0]


def linear_ticks(low: float, high: float, scale: Scale) -> list[float]:
    """Returns ticks at equal distances: 1, 2, 2.5 or 5 times a power of ten of the unit that fits, of two for bytes."""
    if high <= low:
        return [low]
    base = 1024 if scale == "bytes" else 1000
    unit = base ** max(0, floor(log2(high) / log2(base)))
    rough = (high - low) / unit / (_MOST - 2)
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999) * unit
    return [index * step for index in range(ceil(low / step), floor(high / step) + 1)]
