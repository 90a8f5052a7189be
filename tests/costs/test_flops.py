"""FLOPs from the spec alone against PyTorch's own count of a built model, and attention's pairs against its masks."""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import hybridgen as hg
from hybridgen.costs.flops import Reading, visible_pairs
from hybridgen.costs.results import Flops
from hybridgen.layers.attention_core import visibility
from hybridgen.ops.selective_attention.blocks import attend_densely
from hybridgen.ops.standard import standard_operations
from hybridgen.spec.mixers import AttentionSpec
from tests.costs import test_parameters, test_state
from tests.costs.designs import designs
from tests.costs.test_parameters import CONFIGS

aten = torch.ops.aten
MIXERS = "hybridgen.layers.mixers"
HEADS = ("lm_head", "head", "heads")
ROWS = 2


def convolved(x, weight, bias, activation, initial_state=None, resets=None, backend="auto", reverse=False):
    """Our causal convolution as PyTorch's, which has a formula: it is sums of shifted products here."""
    taps = weight.shape[1]
    padded = F.pad(x.mT, (taps - 1, 0))
    y = F.conv1d(padded, weight[:, None].to(x.dtype), bias, groups=x.shape[2])
    return y.mT, x.new_empty(x.shape[0], x.shape[2], taps - 1)


def nothing(x, *args, **kwargs):
    """A scan that takes no operations."""
    return torch.zeros_like(x), None


def with_table(q, k, v, hidden, extras, options, before, share):
    """Residual attention's scores in hand, which is what its operator does."""
    found = attend_densely(q, k, v, hidden, extras, options, before, share)
    return found.y, found.hidden, found.total


def counted(model, x) -> dict[str, Flops]:
    """FLOPs that PyTorch counts of each part, without scans: matrix products of batches are attention's."""
    swaps = {
        f"{MIXERS}.residual_attention.attend_with_table": with_table,
        "hybridgen.model.backbone._PIECE": 10**9,
        **{f"{MIXERS}.{name}.causal_conv1d": convolved
           for name in ("attention", "mamba1", "mamba2", "scans_mamba1", "scans_mamba2")},
        **{f"{MIXERS}.{name}.selective_scan": nothing for name in ("mamba1", "scans_mamba1")},
        **{f"{MIXERS}.{name}.ssd_scan": nothing for name in ("mamba2", "scans_mamba2")},
    }  # fmt: skip
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        for name, value in swaps.items():
            stack.enter_context(patch(name, value))
        stack.enter_context(standard_operations())
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        model(x)
    counts, found = counter.get_flop_counts(), {}
    for name, flops in counts.items():
        _, *path = name.split(".")
        part = ".".join(path[1:3]) if path[:2] == ["backbone", "layers"] and len(path) == 3 else None
        if path in (["patch_embed"], ["lm_head"], ["head"]) or (path[:1] == ["heads"] and len(path) == 2):
            part = "embedding" if path == ["patch_embed"] else "head"
        if part is not None:
            found[part] = found.get(part, Flops()) + sorted_by_kind(flops, part)
    parts = sum(flops.total for flops in found.values())
    assert parts == counter.get_total_flops(), "some of what is counted belongs to no part"
    return found


def sorted_by_kind(flops, part: str) -> Flops:
    kinds = {aten.mm: "linear", aten.addmm: "linear", aten.bmm: "attention", aten.convolution: "convolution"}
    assert set(flops) <= set(kinds)
    amounts = dict.fromkeys(kinds.values(), 0)
    for op, count in flops.items():
        amounts[kinds[op]] += count
    return Flops(head=amounts["linear"]) if part == "head" else Flops(**amounts)


def example(spec, seq_len: int):
    """An input of a model, without values."""
    source, meta = spec.input, torch.device("meta")
    match source.type:
        case "patches":
            return torch.empty(ROWS, source.channels, *source.size(), device=meta)
        case "tokens":
            return torch.empty(ROWS, seq_len, dtype=torch.long, device=meta)
        case "codebooks":
            return torch.empty(ROWS, seq_len, source.n_codebooks, dtype=torch.long, device=meta)
        case _:
            return torch.empty(ROWS, seq_len, spec.backbone.d_model, device=meta)


