"""Latency and peak memory on a GPU."""

import pytest

import hybridgen as hg
from hybridgen.objectives.latency import LatencyObjective
from hybridgen.objectives.peak_memory import PeakMemoryObjective
from tests.cli.conftest import CONFIGS

SPEC = hg.load_spec(CONFIGS / "tiny-hybrid.yaml")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_times_of_a_gpu(dtype):
    found = LatencyObjective(seq_len=256, batch_size=4, device="cuda", dtype=dtype).measure(SPEC)
    assert found.metrics["prefill_tokens_per_s"] * found.metrics["prefill_ms"] == pytest.approx(1e3 * 4 * 256)
    assert found.metrics["decode_tokens_per_s"] * found.metrics["decode_ms"] == pytest.approx(1e3 * 4)
    assert found.details["device"] != "cpu"


def test_peaks_of_a_gpu():
    found = PeakMemoryObjective(seq_len=512, batch_size=4, device="cuda").measure(SPEC)
    held = {name: found.details[name] for name in ("weights", "state", "gradients", "optimizer")}
    assert held["weights"] == hg.cost(SPEC, 512, dtype="float32").weight_bytes
    assert found.metrics["peak_memory_prefill"] > held["weights"] + held["state"]
    assert found.metrics["peak_memory_decode"] > held["weights"] + held["state"]
    training = held["weights"] + held["gradients"] + held["optimizer"]
    assert found.details["activations"] == found.metrics["peak_memory_train"] - training > 0
