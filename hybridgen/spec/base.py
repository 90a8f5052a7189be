"""What every part of a spec shares: strictness, and the form in which a part reports a broken rule."""

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1, le=1_000_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000_000)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class Problem(NamedTuple):
    """A rule between fields that a part breaks.

    Attributes:
        path: The field to blame, relative to the part that reports it.
        message: The rule and the values given.
        suggestion: What to write instead, or None.
        depends: Further fields of the same part that the rule reads. A rule is not reported while one of the
            fields it reads is itself at fault.
    """

    path: tuple[str | int, ...]
    message: str
    suggestion: str | None = None
    depends: tuple[str, ...] = ()


class Spec(BaseModel):
    """Base of all specs: strict (no `true` for 1, no `"8"` for 8), frozen, unknown keys refused, no NaN."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
