"""The points of curves are costs, and marks are where the order changes."""

from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.costs.devices import DEVICES, roofline
from hybridgen.curves import QUANTITIES, Range, cost_curves, parse_count
from hybridgen.curves.quantities import SPEEDS, tokens_written, written
from hybridgen.curves.sampling import Setting
from hybridgen.curves.scaling import at_depth
from hybridgen.errors import HybridgenError

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "model"


def _spec(name: str) -> hg.ModelSpec:
    return hg.load_spec(CONFIGS / f"{name}.yaml")


TINY, LLAMA, HYBRID = _spec("tiny-hybrid"), _spec("llama-like-1b"), _spec("mamba2attn-2.7b")
H100 = DEVICES["h100"]


def test_quantities_are_the_metrics() -> None:
    assert set(QUANTITIES) - set(SPEEDS) == set(hg.cost(TINY).metrics())


@pytest.mark.parametrize("y", [y for y in QUANTITIES if y not in SPEEDS])
def test_points_are_costs(y: str) -> None:
    (curve, *_) = cost_curves({"a": TINY}, "seq_len", y, Range((64, 100)), Setting(batch_size=3)).curves
    assert curve.xs == (64, 100)
    assert curve.ys == tuple(hg.cost(TINY, length, 3).metrics()[y] for length in curve.xs)


def test_speeds_are_those_of_the_device() -> None:
    setting = Setting(batch_size=3, device=DEVICES["l40s"])
    for y, call in SPEEDS.items():
        (curve,) = cost_curves({"a": TINY}, "seq_len", y, Range((64, 4096)), setting).curves
        best = [roofline(hg.cost(TINY, length, 3), DEVICES["l40s"]) for length in curve.xs]
        assert curve.ys == tuple(getattr(one, call).tokens_per_second for one in best)
        assert min(curve.ys) > 0
    mamba = _spec("mamba2-1.3b")
    curves = cost_curves({"m": mamba, "l": LLAMA}, "seq_len", "decode_tokens_per_s", setting=Setting(device=H100))
    (mark,) = curves.marks
    before, after = (
        [roofline(hg.cost(spec, length), H100).decode for spec in (mamba, LLAMA)] for length in (mark.x - 1, mark.x)
    )
    assert before[0].tokens_per_second <= before[1].tokens_per_second
    assert after[0].tokens_per_second > after[1].tokens_per_second
    assert mark.text == f"m is faster from {mark.x:,} tokens"
    assert curves.held.startswith("h100 · 1 row · bfloat16")


def test_what_was_held_is_what_counts() -> None:
    within, setting = Range((8,)), Setting(seq_len=64, causal="full", checkpointing="full")
    held = {y: cost_curves({"a": TINY}, "n_layer", y, within, setting).held for y in ("params", "kv_bytes")}
    assert held == {"params": "", "kv_bytes": "64 tokens per row · 1 row · bfloat16"}
    said = cost_curves({"a": TINY}, "n_layer", "train_flops", within, setting).held
    assert said == "64 tokens per row · 1 row · bfloat16 · attention counts all pairs of tokens · full checkpointing"


def test_depth_and_width() -> None:
    (deep,) = cost_curves({"a": TINY}, "n_layer", "params", Range((4, 6))).curves
    assert deep.ys == tuple(hg.cost(at_depth(TINY, depth)).metrics()["params"] for depth in (4, 6))
    (wide,) = cost_curves({"a": TINY}, "d_model", "params", Range((64, 128))).curves
    assert wide.ys[0] == hg.cost(TINY).metrics()["params"] < wide.ys[1]


def test_lengths() -> None:
    def xs(**within: int) -> tuple[int, ...]:
        return cost_curves({"a": TINY}, "seq_len", "params", Range(**within)).curves[0].xs

    assert xs() == tuple(2**exponent for exponent in range(10, 21))
    assert xs(first=1000, last=5000) == (1000, 1024, 2048, 4096, 5000)
    assert xs(last=16) == (16,)
    assert xs(first=100, last=10_000, points=3) == (100, 1000, 10_000)


def test_depths_and_widths_cover_the_same_range_for_all() -> None:
    curves = cost_curves({"a": TINY, "b": LLAMA}, "n_layer", "params").curves
    assert curves[0].xs == (*range(4, 45, 4),)
    assert len(curves[1].xs) == 25
    assert (curves[1].xs[0], curves[1].xs[-1]) == (1, 44)
    (wide,) = cost_curves({"a": _spec("mamba2-130m")}, "d_model", "params").curves
    assert (wide.xs[0], wide.xs[1], wide.xs[-1]) == (192, 256, 1536)


