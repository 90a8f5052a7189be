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
from hybridgen.costs.results import Flops
from hybridgen.ops.selective_attention.blocks import attend_densely
from hybridgen.ops.standard import standard_operations
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


@pytest.mark.usefixtures("no_shape_checks")
@given(designs(), st.integers(2, 40))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_flops_of_random_specs_are_those_that_pytorch_counts(spec, seq_len):
    flops = check(spec, seq_len)
    event(f"attention {flops.attention > 0}, scan {flops.scan > 0}, convolution {flops.convolution > 0}")