def seeing_all(spec, seq_len: int):
    """The spec with windows and budgets that reach over all tokens: PyTorch counts what its masks hide."""
    document = spec.document()
    for block in document["backbone"]["blocks"].values():
        for name in ("window", "context_budget"):
            if block["mixer"] and block["mixer"].get(name) is not None:
                block["mixer"][name] = max(block["mixer"][name], seq_len + 100)
    return hg.ModelSpec.model_validate(document)


def check(spec, seq_len: int):
    length = None if spec.input.type == "patches" else seq_len
    cost = hg.cost(spec, length, ROWS, causal="full")
    spec = seeing_all(spec, cost.setting.seq_len)
    cost = hg.cost(spec, length, ROWS, causal="full")
    real = counted(hg.build(spec, device="meta").eval(), example(spec, seq_len))
    assert set(real) <= {part.name for part in cost.parts}
    for part in cost.parts:
        assert part.prefill - Flops(scan=part.prefill.scan) == real.get(part.name, Flops()), part.name
    return cost.total.prefill


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_flops_of_shipped_configs_are_those_that_pytorch_counts(path):
    assert check(hg.load_spec(path), 24).linear


def stack(pattern: str, ends=None, backbone=None, **blocks):
    """A stack of blocks, each given by the fields of its mixer, which is attention where no type is given."""
    mixers = {name: {"mixer": fields if "type" in fields else ATTENTION | fields} for name, fields in blocks.items()}
    return {**(ends or {}), "backbone": {"d_model": 64, "blocks": mixers, "pattern": pattern, **(backbone or {})}}


ATTENTION = {"type": "attention", "num_heads": 4}
SELECTS = {"selective": True}
TOKENS = {"type": "tokens", "vocab_size": 100}
CLASSES = {"type": "classifier", "num_classes": 9}
RARE = {
    "accumulate": stack("a a c g", a=SELECTS, c={**SELECTS, "selection_from": "accumulate", "head_dim": 8},
                        g={**SELECTS, "selection_from": "guide"}),
    "previous": stack("a p p g", a={**SELECTS, "head_dim": 24}, p={**SELECTS, "selection_from": "previous"},
                      g={**SELECTS, "selection_from": "guide"}),
    "guide with a budget": stack("a g", a={**SELECTS, "context_budget": 9},
                                 g={**SELECTS, "context_budget": 9, "selection_from": "guide"}),
    "residual with a window": stack("a w", a={}, w={"window": 5}, backbone={"residual_attn": {"carry": "raw"}}),
    "residual and selective": stack("a w", a=SELECTS, w=SELECTS, backbone={"residual_attn": {"carry": "raw"}}),
    "values": stack("m a a", a={"num_heads_kv": 2}, m={"type": "mamba1"}, backbone={"value_residual": "learned"}),
    "memory": stack("a m", {"input": TOKENS | {"memory_tokens": 5}, "head": "lm"}, a={"window": 9},
                    m={"type": "mamba2", "headdim": 16}),
    **{f"classifies {pool}": stack("a", {"input": TOKENS, "head": CLASSES | {"pool": pool}}, a={})
       for pool in ("mean", "max", "all")},
    **{f"{kind} shares {'-'.join(parts)}": stack("s", s={"type": kind, "scan": "vim", "scan_share": list(parts)})
       for kind in ("mamba1", "mamba2") for parts in (("proj",), ("conv",), ("conv", "proj"), ("A", "D"))},
}  # fmt: skip
"""What random specs seldom have."""


@pytest.mark.parametrize("name", RARE)
def test_flops_of_rare_specs_are_those_that_pytorch_counts(name):
    check(hg.ModelSpec.model_validate(RARE[name]), 24)


