"""The user's own objective: a Python function that is given the spec and returns numbers."""

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from hybridgen.errors import HybridgenError
from hybridgen.objectives.base import Measurement, Objective
from hybridgen.spec import ModelSpec
from hybridgen.spec.spelling import nearest

_TAKEN = "a number, or a dict of numbers by name"


class PythonObjective(Objective):
    """What a function of the user's says about a model: `python:FILE.py:function`.

    The function is called with the resolved spec and returns a number or a dict of numbers. It is the only code of the
    user's that a sweep runs, and only the command line can name it.

    Attributes:
        place: The file and the function, with a colon between them; the path is made absolute, for workers run
            elsewhere.
        sha256: Of the file when the objective was made. Results of another file are not taken for its results.
    """

    kind: ClassVar[str] = "python"

    place: str
    sha256: str = Field("", validate_default=True)

    @field_validator("place")
    @classmethod
    def _absolute(cls, place: str) -> str:
        file, colon, function = place.rpartition(":")
        if not colon or not file or not function.isidentifier():
            raise ValueError("must be FILE.py:function")
        return f"{os.path.abspath(Path(file).expanduser())}:{function}"

    @field_validator("sha256")
    @classmethod
    def _of_file(cls, sha256: str, others: ValidationInfo) -> str:
        """Of the file; empty where it cannot be read, of which `check` speaks."""
        file = _file(others.data.get("place", ""))
        try:
            return sha256 or (hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "")
        except OSError:
            return ""

    @property
    def file(self) -> Path:
        """The file of the function."""
        return _file(self.place)

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.place.rpartition(":")[2]

    @property
    def key(self) -> str:
        """`python:FILE.py:function` without the folder, so that a store can be moved."""
        return f"python:{self.file.name}:{self.function}"

    def check(self, spec: ModelSpec) -> None:
        """Refuses files that are not there, are no Python, or do not define the function; runs nothing of them."""
        source = self._source()
        try:
            tree = ast.parse(source, str(self.file))
        except (SyntaxError, ValueError) as error:
            where = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            words = error.msg if isinstance(error, SyntaxError) else str(error)
            raise HybridgenError(f"--objective: {self.file}{where}: this is no Python: {words}") from None
        names = dict(_defined(tree.body))
        if self.function not in names and "*" not in names:
            near = nearest(self.function, names)
            advice = f"did you mean {near}?" if near else "write it at the top level of the file"
            raise HybridgenError(f"--objective: {self.file} defines no {self.function!r}; {advice}")
        _check_signature(names.get(self.function), f"--objective: {self.file}: {self.function}")

    def measure(self, spec: ModelSpec) -> Measurement:
        """Loads the file and calls the function."""
        source = self._source()
        if hashlib.sha256(source).hexdigest() != self.sha256:
            raise HybridgenError(
                f"{self.file} has changed since the sweep began; put it back, or start again with another -o"
            )
        with _loaded(self.file, source) as module:
            function = getattr(module, self.function, None)
            if not callable(function):
                raise HybridgenError(f"{self.place}: this is no function but {type(function).__name__}")
            return Measurement(self._metrics(function(spec)))

    @classmethod
    def goal(cls, metric: str) -> None:
        """Nobody knows which way the user's numbers are better."""

    def _source(self) -> bytes:
        try:
            # A pipe or a device may never end.
            if self.file.exists() and not self.file.is_file():
                raise HybridgenError(f"--objective: {self.key}: this is no regular file: {self.file}")
            return self.file.read_bytes()
        except OSError as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise HybridgenError(f"--objective: {self.key}: {reason}: {self.file}") from None

    def _metrics(self, found: object) -> dict[str, int | float]:
        if not isinstance(found, Mapping):
            return {self.function: self._number(found, "")}
        if not found:
            raise HybridgenError(f"{self.place} returned an empty dict; it must return {_TAKEN}")
        for name in found:
            if not isinstance(name, str) or not name or not name.isprintable():
                raise HybridgenError(f"{self.place} returned a dict with the key {name!r}; keys are names of numbers")
        return {f"{self.function}.{name}": self._number(value, f" for {name!r}") for name, value in found.items()}

    def _number(self, value: object, where: str) -> int | float:
        plain = value
        if not isinstance(value, int | float) and hasattr(value, "item"):
            try:
                plain = value.item()  # of NumPy and PyTorch
            except (TypeError, ValueError, RuntimeError):  # there are several numbers in it
                plain = value
        if isinstance(plain, bool):
            return int(plain)
        if isinstance(plain, int | float):
            return plain
        text = repr(value)
        shown = text if len(text) <= 80 else f"{text[:79]}…"
        raise HybridgenError(
            f"{self.place} returned {type(value).__name__}{where}: {shown}; it must return {_TAKEN} "
            f"(or what has one as .item())"
        )


def _file(place: str) -> Path:
    return Path(place.rpartition(":")[0])


@contextmanager
def _loaded(file: Path, source: bytes) -> Iterator[ModuleType]:
    """Loads source as a module that can import its neighbours, here and while it is called.

    It is compiled here: the import system would take a cached file of the same second and size for it.
    """
    name = f"_hybridgen_objective_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
        yield module
    finally:
        del sys.modules[name]
        if folder in sys.path:
            sys.path.remove(folder)


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that statements define, also those inside `if`, `try` and `with`; `*` for an import of everything."""
    for one in body:
        match one:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield one.name, one
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name, one) for alias in one.names)
            case ast.Assign():
                named = (node for target in one.targets for node in ast.walk(target))
                yield from ((node.id, one) for node in named if isinstance(node, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, one
            case ast.If() | ast.With() | ast.Try():
                yield from _defined(one.body)
                if not isinstance(one, ast.With):
                    yield from _defined(one.orelse)
                if isinstance(one, ast.Try):
                    for handler in one.handlers:
                        yield from _defined(handler.body)


def _check_signature(found: Any, place: str) -> None:
    """Refuses functions that cannot be called with the spec alone; what is no `def` is not known."""
    if isinstance(found, ast.AsyncFunctionDef):
        raise HybridgenError(f"{place} is an async function; write it without async")
    if not isinstance(found, ast.FunctionDef):
        return
    takes = found.args
    names = [one.arg for one in [*takes.posonlyargs, *takes.args]]
    needed = names[: len(names) - len(takes.defaults)]
    needed += [one.arg for one, value in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if value is None]
    if len(needed) > 1 or not (names or takes.vararg) or (needed and needed[0] not in names):
        raise HybridgenError(
            f"{place} takes ({ast.unparse(takes)}); it is called with one argument, the spec: write "
            f"def {found.name}(spec)"
        )
