"""How sure the results are: what intervals, seeds and thresholds tell, and what they do not, in sentences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hybridgen.reports.view import ROLES, View

_MANY = 5  # points of which one is the luckiest


def doubts(view: View) -> list[str]:
    """Returns what a reader should know before believing the best numbers, one sentence each, as plain text."""
    tasks = [(task, _of_points(view, task)) for task in view.data["tasks"]]
    ranked = [(task, sorted(own, key=lambda one: one["accuracy"], reverse=True)) for task, own in tasks if own]
    found = list(_single_seeds(ranked))
    for task, own in ranked:
        found += (f"{task['task']}: {words}" for words in _of_task(view, task, own))
    found += _unreached(view)
    if any(one["objective"] not in ("cost", "tasks") for one in view.metrics.values()):
        found.append("Losses, times and other measured numbers have no interval here: a small lead may be chance.")
    if tasks and len(view.points) >= _MANY:
        found.append(
            "The best of many points is also the luckiest: train it with other seeds before building on its lead."
        )
    return found


def _single_seeds(ranked: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> Iterator[str]:
    names = [task["task"] for task, own in ranked if own[0]["interval"] is None]
    if names:
        yield f"{', '.join(names)}: one seed each, so there is no interval, and any difference may be chance."


def _of_task(view: View, task: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the intervals on a task do and do not tell; nothing where the best has none."""
    best = ranked[0]
    if best["interval"] is None:
        return
    model = view.label(view.rows[best["id"]])
    others = [one for one in ranked[1:] if one["interval"] is not None]
    near = [one for one in others if one["interval"][1] >= best["interval"][0]]
    if near:
        words = f"the intervals of {len(near):,} of the {len(others):,} other points meet that of the best ({model})"
        yield f"{words}; these seeds do not clearly tell them apart."
    elif others:
        yield f"the interval of the best ({model}) lies above that of every other point."
    above = [one for one in [best, *others] if one["interval"][0] > task["chance"]]
    if not above:
        yield f"no interval lies above chance ({task['chance']:.3f})."
    elif best["interval"][0] <= task["chance"]:
        yield f"the interval of the best ({model}) reaches down to chance ({task['chance']:.3f})."
    highest = max(one["interval"][1] if one["interval"] else one["accuracy"] for one in ranked)
    yield from _against_references(view, task, best, highest)


def _against_references(view: View, task: Mapping[str, Any], best: Mapping[str, Any], highest: float) -> Iterator[str]:
    for one in task["results"]:
        role = view.rows[one["id"]]["role"]
        if role not in ROLES or one["interval"] is None:
            continue
        low, high = one["interval"]
        if low > highest:
            yield f"the {ROLES[role]} ({one['accuracy']:.3f}) is better than every point, beyond the intervals."
        elif high >= best["interval"][0]:
            yield f"the interval of the {ROLES[role]} ({one['accuracy']:.3f}) meets that of the best point."


def _unreached(view: View) -> Iterator[str]:
    """Names the tasks that nothing learned, and those that a reference alone learned."""
    nobody: dict[float, list[str]] = {}
    for task in view.data["tasks"]:
        threshold = task["threshold"]
        if threshold is None or not task["results"] or any(one["reached"] for one in _of_points(view, task)):
            continue
        roles = [view.rows[one["id"]]["role"] for one in task["results"] if one["reached"]]
        if roles:
            who = " and the ".join(dict.fromkeys(ROLES.get(role, role) for role in roles))
            yield f"No point reached the threshold {threshold:g} in {task['task']}; the {who} did."
        else:
            nobody.setdefault(threshold, []).append(task["task"])
    for threshold, names in nobody.items():
        yield f"No model reached the threshold {threshold:g} in {', '.join(names)}."


def _of_points(view: View, task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in task["results"] if view.rows[one["id"]]["role"] == "point"]
