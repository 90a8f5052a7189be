"""`hg.cost` as a whole: its arguments, its sums, its time."""

import json
import subprocess
import sys
import time

import pytest

import hybridgen as hg
from hybridgen.costs.results import Flops, StateBytes
from hybridgen.errors import HybridgenError
from tests.costs.test_parameters import CONFIGS

TOUR = CONFIGS[0].with_name("tour.yaml")
VIM = CONFIGS[0].with_name("vim-tiny.yaml")


def lm(n_layer: int) -> hg.ModelSpec:
    """A hybrid in which every third layer attends."""
    attn = {"num_heads": 32, "num_heads_kv": 8, "rotary_emb_dim": 64}
    backbone = {"d_model": 4096, "n_layer": n_layer, "ssm": {"type": "mamba2"}, "attn": attn}
    backbone |= {"attn_layer_idx": "2::3", "d_intermediate": 8192}
    tokens = {"type": "tokens", "vocab_size": 128_256}
    return hg.ModelSpec.model_validate({"input": tokens, "backbone": backbone, "head": "lm"})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"seq_len": 0}, "seq_len: must be a whole number, 1 or more; given 0"),
        ({"seq_len": 10**5000}, "seq_len: must be a whole number from 1 to 1,000,000,000,000; given a larger one"),
        ({"seq_len": 4.0}, "seq_len: must be a whole number, 1 or more; given 4.0"),
        ({"seq_len": True}, "seq_len: must be a whole number, 1 or more; given True"),
        ({"batch_size": -1}, "batch_size: must be a whole number, 1 or more; given -1"),
        ({"data_shards": 0}, "data_shards: must be a whole number, 1 or more; given 0"),
        ({"tensor_shards": None}, "tensor_shards: must be a whole number, 1 or more; given None"),
        ({"dtype": "int8"}, "dtype: must be one of float32, bfloat16, float16, float64; given 'int8'"),
        ({"causal": "quarter"}, "causal: must be one of half, full; given 'quarter'"),
        ({"checkpointing": ["full"]}, "checkpointing: must be one of none, selective, full; given ['full']"),
    ],
)
def test_arguments_that_are_none_are_refused_in_words(arguments, text):
    with pytest.raises(HybridgenError) as error:
        hg.cost(hg.load_spec(TOUR), **arguments)
    assert str(error.value) == text


def test_a_spec_is_asked_for():
    with pytest.raises(HybridgenError, match=r"cost takes a resolved spec, from hg.load_spec .*; given PosixPath"):
        hg.cost(TOUR)


def test_images_have_their_own_length():
    spec = hg.load_spec(VIM)
    assert hg.cost(spec).setting.seq_len == hg.cost(spec, 197).setting.seq_len == 197
    with pytest.raises(HybridgenError, match=r"seq_len: this model reads images of 197 tokens, .*; given 4096"):
        hg.cost(spec, 4096)
    assert hg.cost(hg.load_spec(TOUR)).setting.seq_len == 4096


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_kinds_and_parts_add_up_to_the_total(path):
    cost = hg.cost(hg.load_spec(path), batch_size=3)
    for field in ("parameters", "prefill", "decode", "training", "state"):
        whole = getattr(cost.total, field)
        zero = type(whole)()
        assert sum((getattr(part, field) for part in cost.kinds.values()), zero) == whole
        assert sum((getattr(part, field) for part in cost.parts), zero) == whole
    assert sum(part.count for part in cost.kinds.values()) == len(cost.parts) == len(cost.layers) + 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_costs_grow_with_the_rows(path):
    spec = hg.load_spec(path)
    one, three = (hg.cost(spec, batch_size=rows).total for rows in (1, 3))
    assert (three.prefill, three.decode, three.training, three.state) == (
        one.prefill * 3, one.decode * 3, one.training * 3, one.state * 3,
    )  # fmt: skip
    assert three.parameters == one.parameters


def test_checkpointing_computes_layers_again():
    spec = lm(6)
    costs = {how: hg.cost(spec, 100, checkpointing=how).total for how in ("none", "selective", "full")}
    forward = costs["none"].prefill
    layers = sum((part.prefill for part in hg.cost(spec, 100).layers), Flops())
    assert costs["none"].training == forward * 3
    assert costs["full"].training == forward * 3 + layers
    again = Flops(scan=layers.scan, convolution=layers.convolution)
    assert costs["selective"].training == forward * 3 + again
    assert again.scan
    assert again.convolution


def test_half_counts_fewer_pairs_than_full_and_nothing_else_changes():
    half, full = (hg.cost(lm(6), 1000, causal=causal).total for causal in ("half", "full"))
    assert full.prefill.attention * 1001 == half.prefill.attention * 2000
    assert full.prefill - half.prefill == Flops(attention=full.prefill.attention - half.prefill.attention)
    assert full.decode == half.decode


def test_a_classifier_makes_logits_once_per_row_unless_it_classifies_tokens():
    document = {
        "input": {"type": "tokens", "vocab_size": 100},
        "backbone": {"d_model": 64, "n_layer": 2},
        "head": {"type": "classifier", "num_classes": 10},
    }
    for pool, vectors in (("mean", 1), ("last", 1), ("max", 50), ("all", 50)):
        document["head"]["pool"] = pool
        cost = hg.cost(hg.ModelSpec.model_validate(document), 50)
        assert cost.total.prefill.head == 2 * 64 * 10 * vectors
        assert not cost.has_state
        assert (cost.total.decode, cost.total.state) == (Flops(), StateBytes())


def test_a_hundred_layers_take_a_third_of_a_second_at_most():
    spec = lm(100)
    begin = time.process_time()
    cost = hg.cost(spec, 2**20)
    cost.metrics()
    assert time.process_time() - begin < 0.3
    assert len(cost.layers) == 100


def test_torch_is_not_loaded():
    code = f"import sys, hybridgen as hg; hg.cost(hg.load_spec({str(TOUR)!r})); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_everything_is_json():
    cost = hg.cost(hg.load_spec(TOUR))
    again = json.loads(json.dumps(cost.to_dict()))
    assert again["metrics"]["params"] == cost.total.parameters.total == again["total"]["parameters"]["total"]
