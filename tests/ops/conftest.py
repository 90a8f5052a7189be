"""Settings of the operator tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _scratch_memory_is_nan():
    """Fills every torch.empty with NaN, so that reading memory that was never written is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
