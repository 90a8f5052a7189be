"""Bytes of state from the spec alone are those of the buffers that a model makes."""

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import hybridgen as hg
from hybridgen.costs.results import StateBytes
from hybridgen.errors import UnsupportedError
from hybridgen.spec.ends import ClassifierHeadSpec
from tests.costs.designs import designs
from tests.costs.test_parameters import CONFIGS

NAMES = {"k": "kv", "v": "kv", "hidden": "selection", "places": "selection", "conv": "conv", "ssm": "ssm"}
MIXED = {
    "backbone": {
        "d_model": 64,
        "blocks": {
            "m": {"mixer": {"type": "mamba2", "d_state": 16, "headdim": 16}},
            "a": {"mixer": {"type": "attention", "num_heads": 4, "num_heads_kv": 1}},
        },
        "pattern": "m m a",
    }
}


def spec_of(document=MIXED, **mixer):
    """The spec of a document, with other fields in its attention."""
    blocks = document["backbone"]["blocks"]
    changed = blocks | {"a": {"mixer": blocks["a"]["mixer"] | mixer}}
    return hg.ModelSpec.model_validate({**document, "backbone": document["backbone"] | {"blocks": changed}})


def bytes_of(state) -> dict[str, int]:
    """Bytes of one layer's buffers, by what they hold."""
    found = dict.fromkeys(("kv", "selection", "ssm", "conv"), 0)
    for name, tensor in state.tensors().items() if state is not None else ():
        found[NAMES[name]] += tensor.numel() * tensor.element_size()
    return found


def check(spec, batch_size: int, seq_len: int | None, dtype: str) -> bool:
    cost = hg.cost(spec, seq_len, batch_size, dtype=dtype)
    try:
        state = hg.build(spec, device="meta").init_state(batch_size, cost.setting.seq_len, getattr(torch, dtype))
    except UnsupportedError:
        state = None
    # Classifiers can make a state for their backbone, but take none themselves.
    assert cost.has_state == (state is not None and not isinstance(spec.head, ClassifierHeadSpec))
    if not cost.has_state:
        assert cost.total.state == StateBytes()
        assert cost.total.decode.total == 0
        assert cost.crossover is None
        return False
    for part, layer in zip(cost.layers, state.layers, strict=True):
        assert part.state == StateBytes(**bytes_of(layer)), part.name
    assert cost.total.state.total == state.nbytes()
    return True


@pytest.mark.parametrize(("batch_size", "seq_len", "dtype"), [(1, 4096, "bfloat16"), (2, 33, "float64")])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_state_of_shipped_configs_is_that_of_the_built_model(path, batch_size, seq_len, dtype):
    spec = hg.load_spec(path)
    check(spec, batch_size, None if spec.input.type == "patches" else seq_len, dtype)


@given(designs(), st.integers(1, 3), st.integers(1, 50), st.sampled_from(["bfloat16", "float32", "float64"]))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_state_of_random_specs_is_that_of_the_built_model(spec, batch_size, seq_len, dtype):
    event(f"has_state {check(spec, batch_size, None if spec.input.type == 'patches' else seq_len, dtype)}")


def first_length(spec, bound: int) -> int | None:
    """The crossover by trying one length after the other."""
    for length in range(1, bound):
        state = hg.cost(spec, length).total.state
        if state.ssm + state.conv and state.kv and state.kv + state.selection >= state.ssm + state.conv:
            return length
    return None


@pytest.mark.parametrize(
    "mixer",
    [{}, {"window": 300}, {"window": 5}, {"selective": True}, {"selective": True, "context_budget": 300}, {"d_conv": 4},
     {"num_heads_kv": 4, "head_dim": 256}],
    ids=str,
)  # fmt: skip
def test_crossover_is_the_first_length_at_which_keys_are_as_large(mixer):
    spec = spec_of(**mixer)
    expected = first_length(spec, 700)
    assert hg.cost(spec).crossover == expected
    assert (expected is None) == (mixer == {"window": 5})


def test_crossover_of_a_state_that_keys_outweigh_at_once_is_1():
    assert hg.cost(spec_of(head_dim=8192, num_heads_kv=4)).crossover == 1


def test_there_is_no_crossover_without_both_kinds_of_state():
    attention = {"backbone": {"d_model": 64, "n_layer": 2, "attn_layer_idx": "all", "attn": {"num_heads": 4}}}
    mamba = {"backbone": {"d_model": 64, "n_layer": 2, "ssm": {"type": "mamba2"}}}
    for document in (attention, mamba):
        assert hg.cost(hg.ModelSpec.model_validate(document)).crossover is None


def test_memory_tokens_come_before_the_crossover():
    ends = {"input": {"type": "tokens", "vocab_size": 100}, "head": "lm"}
    plain = hg.cost(spec_of(ends | MIXED)).crossover
    ends["input"]["memory_tokens"] = 7
    assert hg.cost(spec_of(ends | MIXED)).crossover == plain - 7
