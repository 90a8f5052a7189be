"""The roofline: by hand, its bounds, and devices from files."""

import json

import pytest
from typer.testing import CliRunner

import hybridgen as hg
from hybridgen.cli.app import app
from hybridgen.costs.devices import DEVICES, Device, read_device, roofline
from hybridgen.errors import HybridgenError, SpecError

ROUND = Device("round", bfloat16_tflops=100, float32_tflops=10, bandwidth_gb_s=1000, memory_gb=1)
LM = {"input": {"type": "tokens", "vocab_size": 1000}, "head": {"type": "lm"}}


def lm(**changes):
    """A small language model."""
    backbone = {"d_model": 256, "n_layer": 4, "ssm": {"type": "mamba2"}, **changes.pop("backbone", {})}
    return hg.ModelSpec.model_validate({"backbone": backbone, **LM, **changes})


def test_decoding_by_hand():
    """Bytes: all weights, all keys and values, the other states twice; time: that by the bandwidth."""
    spec = lm(backbone={"attn_layer_idx": [1], "attn": {"num_heads": 4}})
    cost = hg.cost(spec, 512, 2)
    state = cost.total.state
    found = roofline(cost, ROUND).decode
    assert found.bytes == cost.memory.weights + state.total + state.ssm + state.conv
    assert found.flops == cost.total.decode.total
    assert found.bound == "memory"
    assert found.tokens_per_second == pytest.approx(2 / (found.bytes / 1e12))
    assert found.intensity == pytest.approx(found.flops / found.bytes)


def test_training_by_hand():
    """Three forward passes' traffic, weights read thrice, and the update."""
    cost = hg.cost(lm(), 512)
    memory, found = cost.memory, roofline(cost, ROUND).training
    update = 2 * (memory.weights + memory.optimizer) + memory.gradients
    assert found.bytes == 3 * memory.weights + 6 * cost.written + update
    assert found.tokens_per_second == pytest.approx(512 / max(found.flops / 1e14, found.bytes / 1e12))
    again = roofline(hg.cost(lm(), 512, checkpointing="full"), ROUND).training
    assert again.bytes == found.bytes + 2 * cost.written


def test_a_forward_pass_writes_what_its_operations_make():
    """An MLP alone: norms, the hidden layer and its activation, each output once."""
    mlp = {"mlp": {"d_intermediate": 512, "gated": False, "gate_activation": "gelu"}}
    spec = hg.ModelSpec.model_validate({"backbone": {"d_model": 256, "blocks": {"m": mlp}, "pattern": "m"}})
    # The first norm, fc1, gelu, fc2, the last norm; the residual stream begins as the input itself.
    assert hg.cost(spec, 10, dtype="float32").written == 4 * 10 * (256 + 512 + 512 + 256 + 256)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_estimate_beats_a_limit(name, dtype):
    """Neither arithmetic nor bandwidth is ever exceeded, and one of both is reached."""
    device = DEVICES[name]
    cost = hg.cost(lm(), 256, 3, dtype=dtype)
    found = roofline(cost, device)
    for estimate, tokens in ((found.prefill, 768), (found.decode, 3), (found.training, 768)):
        seconds = tokens / estimate.tokens_per_second
        arithmetic = estimate.flops / seconds / device.flops(dtype)
        transfer = estimate.bytes / seconds / (device.bandwidth_gb_s * 1e9)
        assert max(arithmetic, transfer) == pytest.approx(1)
        assert (estimate.bound == "compute") == (arithmetic > transfer)


def test_long_rows_of_a_wide_model_are_bound_by_arithmetic():
    """Prefill of many rows is; one token never is."""
    spec = hg.ModelSpec.model_validate(
        {"backbone": {"d_model": 4096, "n_layer": 2, "attn_layer_idx": "all", "attn": {"num_heads": 32}}}
    )
    found = roofline(hg.cost(spec, 8192, 4), DEVICES["h100"])
    assert (found.prefill.bound, found.decode.bound) == ("compute", "memory")


