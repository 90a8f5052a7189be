"""Settings of the tests of `hybridgen.hf`."""

import pytest
import torch

pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def quick(no_shape_checks):
    """These tests call whole models thousands of times: the shapes inside are checked where the layers are tested."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
