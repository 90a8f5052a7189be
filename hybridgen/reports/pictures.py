"""Pictures of the models of a report, each stack once and not too many of them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from hybridgen.drawing import picture
from hybridgen.errors import HybridgenError
from hybridgen.runs import Record
from hybridgen.spec import ModelSpec

_MOST = 200  # different ones, at 5 to 20 ms each
_MOST_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Pictures:
    """Drawn models.

    Attributes:
        texts: SVG.
        of: The place in `texts`, by id of the point; points without one are not there.
        note: What is missing, in words; None if nothing is.
    """

    texts: tuple[str, ...]
    of: dict[str, int]
    note: str | None


def draw_all(records: Iterable[Record], most: int = _MOST, most_bytes: int = _MOST_BYTES) -> Pictures:
    """Draws models, the first ones first, until there are too many or they are too large together."""
    texts: list[str] = []
    known: dict[str, int | None] = {}  # by document without its name
    of: dict[str, int] = {}
    left, size = 0, 0
    for record in records:
        document = json.dumps({key: value for key, value in record.spec.items() if key != "name"}, sort_keys=True)
        if document not in known:
            full = len(texts) >= most or size >= most_bytes
            text = None if full else _drawn(record)
            if full:
                left += 1
                continue
            known[document] = None if text is None else len(texts)
            if text is not None:
                texts.append(text)
                size += len(text.encode())
        place = known[document]
        if place is not None:
            of[record.point.id] = place
    note = f"{left:,} points have no picture here: {len(texts):,} different ones are drawn" if left else None
    return Pictures(tuple(texts), of, note)


def _drawn(record: Record) -> str | None:
    """A picture, or None of what this version cannot read any more."""
    try:
        return picture(ModelSpec.model_validate(record.spec))
    except (ValidationError, HybridgenError, ValueError):
        return None