@pytest.mark.parametrize("name", RARE)
def test_parameters_and_states_of_rare_specs_are_those_of_the_built_model(name):
    spec = hg.ModelSpec.model_validate(RARE[name])
    test_parameters.check(spec)
    for seq_len in (3, 9, 10, 33):
        test_state.check(spec, 2, seq_len, "float32")


@given(designs(), st.integers(2, 40))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_flops_of_random_specs_are_those_that_pytorch_counts(spec, seq_len):
    flops = check(spec, seq_len)
    event(f"attention {flops.attention > 0}, scan {flops.scan > 0}, convolution {flops.convolution > 0}")


@pytest.mark.parametrize("causal", ["half", "full"])
@pytest.mark.parametrize("window", [None, 1, 2, 7, 12, 30])
@pytest.mark.parametrize(("tokens", "before"), [(1, 0), (12, 0), (13, 5), (1, 40), (5, 20)])
def test_pairs_are_those_that_the_mask_lets_see(tokens, before, window, causal):
    mixer = AttentionSpec(type="attention", num_heads=4, window=window)
    queries = torch.arange(before, before + tokens)
    mask = visibility(queries, torch.arange(before + tokens), None, window)[0, 0]
    expected = int(mask.sum()) if causal == "half" else tokens * int(mask.sum(dim=1).max())
    assert visible_pairs(mixer, Reading(tokens, before, causal)) == expected


@pytest.mark.parametrize(("tokens", "before"), [(12, 0), (1, 40), (5, 20)])
def test_a_budget_lets_see_the_kept_keys_and_the_own_one(tokens, before):
    mixer = AttentionSpec(type="attention", num_heads=4, selective=True, context_budget=6)
    expected = sum(min(before + place, 6 + 1) for place in range(1, tokens + 1))
    assert visible_pairs(mixer, Reading(tokens, before)) == expected


@pytest.mark.parametrize("causal", ["half", "full"])
def test_all_pairs_are_seen_without_causality(causal):
    mixer = AttentionSpec(type="attention", num_heads=4, causal=False)
    assert visible_pairs(mixer, Reading(9, 0, causal)) == 81


def test_prefill_is_the_sum_of_all_steps_of_decoding():
    spec = hg.load_spec(CONFIGS[0].with_name("tour.yaml"))
    tokens, length = spec.input.memory_tokens, 300
    steps = [hg.cost(spec, number).total.decode for number in range(1, length + 1)]
    whole, first = hg.cost(spec, length).total.prefill, hg.cost(spec, 1).total.prefill
    # The first token comes with the memory tokens.
    assert sum(steps[1:], first) == whole
    assert not tokens or first != steps[0]


def scan_by_hand(channels: int, states: int, decay_per_state: bool, headdim: int) -> int:
    """Operations of one step of `h = exp(dt A) h + (dt x) B, y = C h + D x`, one by one."""
    count = 0
    for channel in range(channels):
        count += 1  # dt x
        if not decay_per_state and channel % headdim == 0:
            count += 2  # dt A and exp, once per head
        for _ in range(states):
            count += 2 * decay_per_state  # dt A and exp
            count += 3  # decay times h, (dt x) times B, their sum
            count += 2  # C times h, added to y
        count += 2  # D x, added to y
    return count


def test_scans_take_the_operations_of_their_recurrence():
    one = {"backbone": {"d_model": 64, "n_layer": 1, "ssm": {"type": "mamba1", "d_state": 5}}}
    two = {"backbone": {"d_model": 64, "n_layer": 1, "ssm": {"type": "mamba2", "d_state": 6, "headdim": 16}}}
    for document, by_hand in ((one, scan_by_hand(128, 5, True, 1)), (two, scan_by_hand(128, 6, False, 16))):
        spec = hg.ModelSpec.model_validate(document)
        assert hg.cost(spec, 7).total.prefill.scan == 7 * by_hand
        document["backbone"]["ssm"]["bidirectional"] = "v1"
        assert hg.cost(hg.ModelSpec.model_validate(document), 7).total.prefill.scan == 2 * 7 * by_hand