def test_embeddings_that_are_only_looked_up_are_not_read():
    """A tied table is the head, and read; an untied one is not, its head is."""
    tied, untied = (hg.cost(lm(head={"type": "lm", "tie_embeddings": tie}), 64) for tie in (True, False))
    tied_bytes, untied_bytes = (roofline(one, ROUND).decode.bytes for one in (tied, untied))
    assert untied.memory.weights > tied.memory.weights
    assert tied_bytes == untied_bytes
    biased = hg.cost(lm(head={"type": "lm", "bias": True}), 64)
    assert roofline(biased, ROUND).decode.bytes == tied_bytes + biased.parts[-1].parameters.head * 2


def test_what_fits_is_told():
    """Weights and state, and the memory of training, each against the device's."""
    cost = hg.cost(lm(), 4096, 8)
    small = Device("small", 100, 10, 1000, memory_gb=(cost.memory.weights + cost.total.state.total) / 1e9)
    found = roofline(cost, small)
    assert found.serving_fits
    assert not found.training_fits
    assert not roofline(hg.cost(lm(), 4096, 9), small).serving_fits


def test_shards_divide_the_work():
    """Two tensor shards do half each; speeds are of both together."""
    one, two = (roofline(hg.cost(lm(), 512, tensor_shards=count), ROUND).prefill for count in (1, 2))
    assert two.flops == one.flops // 2
    assert two.tokens_per_second == pytest.approx(2 * one.tokens_per_second, rel=1e-3)
    data = roofline(hg.cost(lm(), 512, data_shards=4), ROUND)
    assert data.prefill.tokens_per_second == pytest.approx(one.tokens_per_second, rel=1e-3)


def test_images_have_no_decoding():
    """Nothing is estimated for what cannot be done."""
    image = {"input": {"type": "patches", "image_size": 32, "patch_size": 8}}
    head = {"head": {"type": "classifier", "num_classes": 10}}
    spec = hg.ModelSpec.model_validate(
        {**image, **head, "backbone": {"d_model": 64, "n_layer": 2, "ssm": {"type": "mamba1", "bidirectional": "v2"}}}
    )
    assert roofline(hg.cost(spec), ROUND).decode is None


def test_an_unknown_name_gets_the_known_ones():
    """With the nearest."""
    with pytest.raises(HybridgenError, match=r"h1000: must be one of a100-80gb, h100, .*mi300x.*closest is 'h100'"):
        read_device("h1000")


def test_a_speed_that_is_not_known_is_asked_for():
    """Float64 of a card without a number for it."""
    with pytest.raises(HybridgenError, match="float64_tflops"):
        roofline(hg.cost(lm(), 64, dtype="float64"), DEVICES["l40s"])


def test_a_device_from_a_file(tmp_path):
    """The fields are those of the table."""
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbfloat16_tflops: 100\nfloat32_tflops: 10\nbandwidth_gb_s: 1e3\nmemory_gb: 1\n")
    assert read_device(file) == Device("mine", 100, 10, 1000.0, 1)


def test_every_fault_of_a_file_is_told_with_its_place(tmp_path):
    """Unknown fields with the nearest, wrong values, missing fields."""
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbfloat16_tflop: 100\nfloat32_tflops: -10\nmemory_gb: yes\n")
    with pytest.raises(SpecError) as caught:
        read_device(file)
    faults = {fault.path: fault for fault in caught.value.faults}
    assert (faults["bfloat16_tflop"].line, faults["bfloat16_tflop"].suggestion) == (2, "bfloat16_tflops")
    assert "above 0" in faults["float32_tflops"].message
    assert "memory_gb" in faults
    assert "missing" in faults["bandwidth_gb_s"].message


def test_the_command_prints_and_writes_it(tmp_path):
    """`hybridgen cost --device`, as a table and in JSON."""
    file = tmp_path / "model.yaml"
    file.write_text("backbone: {d_model: 64, n_layer: 2, ssm: {type: mamba2, headdim: 32}}\n")
    runner = CliRunner()
    printed = runner.invoke(app, ["cost", str(file), "--device", "h100"])
    assert printed.exit_code == 0
    assert "device: h100" in printed.stdout
    assert "(memory)" in printed.stdout
    assert "fits" in printed.stdout
    written = runner.invoke(app, ["cost", str(file), "--device", "H100", "--json"])
    assert json.loads(written.stdout)["roofline"]["decode"]["bound"] == "memory"
    assert "roofline" not in json.loads(runner.invoke(app, ["cost", str(file), "--json"]).stdout)
