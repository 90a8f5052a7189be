"""Conditions on costs, such as `params < 150M and state_bytes(8192) < 64MiB`.

A small language of our own: the names of `ModelCost.metrics()`, for those that depend on it with a length in brackets,
numbers with units, `+ - * /`, comparisons (also chained), `and`, `or`, `not`. Nothing is ever executed as Python.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from hybridgen.errors import HybridgenError, printable
from hybridgen.spec.spelling import nearest

Metric = Callable[[str, int | None], float]
"""Gives a cost by its name, for a length or, with None, for the usual one."""

BYTES = ("weight_bytes", "state_bytes", "kv_bytes", "ssm_bytes", "activation_bytes", "train_memory")
COUNTS = ("params", "active_params", "non_embedding_params", "prefill_flops", "decode_flops", "train_flops")
METRICS = (*COUNTS, *BYTES)
"""What a condition can speak of."""

OF_LENGTH = (
    "prefill_flops", "decode_flops", "train_flops", "state_bytes", "kv_bytes", "activation_bytes", "train_memory",
)  # fmt: skip
"""Those that depend on the number of tokens."""

DECIMAL = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

LENGTHS = {"": 1, "k": 2**10, "M": 2**20}
"""The units of a length."""

MAX_LENGTH = 2_000
MAX_DEPTH = 40
MAX_TOKENS = 400
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*)(?:\.\d*)?(?:[eE][+-]?\d+)?)(?P<unit>[A-Za-z]\w*)?"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|[-+*/()<>]))"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_WORDS = {"and", "or", "not"}


class _Token(NamedTuple):
    kind: str
    text: str
    unit: str
    at: int


@dataclass(frozen=True)
class _Number:
    """A part of a condition that is a number.

    Attributes:
        of: Works it out.
        measure: `bytes` or `count`; None if it can be either.
        at: Where it begins.
    """

    of: Callable[[Metric], float]
    measure: str | None
    at: int


@dataclass(frozen=True)
class _Truth:
    """A part of a condition that is true or false."""

    of: Callable[[Metric], bool]
    at: int


_Part = _Number | _Truth
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Condition:
    """A condition that was understood.

    Attributes:
        text: As it was written.
        option: Where it comes from, for messages.
    """

    text: str
    option: str
    _truth: _Truth

    def holds(self, metric: Metric) -> bool:
        """Whether it holds for a model whose costs `metric` gives.

        Raises:
            HybridgenError: If it divides by zero, or its numbers become too large.
        """
        try:
            return self._truth.of(metric)
        except OverflowError:
            raise HybridgenError(f"{self.option}: the numbers become too large in {printable(self.text)}") from None


def parse_condition(text: str, option: str = "--where") -> Condition:
    """Parses a condition.

    Args:
        option: Where it comes from, for messages.

    Raises:
        HybridgenError: If it is none, with a caret under the place.
    """
    if len(text) > MAX_LENGTH:
        raise HybridgenError(f"{option}: a condition has at most {MAX_LENGTH:,} characters")
    return Condition(text, option, _Parser(text, option).condition())


def parse_amount(text: str, option: str) -> float:
    """An amount such as `130M` or `64MiB`; sums and products of such are taken too.

    Raises:
        HybridgenError: If it is none, with a caret under the place.
    """
    if len(text) > MAX_LENGTH:
        raise HybridgenError(f"{option}: an amount has at most {MAX_LENGTH:,} characters")
    return _Parser(text, option).amount()


class _Parser:
    """Reads a condition from left to right, a method for each level of precedence."""

    def __init__(self, text: str, option: str) -> None:
        self.text, self.option = text, option
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def condition(self) -> _Truth:
        """The whole text."""
        part = self._truth(self._or())
        if self._peek().kind != "end":
            raise self._error(self._peek().at, "here the condition should end, or go on with `and` or `or`")
        return part

    def amount(self) -> float:
        """The whole text, as a number."""
        part = self._number(self._sum())
        if self._peek().kind != "end":
            raise self._error(self._peek().at, "here the amount should end")

        def no_metric(name: str, _: int | None) -> float:
            raise self._error(self.text.find(name), f"an amount is a number, and `{name}` differs from model to model")

        try:
            return float(part.of(no_metric))
        except OverflowError:
            raise self._error(part.at, "this number is too large") from None

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self.text.rstrip()):
            match = _TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise self._error(at, f"`{printable(self.text[at])}` has no meaning here", self._sign_help(at))
            kind = str(match.lastgroup if match.lastgroup != "unit" else "number")
            text = match[kind]
            if text in _WORDS:
                kind = "sign"
            tokens.append(
                _Token(kind, text, match["unit"] or "", match.start(kind if kind != "sign" else _group(match)))
            )
            at = match.end()
            if len(tokens) > MAX_TOKENS:
                raise self._error(at, f"a condition has at most {MAX_TOKENS} names, numbers and signs")
        return [*tokens, _Token("end", "", "", len(self.text.rstrip()))]

    def _sign_help(self, at: int) -> str | None:
        known = {"=": "write ==", "&": "write and", "|": "write or", "!": "write not", "^": "write products out"}
        return known.get(self.text[at], "write 0.5, with a digit first" if self.text[at] == "." else None)

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self, *signs: str) -> _Token | None:
        token = self._peek()
        if token.kind != "sign" or token.text not in signs:
            return None
        self.next += 1
        return token

    def _or(self) -> _Part:
        left = self._and()
        while self._take("or"):
            one, two = self._truth(left), self._truth(self._and())
            left = _Truth(lambda metric, one=one, two=two: one.of(metric) or two.of(metric), one.at)  # type: ignore[misc]
        return left

    def _and(self) -> _Part:
        left = self._not()
        while self._take("and"):
            one, two = self._truth(left), self._truth(self._not())
            left = _Truth(lambda metric, one=one, two=two: one.of(metric) and two.of(metric), one.at)  # type: ignore[misc]
        return left

    def _not(self) -> _Part:
        token = self._take("not")
        if token is None:
            return self._comparison()
        inner = self._nested(lambda: self._truth(self._not()))
        return _Truth(lambda metric: not inner.of(metric), token.at)

    def _comparison(self) -> _Part:
        part = self._sum()
        sides, signs = [part], []
        while token := self._take(*_COMPARE):
            signs.append(_COMPARE[token.text])
            sides.append(self._sum())
        if not signs:
            return part
        numbers = [self._number(side) for side in sides]
        for one, two in pairwise(numbers):
            self._same_measure(one, two)

        def compare(metric: Metric) -> bool:
            values = [number.of(metric) for number in numbers]
            return all(sign(values[i], values[i + 1]) for i, sign in enumerate(signs))

        return _Truth(compare, numbers[0].at)

    def _sum(self) -> _Part:
        left = self._product()
        while token := self._take("+", "-"):
            one, two = self._number(left), self._number(self._product())
            self._same_measure(one, two)
            left = _combined(operator.add if token.text == "+" else operator.sub, one, two, one.measure or two.measure)
        return left

    def _product(self) -> _Part:
        left = self._sign()
        while token := self._take("*", "/"):
            one, two = self._number(left), self._number(self._sign())
            divide = self._divide(two.at)
            # Once two amounts meet, their quotient or product is no longer bytes or a count.
            measure = one.measure if two.measure is None else None
            left = _combined(operator.mul if token.text == "*" else divide, one, two, measure)
        return left

    def _divide(self, at: int) -> Callable[[float, float], float]:
        def divide(one: float, two: float) -> float:
            if two == 0:
                raise self._error(at, "this is 0, by which nothing can be divided", "test it first: `x > 0 and ...`")
            return one / two

        return divide

    def _sign(self) -> _Part:
        token = self._take("-")
        if token is None:
            return self._atom()
        inner = self._nested(lambda: self._number(self._sign()))
        return _Number(lambda metric: -inner.of(metric), inner.measure, token.at)

    def _atom(self) -> _Part:
        token = self._peek()
        self.next += token.kind != "end"
        if token.kind == "number":
            value, measure = self._value(token)
            return _Number(lambda _: value, measure, token.at)
        if token.kind == "name":
            return self._metric(token)
        if token.text == "(":
            inner = self._nested(self._or)
            if not self._take(")"):
                raise self._error(token.at, "this bracket is not closed", "add )")
            return inner
        what = f"`{token.text}`" if token.text else "the end"
        raise self._error(token.at, f"a number, a cost or a bracket belongs here, not {what}")

    def _value(self, token: _Token) -> tuple[float, str | None]:
        units = {**DECIMAL, **BINARY, "": 1}
        if token.unit not in units:
            at = token.at + len(token.text)
            if token.unit == "B":
                raise self._error(at, "there is no unit `B`", "write G for billions, and nothing for bytes")
            near = next((unit for unit in units if unit.lower() == token.unit.lower() and unit), None)
            known = f"the units are {', '.join(DECIMAL)} (powers of 1000) and {', '.join(BINARY)} (of 1024)"
            fix = f"did you mean {near}? {known}" if near else known
            raise self._error(at, f"there is no unit `{printable(token.unit)}`", fix)
        digits = token.text.replace("_", "")
        number = float(digits) if set(digits) & set(".eE") else int(digits)
        return number * units[token.unit], "bytes" if token.unit in BINARY else None

    def _metric(self, token: _Token) -> _Number:
        name = token.text
        if name not in METRICS:
            near = nearest(name, METRICS)
            known = f"the costs are {', '.join(METRICS)}"
            raise self._error(
                token.at, f"there is no cost `{printable(name)}`", f"did you mean {near}? {known}" if near else known
            )
        length = self._length(name) if self._peek().text == "(" else None
        return _Number(lambda metric: metric(name, length), "bytes" if name in BYTES else "count", token.at)

    def _length(self, name: str) -> int:
        opening = self._take("(")
        assert opening is not None
        if name not in OF_LENGTH:
            raise self._error(opening.at, f"{name} does not depend on a length", f"write {name} alone")
        token = self._peek()
        self.next += token.kind == "number"
        # Lengths are powers of two by habit, and 8k is what `hybridgen cost --seq-len 8k` takes it for.
        factor = LENGTHS.get(token.unit, 0)
        value = int(token.text) * factor if token.kind == "number" and token.text.isdecimal() else 0
        if value < 1:
            raise self._error(
                token.at, "a length is a whole number of tokens, 1 or more", f"write {name}(8192) or {name}(8k)"
            )
        if not self._take(")"):
            raise self._error(self._peek().at, "one length and a closing bracket belong here", f"write {name}(8192)")
        return int(value)

    def _nested(self, read: Callable[[], _Read]) -> _Read:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(self._peek().at, f"brackets and signs nest deeper than {MAX_DEPTH} levels here")
        part = read()
        self.depth -= 1
        return part

    def _truth(self, part: _Part) -> _Truth:
        if isinstance(part, _Truth):
            return part
        raise self._error(part.at, "this is a number, and a comparison belongs here", "write `... < 150M`")

    def _number(self, part: _Part) -> _Number:
        if isinstance(part, _Number):
            return part
        raise self._error(
            part.at, "this is true or false, and a number belongs here", "join comparisons by `and`, `or`"
        )

    def _same_measure(self, one: _Number, two: _Number) -> None:
        if one.measure and two.measure and one.measure != two.measure:
            words = {"bytes": "bytes", "count": "a count"}
            message = f"this is {words[two.measure]}, and what stands before it is {words[one.measure]}"
            raise self._error(two.at, message, "KiB, MiB and GiB are for bytes, k, M and G for counts")

    def _error(self, at: int, message: str, fix: str | None = None) -> HybridgenError:
        begin = max(0, at - 70)
        shown = printable(self.text[begin : at + 70])
        # Characters in front of the place that are written as several push the caret to the right.
        column = len(printable(self.text[begin:at]))
        words = f"{self.option}: {message}" + (f"; {fix}" if fix else "")
        return HybridgenError(f"{words}\n  {shown}\n  {' ' * column}^")


def _group(match: re.Match[str]) -> str:
    return "name" if match["name"] else "sign"


def _combined(combine: Callable[[float, float], float], one: _Number, two: _Number, measure: str | None) -> _Number:
    return _Number(lambda metric: combine(one.of(metric), two.of(metric)), measure, one.at)
