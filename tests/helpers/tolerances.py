"""How far a result may be from a float64 reference given the same numbers: one row per dtype, no exceptions."""

from typing import Any

import torch
from torch import Tensor

TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None, what: str = "") -> None:
    """Compare values and shapes at the tolerance of `dtype`, by default that of `actual`."""

    def message(text: str) -> str:
        return f"{what}: {text}" if what else text

    row: dict[str, Any] = TOLERANCES[dtype or actual.dtype]
    torch.testing.assert_close(actual, expected, **row, check_dtype=False, msg=message)
