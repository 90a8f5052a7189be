"""Settings that are lists, of which one alone needs no brackets."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field


def _numbers(given: object) -> object:
    """A list of one or several numbers; YAML 1.1 takes 3e-3, without a point, for a text."""
    values = given if isinstance(given, list) else [given]
    return [_number(one) for one in values]


def _number(given: object) -> object:
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


Texts = Annotated[list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
"""Such as names of tasks."""
Rates = Annotated[
    list[Annotated[float, Field(gt=0)]],
    Field(min_length=1),
    BeforeValidator(_numbers),
    AfterValidator(lambda rates: list(dict.fromkeys(rates))),
]
"""Learning rates, each once."""
