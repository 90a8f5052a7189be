"""The points that a sweep goes on with: models, merged where equal, made equal in size, chosen by their costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybridgen.errors import Fault, HybridgenError
from hybridgen.objectives import Objective
from hybridgen.sweep import Condition, Match, Point, Sweep, compose_points, match_points, merge_equal
from hybridgen.sweep.costs_of_points import Costs, keep_where
from hybridgen.sweep.matching import off
from hybridgen.sweep.points import Invalid

_NUMBERS_SHOWN = 8
Tell = Callable[[str], None]
"""Says something to whoever started the sweep, beside its results."""


@dataclass(frozen=True)
class Choice:
    """Which points are wanted.

    Attributes:
        condition: On costs; None for all.
        match: What they are to be equal in; None for as they are.
        costs: What the costs are for.
        objectives: What is to be found out about each.
        skip_invalid: Whether to go on without the points at fault.
    """

    condition: Condition | None
    match: Match | None
    costs: Costs
    objectives: tuple[Objective, ...]
    skip_invalid: bool


@dataclass(frozen=True)
class Chosen:
    """What a sweep goes on with.

    Attributes:
        sweep: What was asked for.
        points: The models.
        invalid: Points that are none.
        count: Combinations of values.
        notes: What was merged, left out or made equal.
    """

    sweep: Sweep
    points: list[Point]
    invalid: list[Invalid]
    count: int
    notes: list[str]


def choose_points(sweep: Sweep, choice: Choice, tell: Tell) -> Chosen:
    """Composes and checks all points, and chooses those that are wanted.

    Args:
        sweep: What was asked for.
        choice: Which points are wanted.
        tell: Is given the points at fault, where they are skipped.

    Raises:
        HybridgenError: With all points at fault, unless they are skipped.
    """
    found = compose_points(sweep)
    chosen = Chosen(sweep, merge_equal(found.valid), [], found.count, [])
    _add_invalid(chosen, found.invalid, choice, tell)
    merged = len(found.valid) - len(chosen.points)
    if merged:
        chosen.notes.append(f"{merged:,} points are the same model as an earlier one, and merged with it")
    if choice.match is not None:
        chosen = _matched(chosen, choice.match, choice, tell)
    if choice.condition is not None:
        kept = keep_where(chosen.points, choice.condition, choice.costs)
        chosen.notes.append(f"--where left out {len(chosen.points) - len(kept):,} of {len(chosen.points):,} points")
        chosen = replace(chosen, points=kept)
    fit, unfit = _fit(chosen.points, choice.objectives)
    _add_invalid(chosen, unfit, choice, tell)
    return replace(chosen, points=fit)


def _matched(chosen: Chosen, match: Match, choice: Choice, tell: Tell) -> Chosen:
    """The points equal in size, merged again, with a line that says how equal."""
    costs = choice.costs
    matched = match_points(chosen.points, match, lambda spec: costs.whole(spec).metrics()[match.metric])
    _add_invalid(chosen, matched.invalid, choice, tell)
    offs = [off(costs.of(point.spec)[match.metric], matched.target) for point in matched.points]
    span = f"from {min(offs):+.1%} to {max(offs):+.1%}" if offs else "no point"
    chosen.notes.append(f"--match {match.metric} = {matched.target:,.0f} by {match.by}: {span}")
    return replace(chosen, points=merge_equal(matched.points))


def _fit(points: Sequence[Point], objectives: Sequence[Objective]) -> tuple[list[Point], list[Invalid]]:
    """The points that every objective can be found out about, and those that one cannot."""
    fit: list[Point] = []
    unfit: dict[str, Invalid] = {}
    for point in points:
        words = _refusal(point, objectives)
        if words is None:
            fit.append(point)
        else:
            earlier = unfit.get(words, Invalid((Fault(None, None, None, "", words),), (), point.values))
            unfit[words] = replace(earlier, numbers=(*earlier.numbers, point.number))
    return fit, list(unfit.values())


def _refusal(point: Point, objectives: Sequence[Objective]) -> str | None:
    for objective in objectives:
        try:
            objective.check(point.spec)
        except HybridgenError as error:
            words = str(error)
            return words if words.startswith("--objective") else f"--objective {objective.key}: {words}"
    return None


def _add_invalid(chosen: Chosen, invalid: Sequence[Invalid], choice: Choice, tell: Tell) -> None:
    """Lists the points at fault, those with the same faults together; ends the command unless they are skipped."""
    if not invalid:
        return
    lines = []
    for one in invalid:
        lines.append(_which(one))
        lines += ["  " + line for fault in one.faults for line in str(fault).split("\n")]
    wrong = sum(len(one.numbers) for one in invalid)
    end = "" if choice.skip_invalid else "; --skip-invalid goes on without them"
    lines.append(f"{wrong:,} of {chosen.count:,} points are at fault{end}")
    if not choice.skip_invalid:
        raise HybridgenError("\n".join(lines))
    tell("\n".join(lines))
    chosen.invalid.extend(invalid)


def _which(invalid: Invalid) -> str:
    tried = " ".join(f"{key}={value}" for key, value in invalid.values.items())
    if len(invalid.numbers) == 1:
        return f"point {invalid.numbers[0]}" + (f" ({tried}):" if tried else ":")
    shown = ", ".join(map(str, invalid.numbers[:_NUMBERS_SHOWN]))
    more = len(invalid.numbers) - _NUMBERS_SHOWN
    return f"points {shown}" + (f" and {more:,} more" if more > 0 else "") + f", such as {tried}:"
