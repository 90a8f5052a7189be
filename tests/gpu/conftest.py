"""Skips the GPU tests, with the reason, on a machine without CUDA; and a test of a kernel that is not installed."""

import pytest
import torch

from hybridgen.ops.backends import missing_kernel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def needs_kernel():
    """Returns a function that skips the test unless the kernels of the given operators are installed."""

    def check(*ops: str) -> None:
        for op in ops:
            missing = missing_kernel(op)
            if missing is not None:
                pytest.skip(missing)

    return check
