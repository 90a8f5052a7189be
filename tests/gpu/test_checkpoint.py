"""Saving from a GPU and loading straight to one."""

import pytest
import torch

import hybridgen as hg
from tests.checkpoint.tiny import model


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_round_trip_through_a_gpu(tmp_path, dtype):
    original = model()
    hg.save(original.to("cuda"), tmp_path / "out", max_shard_size="20KB")
    loaded = hg.load(tmp_path / "out", device="cuda", dtype=dtype, verify=True)
    kinds = loaded.parameter_dtypes(torch.bfloat16 if dtype else torch.float32)
    for name, parameter in loaded.named_parameters():
        assert parameter.device.type == "cuda"
        assert torch.equal(parameter, original.get_parameter(name).to(kinds[name]))
