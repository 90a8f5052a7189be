"""What autograd allocates, followed in numbers: a forward pass, the backward pass, and the worst moment of both.

Nothing is computed. A value is a number of bytes and the memory that it lies in; views share memory. An operation makes
values, keeps some of what it has seen for the backward pass, and gives gradients back in reverse order, as autograd's
engine does. Gradients of weights are added to gradients that are there, so each is alive only until its operation ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Values = tuple["Value", ...]


class Memory:
    """A piece of memory with the number of those that hold it."""

    __slots__ = ("holders", "is_marked", "size")

    def __init__(self, size: int, is_marked: bool) -> None:
        self.size = size
        self.holders = 1
        self.is_marked = is_marked


class Value:
    """A tensor: the memory it lies in, its own bytes, and its gradient while there is one.

    Attributes:
        memory: Shared by views.
        size: Bytes of its gradient.
        grad: Its gradient, or the part of it that has been found.
    """

    __slots__ = ("grad", "memory", "size")

    def __init__(self, memory: Memory, size: int) -> None:
        self.memory = memory
        self.size = size
        self.grad: Memory | None = None


@dataclass(slots=True)
class _Operation:
    """One entry of the tape; see `Tape.do`."""

    inputs: Values
    outputs: Values
    saved: tuple[Memory, ...]
    work: int
    same: bool = False
    shared: bool = False
    total: Value | None = None

    def backward(self, tape: "Tape") -> None:
        given = [value for value in self.outputs if value.grad is not None]
        if self.total is not None and self.total.grad is None:
            self.total.grad = tape.take(self.total.size)
        if given:
            first = given[0].grad
            assert first is not None, "given are those with a gradient"
            found: list[Memory] = []
            for value in self.inputs:
                reused = first if self.same else found[0] if self.shared and found else None
                found.append(tape.hold(reused) if reused else tape.take(value.size, value.memory.is_marked))
            tape.touch(self.work)
            for value, grad in zip(self.inputs, found, strict=True):
                tape.add(value, grad)
        for value in given:
            assert value.grad is not None, "given are those with a gradient"
            tape.drop(value.grad)
            value.grad = None
        for memory in self.saved:
            tape.drop(memory)


@dataclass(slots=True)
class _Checkpoint:
    """A part that runs again in the backward pass; see `Tape.checkpoint`."""

    run: Callable[[], Values]
    outputs: Values
    saved: tuple[Memory, ...]
    results: list[Memory]

    def backward(self, tape: "Tape") -> None:
        outer, tape.entries = tape.entries, []
        tape.results, tape.uses_results = self.results, bool(self.results)
        mark = tape.begin()
        outputs = self.run()
        tape.results, tape.uses_results = [], False
        for old, new in zip(self.outputs, outputs, strict=True):
            if old is not new:
                new.grad, old.grad = old.grad, None
        tape.end(mark, ())
        tape.backward()
        tape.entries = outer
        for memory in self.saved:
            tape.drop(memory)


@dataclass(slots=True)
class Tape:
    """Follows memory through a training step.

    Attributes:
        level: Bytes held now.
        written: Bytes of all that was ever made.
        peak: The most that were held at once.
        marked: Bytes held now of values made while it `marks`, and of their gradients.
        marked_at_peak: The same at the peak.
        entries: Operations so far, first one first.
        records: Whether operations keep anything for the backward pass.
        keeps_results: Whether, while nothing is recorded, results of matrix products are kept all the same.
        uses_results: Whether these results are taken instead of computed.
        results: Them.
        marks: Whether what is made now is told apart.
    """

    level: int = 0
    written: int = 0
    peak: int = 0
    marked: int = 0
    marked_at_peak: int = 0
    entries: list[_Operation | _Checkpoint] = field(default_factory=list)
    records: bool = True
    keeps_results: bool = False
    uses_results: bool = False
    results: list[Memory] = field(default_factory=list)
    marks: bool = False
    _scope: list[Memory] = field(default_factory=list)

    def take(self, size: int, is_marked: bool = False) -> Memory:
        """Allocates."""
        memory = Memory(size, is_marked or self.marks)
        self.level += size
        self.written += size
        self.marked += size * memory.is_marked
        self.touch()
        return memory

    def touch(self, work: int = 0) -> None:
        """Notes that so much more is held for a moment."""
        if self.level + work > self.peak:
            self.peak, self.marked_at_peak = self.level + work, self.marked

    def hold(self, memory: Memory) -> Memory:
        """Adds a holder."""
        memory.holders += 1
        return memory

    def drop(self, memory: Memory) -> None:
        """Takes a holder away, and frees what nobody holds."""
        memory.holders -= 1
        if not memory.holders:
            self.level -= memory.size
            self.marked -= memory.size * memory.is_marked

    def begin(self) -> int:
        """Begins a function, whose values are freed at its `end` unless something holds them."""
        return len(self._scope)

    def end(self, mark: int, returned: Sequence[Value]) -> None:
        """Ends a function; what it returns belongs to its caller."""
        kept = {id(value.memory) for value in returned}
        inner, self._scope = self._scope[mark:], self._scope[:mark]
        for memory in inner:
            if id(memory) in kept:
                self._scope.append(memory)
            else:
                self.drop(memory)

    def forget(self, value: Value) -> None:
        """Ends the life of a variable of the caller's."""
        for index, memory in enumerate(self._scope):
            if memory is value.memory:
                del self._scope[index]
                self.drop(memory)
                return

    def new(self, size: int) -> Value:
        """Makes a value."""
        memory = self.take(size)
        self._scope.append(memory)
        return Value(memory, size)

    def do(
        self,
        inputs: Sequence[Value],
        *sizes: int,
        saves: Sequence[Value] = (),
        saves_outputs: Sequence[int] = (),
        extra: int = 0,
        products: int = 0,
        work: int = 0,
        backward_work: int = 0,
        same: bool = False,
        shared: bool = False,
        is_product: bool = False,
        total: Value | None = None,
    ) -> Values:
        """Runs an operation.

        Args:
            inputs: What gets a gradient.
            sizes: Bytes of each output.
            saves: Inputs that the backward pass needs.
            saves_outputs: Which outputs it needs.
            extra: Bytes of further results that are kept for it, such as the states of a scan.
            products: Bytes of `extra` that are matrix products too, which selective checkpointing keeps by themselves.
            work: Bytes held for a moment in the forward pass.
            backward_work: The same in the backward pass, gradients of weights included.
            same: Whether the gradient of each input is that of the first output, in the same memory.
            shared: Whether all inputs have one gradient in one memory.
            is_product: Whether selective checkpointing keeps the outputs.
            total: A value to whose gradient it adds in place.
        """
        if is_product and self.uses_results:
            outputs = tuple(Value(self.results.pop(0), size) for size in sizes)
            self._scope.extend(value.memory for value in outputs)
            kept = [self.results.pop(0)] if extra else []
        else:
            outputs = tuple(self.new(size) for size in sizes)
            found = [self.results.pop(0)] if products and self.uses_results else []
            rest = extra - sum(memory.size for memory in found)
            kept = found + ([self.take(rest)] if rest else [])
        self.touch(work)
        if self.records:
            saved = [self.hold(value.memory) for value in saves]
            saved += [self.hold(outputs[index].memory) for index in saves_outputs]
            self.entries.append(_Operation(tuple(inputs), outputs, (*saved, *kept), backward_work, same, shared, total))
        elif is_product and self.keeps_results:
            self.results += [self.hold(value.memory) for value in outputs] + kept
        else:
            for memory in kept:
                self.drop(memory)
            if products and self.keeps_results:
                self.results.append(self.take(products))
        return outputs

    def one(self, inputs: Sequence[Value], size: int, **options: object) -> Value:
        """Runs an operation with one output; see `do`."""
        return self.do(inputs, size, **options)[0]  # type: ignore[arg-type]

    def split(self, value: Value, *sizes: int) -> Values:
        """Makes views that lie beside each other; the backward pass copies their gradients into one."""
        views = tuple(Value(value.memory, size) for size in sizes)
        if self.records:
            self.entries.append(_Operation((value,), views, (), 0))
        return views

    def checkpoint(self, run: Callable[[], Values], inputs: Sequence[Value], keeps_results: bool) -> Values:
        """Runs a part that keeps its inputs alone (and the results of its products), and runs again when needed."""
        self.records, self.keeps_results, self.results = False, keeps_results, []
        outputs = run()
        self.records = True
        saved = tuple(self.hold(value.memory) for value in inputs)
        self.entries.append(_Checkpoint(run, outputs, saved, self.results))
        self.results = []
        return outputs

    def backward(self) -> None:
        """Goes back over all entries, the last one first."""
        while self.entries:
            self.entries.pop().backward(self)

    def add(self, value: Value, grad: Memory) -> None:
        """Adds to a value's gradient; in place, unless others read what is there."""
        if value.grad is None:
            value.grad = grad
            return
        if value.grad.holders > 1:
            total = self.take(value.size)
            self.drop(value.grad)
            value.grad = total
        self.drop(grad)

    def opens(self, value: Value) -> None:
        """Makes a value whose gradient operations add to in place, until the backward pass comes here."""
        self.entries.append(_Operation((), (value,), (), 0))
