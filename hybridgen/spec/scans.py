"""The fields of a mixer that scans: in which orders, and with which parameters in each."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema

from hybridgen.spec.base import PositiveFloat, Problem, Spec

ScanOrder = Literal[
    "row", "row_reverse", "column", "column_reverse", "zigzag", "zigzag_reverse", "zigzag_column",
    "zigzag_column_reverse",
]  # fmt: skip
ScanPart = Literal["conv", "proj", "A", "D"]
SCAN_ORDERS: tuple[str, ...] = get_args(ScanOrder)
SCAN_PARTS: tuple[str, ...] = get_args(ScanPart)
SCANS = {
    "vim": ("row", "row_reverse"),
    "vmamba": ("row", "column", "row_reverse", "column_reverse"),
    "plainmamba": ("zigzag", "zigzag_column", "zigzag_reverse", "zigzag_column_reverse"),
}
"""Names of well-known lists of orders."""
BIDIRECTIONAL_SHARES = {"v1": ("conv", "proj", "D"), "v2": ()}
"""What the two directions of Vim's mixers have in common."""


def _orders(value: object) -> object:
    return SCANS.get(value, value) if isinstance(value, str) else value


Scan = Annotated[
    tuple[ScanOrder, ...],
    Field(strict=False, min_length=1, max_length=len(SCAN_ORDERS)),
    BeforeValidator(_orders),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*SCANS]},
                {
                    "type": "array", "items": {"enum": [*SCAN_ORDERS]}, "minItems": 1, "maxItems": len(SCAN_ORDERS),
                    "uniqueItems": True,
                },
            ]
        }
    ),
]  # fmt: skip
ScanShare = Annotated[tuple[ScanPart, ...], Field(strict=False, max_length=len(SCAN_PARTS))]


class ScanningSpec(Spec):
    """What mixers with a scan have in common: they can read their tokens in several orders and add up what they find.

    A direction behind the first has parameters of its own under the names of the first with a letter behind it: `_b`,
    `_c` and so on (`A_b_log`, `conv1d_b.weight`), but for the parts in `scan_share`. in_proj, the gate and out_proj are
    of all directions together; the gate multiplies their sum.
    """

    type: str
    """Kind of the mixer."""
    bidirectional: Literal["none", "v1", "v2"] = "none"
    """Reading in both directions as Vim does: v1 shares all but A (the convolution stays causal), v2 nothing behind
    in_proj. v2 is the same as scan: [row, row_reverse]."""
    scan: Scan | None = None
    """The orders in which patches are read, one direction each: row, column, zigzag (rows, every second one from the
    right), zigzag_column, and each with _reverse; or the name of a list: vim, vmamba, plainmamba. Null is as
    `bidirectional` says. A sequence that is no image is one row."""
    scan_share: ScanShare = ()
    """What the directions of `scan` have in common: the convolution (conv, done once in the order of the rows), the
    projections that make dt, B and C (proj), A, D. VMamba: [conv]; PlainMamba: all four."""
    divide_out: bool = False
    """Whether the sum over the directions is divided by their number."""
    layer_scale: PositiveFloat | None = None
    """Starting value of a factor per channel on the mixer's output, `gamma`; null is no factor."""

    def directions(self) -> tuple[str, ...]:
        """The order of each direction, the default worked out."""
        if self.scan is not None:
            return self.scan
        return ("row",) if self.bidirectional == "none" else SCANS["vim"]

    def shared(self) -> frozenset[str]:
        """The parts that all directions have in common."""
        shares = self.scan_share if self.bidirectional == "none" else BIDIRECTIONAL_SHARES[self.bidirectional]
        return frozenset(shares)

    def is_causal(self) -> bool:
        """Whether later tokens change no earlier output."""
        return self.directions() == ("row",)

    def scan_problems(self) -> Iterator[Problem]:
        """Yields the rules between these fields that the mixer breaks."""
        orders, several = self.directions(), len(self.directions()) > 1
        if self.scan is not None and self.bidirectional != "none":
            message = f"bidirectional: {self.bidirectional} has its scan, [row, row_reverse]; given scan besides"
            yield Problem(("scan",), message, "remove it, or write bidirectional: none", depends=("bidirectional",))
        elif self.scan is not None and len(set(orders)) < len(orders):
            twice = next(order for index, order in enumerate(orders) if order in orders[:index])
            yield Problem(("scan",), f"an order can be in scan only once; given {twice} twice", "remove one of them")
        if self.scan_share and self.bidirectional != "none":
            message = f"bidirectional: {self.bidirectional} says itself what is shared; given scan_share besides"
            yield Problem(("scan_share",), message, "remove it", depends=("bidirectional",))
        elif self.scan_share and not several:
            message = "scan_share needs scan with two orders or more; there is one direction"
            yield Problem(("scan_share",), message, "remove it, or write scan: vim", depends=("bidirectional", "scan"))
        elif len(set(self.scan_share)) < len(self.scan_share):
            yield Problem(("scan_share",), "a part can be in scan_share only once", "remove one of them")
        if self.divide_out and self.bidirectional == "v1":
            message = "divide_out has no effect on bidirectional: v1, neither in Vim"
            yield Problem(("divide_out",), message, "remove it, or write bidirectional: v2", depends=("bidirectional",))
        elif self.divide_out and not several:
            message = "divide_out needs several directions, there is one"
            suggestion = "remove it, or write bidirectional: v2"
            yield Problem(("divide_out",), message, suggestion, depends=("bidirectional", "scan"))