def test_state_of_one_design_has_its_parts_and_where_they_meet() -> None:
    curves = cost_curves({"a": HYBRID}, "seq_len", "state_bytes")
    whole, kv, states = curves.curves
    assert [curve.part for curve in curves.curves] == [False, True, True]
    assert tuple(map(sum, zip(kv.ys, states.ys, strict=True))) == whole.ys
    (mark,) = curves.marks
    before, after = (hg.cost(HYBRID, length).metrics() for length in (mark.x - 2, mark.x + 1))
    assert before["kv_bytes"] < before["ssm_bytes"]
    assert after["kv_bytes"] > after["ssm_bytes"]
    assert len(cost_curves({"a": LLAMA}, "seq_len", "state_bytes").curves) == 1


def test_two_designs_are_marked_where_the_order_changes() -> None:
    (mark,) = cost_curves({"h": HYBRID, "l": LLAMA}, "seq_len", "decode_flops").marks
    one, other = (
        [hg.cost(spec, mark.x + step).metrics()["decode_flops"] for step in (-1, 0)] for spec in (HYBRID, LLAMA)
    )
    assert one[0] >= other[0]
    assert one[1] < other[1]
    assert mark.text == f"l costs more from {mark.x:,} tokens"
    assert cost_curves({"h": HYBRID, "l": LLAMA}, "seq_len", "params").marks == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"y": "speed"}, "y: must be one of params, .*; given 'speed'"),
        ({"y": "state_byte"}, "given 'state_byte'; closest is 'state_bytes'"),
        ({"y": "train_tokens_per_s"}, "y: train_tokens_per_s is the speed of a device; name one"),
        ({"setting": Setting(device=H100)}, "device: params is the same on all devices; leave it out"),
        ({"x": "heads"}, "x: must be one of seq_len, n_layer, d_model; given 'heads'"),
        ({"within": Range(first=8, last=4)}, "from must not be above to; given 8 and 4"),
        ({"within": Range((4,), first=8)}, "values says every point"),
        ({"within": Range(points=1)}, "points: must be 2 or more; given 1"),
        ({"x": "n_layer", "within": Range(first=5, last=7)}, "tiny: no multiple of 4 lies between 5 and 7"),
        ({"x": "d_model", "within": Range((48, 33))}, "tiny: d_model = 33: num_heads = 4 at d_model = 64"),
    ],
)
def test_refusals(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(HybridgenError, match=words):
        cost_curves(**{"specs": {"tiny": TINY}, "x": "seq_len", "y": "params", **arguments})


def test_models_that_cannot_do_it_are_refused() -> None:
    with pytest.raises(HybridgenError, match="vim: cannot decode, so it has no state_bytes"):
        cost_curves({"vim": _spec("vim-tiny")}, "n_layer", "state_bytes")
    with pytest.raises(HybridgenError, match=r"vim: reads images, .*; give --x n_layer or d_model"):
        cost_curves({"vim": _spec("vim-tiny")}, "seq_len", "params")
    with pytest.raises(HybridgenError, match=r"vim: seq_len = 1024: .*reads images of 197 tokens"):
        cost_curves({"vim": _spec("vim-tiny")}, "seq_len", "params", Range((1024,)))
    with pytest.raises(HybridgenError, match="vim: cannot decode, so it has no decode_tokens_per_s"):
        cost_curves({"vim": _spec("vim-tiny")}, "n_layer", "decode_tokens_per_s", setting=Setting(device=H100))
    with pytest.raises(HybridgenError, match="no model"):
        cost_curves({}, "seq_len", "params")


def test_numbers_are_read_and_written() -> None:
    assert [parse_count(text, "--to") for text in ("1", "4k", "1.5K", "1M", " 3 ")] == [1, 4096, 1536, 2**20, 3]
    for text in ("", "0", "-1", "1.5", "k", "1e3", "9999999G"):
        with pytest.raises(HybridgenError, match="--to: must be a whole number"):
            parse_count(text, "--to")
    assert [tokens_written(value) for value in (512, 1000, 4096, 2**20, 3 * 2**19)] == [
        "512",
        "1,000",
        "4k",
        "1M",
        "1,536k",
    ]
    assert [written(value, "bytes") for value in (0, 1023, 1024, 1.5 * 2**30)] == ["0 B", "1023 B", "1 KiB", "1.5 GiB"]
    assert [written(value, "count") for value in (999, 130e6, 2.7e9)] == ["999", "130M", "2.7B"]
    assert [written(value, "flops") for value in (5, 999_999, 1e9)] == ["5", "1 M", "1 G"]
