"""Operators in PyTorch's own operations: the same values as their references, and no operator of ours in a graph."""

import math

import pytest
import torch

from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.standard import linear_recurrence, only_standard, standard_operations
from tests.helpers.op_cases import OP_CASES, random_resets
from tests.helpers.tolerances import assert_close

LENGTHS = (0, 1, 2, 3, 8, 37, 130)


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("name", OP_CASES)
def test_operator_is_the_reference(name: str, T: int) -> None:
    case = OP_CASES[name]
    arguments = case.arguments(T)
    more = {"initial_state": case.initial_state()} | ({"resets": random_resets(T)} if T > 3 else {})
    with standard_operations():
        found = case(arguments, **more)
    for actual, expected in zip(found, case.expected(arguments, **more), strict=True):
        assert_close(actual, expected)


def test_recurrence_takes_one_step_per_doubling() -> None:
    decay, added = torch.rand(1, 197, 3), torch.randn(1, 197, 3)
    graph = torch.export.export(_Recurrence(), (decay, added)).graph
    joins = [node for node in graph.nodes if node.op == "call_function" and node.target is torch.ops.aten.add.Tensor]
    assert len(joins) == math.ceil(math.log2(197))


def test_recurrence_forgets_without_overflow() -> None:
    decay, added = torch.full((1, 4096, 1), 1e-30), torch.ones(1, 4096, 1)
    assert_close(linear_recurrence(decay, added), torch.ones(1, 4096, 1))


@pytest.mark.parametrize("options", [{}, {"selection_head": None, "softcap": 5.0}, {"window": 7}], ids=str)
def test_selective_attention_is_the_same(options: dict[str, object]) -> None:
    q, k, v = (torch.randn(2, heads, 33, 8, dtype=torch.float64) for heads in (4, 2, 2))
    sinks = torch.randn(4, dtype=torch.float64)
    expected = selective_attention(q, k, v, 0.3, sinks=sinks, backend="torch", **options)
    with standard_operations():
        found = selective_attention(q, k, v, 0.3, sinks=sinks, **options)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)


def test_blocks_nest_and_end_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), standard_operations(), standard_operations():
        raise ZeroDivisionError
    assert not only_standard()
    with standard_operations():
        with standard_operations():
            pass
        assert only_standard()


class _Recurrence(torch.nn.Module):
    def forward(self, decay: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        return linear_recurrence(decay, added)
