"""State tracking: what all steps so far amount to."""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hybridgen.errors import HybridgenError
from hybridgen.tasks.base import Examples, Task, answers
from hybridgen.tasks.draws import Draws, Split

GROUPS = {"parity": 2, "s3": 3, "s5": 5}
"""Groups by the number of things that they permute; parity is S2."""


@dataclass(frozen=True)
class StateTracking(Task):
    """Products in a permutation group (Merrill et al., arXiv 2404.08819, section 4.1): the word problem.

    Tokens are the elements of the group, in the order of `itertools.permutations`, drawn uniformly; at each position
    the product of all so far is predicted, later elements being applied first: (g h)(x) = g(h(x)). The first position,
    where it is the token itself, is not scored. S5 is beyond constant-depth Transformers and the usual diagonal state
    space models at any length (same paper); parity and S3 are not beyond all of them.

    Attributes:
        group: `parity` (2 elements), `s3` (6) or `s5` (120).
    """

    name: ClassVar[str] = "state-tracking"

    vocab_size: int = 0
    seq_len: int = 32
    group: Literal["parity", "s3", "s5"] = "parity"

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise HybridgenError(f"{self.name}.group: must be one of {', '.join(GROUPS)}; given {self.group!r}")
        order = len(_elements(self.group))
        if self.vocab_size not in (0, order):
            self.refuse("vocab_size", f"is the number of elements of {self.group}, {order}; leave it out")
        object.__setattr__(self, "vocab_size", order)
        super().__post_init__()

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("seq_len", 2, 2**20)

    @property
    def chance(self) -> float:
        """Products of uniform elements are uniform."""
        return 1 / self.vocab_size

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        table = multiplication_table(self.group).to(draws.device)
        inputs = draws.integers(self.vocab_size, self.seq_len)
        products = inputs.clone()
        step = 1
        while step < self.seq_len:  # prefix products in log2(T) rounds, as the product is associative
            products[:, step:] = table[products[:, :-step], products[:, step:]]
            step *= 2
        mask = torch.ones_like(inputs, dtype=torch.bool)
        mask[:, 0] = False
        return answers(inputs, products, mask)


def _elements(group: str) -> list[tuple[int, ...]]:
    return list(permutations(range(GROUPS[group])))


@cache
def multiplication_table(group: str) -> Int[Tensor, "G G"]:
    """Returns the number of the product g h for the numbers of g (row) and h (column)."""
    elements = _elements(group)
    number = {element: index for index, element in enumerate(elements)}
    return torch.tensor([[number[tuple(g[h[x]] for x in range(len(g)))] for h in elements] for g in elements])
