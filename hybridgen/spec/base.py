"""What every part of a spec shares: strictness, and the form in which a part reports a broken rule."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1, le=1_000_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000_000)]
LEAST, GREATEST = 1e-30, 1e30
"""Between these, a number and what is made of it fit into float32."""

PositiveFloat = Annotated[float, Field(gt=0, ge=LEAST, le=GREATEST)]
Share = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=GREATEST)]


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

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a spec with some fields changed, and checks it like any other."""
        changes = {
            name: value.model_dump() if isinstance(value, Spec) else value for name, value in (update or {}).items()
        }
        return type(self).model_validate(self.model_dump() | changes)
