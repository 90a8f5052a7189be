"""Peak memory: against what is worked out from the spec, and what must hold between the numbers."""

import pytest
import torch

import hybridgen as hg
from hybridgen.costs.state import can_decode
from hybridgen.errors import HybridgenError
from hybridgen.objectives.memory import CpuMeter, one_thread, training_step
from hybridgen.objectives.peak_memory import PeakMemoryObjective
from tests.cli.conftest import CONFIGS
from tests.objectives.models import DECODES, DOCUMENTS, IMAGE_TOKENS, spec_of


def measured(spec, **settings):
    """With one thread, as the scratch memory of each further one is measured too."""
    with one_thread():
        return PeakMemoryObjective(**settings).measure(spec)


@pytest.mark.parametrize(("name", "length"), [("tiny-hybrid", 128), ("vim-digits", None)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_costs_of_shipped_models_are_what_is_measured(name, length, dtype):
    spec = hg.load_spec(CONFIGS / f"{name}.yaml")
    found = measured(spec, seq_len=length, batch_size=4, decode_steps=4, dtype=dtype)
    cost = hg.cost(spec, length, 4, dtype=dtype)
    memory = cost.memory
    assert found.details["weights"] == cost.weight_bytes == memory.weights
    assert found.details["gradients"] == memory.gradients
    assert found.details["activations"] == pytest.approx(memory.activations + memory.logits, rel=0.15)
    if dtype == "float32":  # below it, costs count float32 moments and master weights, as mixed precision has them
        assert found.details["optimizer"] == pytest.approx(memory.optimizer, rel=0.01)
        assert found.metrics["peak_memory_train"] == pytest.approx(memory.total, rel=0.15)
    if can_decode(spec):
        room = hg.cost(spec, length + 4, 4, dtype=dtype)
        assert found.details["state"] == room.total.state.total
        assert found.metrics["peak_memory_decode"] == pytest.approx(
            room.weight_bytes + found.details["state"], rel=0.15
        )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_phase_holds_weights_and_what_it_needs(name):
    found = measured(spec_of(name), seq_len=None if name == "images" else 64, batch_size=2, decode_steps=3)
    phases = ["prefill", *["decode"] * (name in DECODES), "train"]
    assert list(found.metrics) == [f"peak_memory_{phase}" for phase in phases]
    details = found.details
    base = details["weights"] + details["state"]
    assert found.metrics["peak_memory_prefill"] > base
    if name in DECODES:
        assert base < found.metrics["peak_memory_decode"] < found.metrics["peak_memory_prefill"]
        assert details["state"] > 0
    else:
        assert details["state"] == 0
    training = details["weights"] + details["gradients"] + details["optimizer"]
    assert details["activations"] == found.metrics["peak_memory_train"] - training > 0
    assert details["gradients"] == details["weights"]
    assert details["optimizer"] == pytest.approx(2 * details["weights"], rel=0.05)


@pytest.mark.parametrize("name", ["tokens", "images"])
def test_weights_are_all_parameters(name):
    spec = spec_of(name)
    found = measured(spec, train=False, dtype="bfloat16")
    model = hg.build(spec, dtype="bfloat16")
    assert found.details["weights"] == sum(one.nbytes for one in model.parameters())
    assert found.details["seq_len"] == (IMAGE_TOKENS if name == "images" else 512)


def test_training_can_be_left_out():
    found = measured(spec_of("tokens"), seq_len=16, train=False)
    assert list(found.metrics) == ["peak_memory_prefill", "peak_memory_decode"]
    assert "optimizer" not in found.details


def test_no_steps_are_no_decoding():
    assert "peak_memory_decode" not in measured(spec_of("tokens"), seq_len=16, decode_steps=0).metrics


def test_the_same_in_every_run():
    first, second = (measured(spec_of("tokens"), seq_len=64, batch_size=2) for _ in range(2))
    assert first == second


def test_phases_do_not_see_each_other():
    """The state is gone before training; a prompt that is gone does not count in decoding."""
    short, long = (measured(spec_of("tokens"), seq_len=64, decode_steps=steps) for steps in (1, 40))
    assert long.details["state"] > short.details["state"]
    assert long.metrics["peak_memory_train"] == short.metrics["peak_memory_train"]
    mamba = spec_of("tokens", attn_layer_idx=[])
    one, many = (measured(mamba, seq_len=length, decode_steps=2, train=False).metrics for length in (64, 512))
    assert many["peak_memory_prefill"] > one["peak_memory_prefill"]
    assert many["peak_memory_decode"] - one["peak_memory_decode"] == 8 * (512 - 64)  # the ids of the prompt


def test_the_meter_follows_what_is_held():
    meter = CpuMeter()

    def call():
        freed = torch.zeros(50_000)
        del freed
        return torch.zeros(10_000)

    kept, peak = meter.run(call)
    assert (meter.level, peak) == (40_000, 200_000)
    second, peak = meter.run(call)
    assert (meter.level, peak) == (80_000, 240_000)

    def free():
        nonlocal kept, second
        del kept, second

    _, peak = meter.run(free)
    assert (meter.level, peak) == (0, 80_000)


def test_a_training_step_trains():
    """It is the real thing: gradients of all parameters, and other weights behind the optimizer's step."""
    model = hg.build(spec_of("tokens")).train()
    before = {name: one.clone() for name, one in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    training_step(model, torch.randint(0, 50, (2, 16)), optimizer)()
    assert all(one.grad is not None for one in model.parameters())
    assert not any(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_less_memory_is_better():
    assert PeakMemoryObjective.goal("peak_memory_train") == "min"


def test_images_have_a_length_of_their_own():
    with pytest.raises(HybridgenError, match="peak_memory: seq_len: this model reads images of 17 tokens"):
        PeakMemoryObjective(seq_len=16).check(spec_of("images"))
