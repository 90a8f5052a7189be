"""Runs every CPU operator of the extension forward and backward, for the thread sanitizer (scripts/tsan_check.sh).

With `--race LIBRARY` it only calls the data race of scripts/tsan_threads.cpp, which the sanitizer must report.
"""

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def sequences() -> list[Tensor]:
    """The operators that have gradients, in every form that splits its work in a way of its own."""
    from hybridgen.ops.add_norm import add_norm
    from hybridgen.ops.causal_conv1d import causal_conv1d
    from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
    from hybridgen.ops.selective_attention import selective_attention
    from hybridgen.ops.selective_scan import selective_scan
    from hybridgen.ops.ssd import ssd_scan

    x, B, C = numbers(2, 300, 256), numbers(2, 300, 2, 16), numbers(2, 300, 2, 16)
    A, skip, bias, taps = -torch.rand(256, 16), numbers(256), numbers(256), numbers(256, 4)
    resets = torch.zeros(2, 300, dtype=torch.bool)
    resets[:, 77] = True
    heads, step, decays = numbers(2, 300, 8, 32), numbers(2, 300, 8), -torch.rand(8)
    outputs = [
        gated_activation(x, x * 2, "silu", backend="native"),
        gated_activation_two_way(x, x * 2, x, "silu", 0.5, backend="native"),
        *add_norm(x, x * 2, skip, bias, 1e-5, "layer", 0.0, torch.float32, backend="native"),
        *add_norm(x, x * 2, skip, None, 1e-5, "rms", 0.0, torch.float32, backend="native"),
        *ssd_scan(heads, step, decays, B, C, numbers(8), resets=resets, backend="native"),
        *ssd_scan(heads, step, decays, B, C, initial_state=numbers(2, 8, 32, 16), backend="native"),
    ]
    q, k = numbers(1, 8, 300, 16), numbers(1, 2, 330, 16)
    more: list[dict[str, Any]] = [{}, {"choosers": [(q[:, 0], k[:, 1])], "softcap": 2.0, "sinks": numbers(8)}]
    for options in more:
        outputs += selective_attention(q, k, k, 0.3, **options, backend="native")
    # More rows than threads: each row is one thread's.
    q = numbers(9, 2, 130, 16)
    outputs += selective_attention(q, q, q, 0.3, backend="native")
    variants: list[dict[str, Any]] = [{"resets": resets}, {"reverse": True}, {}]
    for options in variants:
        start = numbers(2, 256, 3) if not options else None
        outputs += causal_conv1d(x, taps, bias, "silu", start, backend="native", **options)
        start = numbers(2, 256, 16) if not options else None
        outputs += selective_scan(x, x, A, B, C, skip, x, bias, initial_state=start, backend="native", **options)
    return outputs


def tokens() -> None:
    """The operators that have no gradient."""
    from hybridgen.ops import native
    from hybridgen.ops.causal_conv1d import causal_conv1d_update
    from hybridgen.ops.linear import linear
    from hybridgen.ops.selective_attention import selective_attention
    from hybridgen.ops.selective_attention.blocks import Extras, Options
    from hybridgen.ops.selective_attention.table import attend_with_table
    from hybridgen.ops.selective_scan import selective_state_update
    from hybridgen.ops.selective_scan.two_way import ScanDirection, selective_scan_two_way
    from hybridgen.ops.ssd import ssd_update

    token, B = torch.randn(8, 2048), torch.randn(8, 2, 16)
    A, decays = -torch.rand(2048, 16), -torch.rand(64)
    u, low, weight = torch.randn(1, 200, 256), torch.randn(1, 200, 4), torch.randn(256, 4)
    direction = ScanDirection(u, low, weight, weight[:, 0], weight, low, low, weight[:, 1])
    selective_scan_two_way(direction, direction, u, "silu", 0.5)
    linear(token, torch.randn(1024, 2048), torch.randn(1024), backend="native")
    causal_conv1d_update(token, torch.zeros(8, 2048, 3), torch.randn(2048, 4), None, "silu", backend="native")
    selective_state_update(torch.zeros(8, 2048, 16), token, token, A, B, B, z=token, backend="native")
    heads = token.unflatten(1, (64, 32))
    ssd_update(torch.zeros(8, 64, 32, 16), heads, token[:, :64], decays, B, B, backend="native")
    q, k = torch.randn(1, 8, 200, 16), torch.randn(1, 2, 1200, 16)
    selective_attention(q[:, :, :1], k, k, 0.3, backend="native")
    for queries in (q, q[:, :, :1]):
        table = None
        for _ in range(2):
            arguments = (queries, k, k, None, Extras(), Options(0.3, 0, True, None, None))
            _, _, table = attend_with_table(*arguments, table, 0.5)
    value = torch.randn(600, 256)
    native.OPS.gated_activation_out(value, torch.randn(600, 256), native.activation_number("silu"), value)


def mixers() -> None:
    """One token through whole mixers, which run several operators behind one another."""
    import hybridgen as hg

    blocks = {kind: {"mixer": {"type": kind}} for kind in ("mamba1", "mamba2")}
    backbone = {"d_model": 1024, "blocks": blocks, "pattern": "mamba1 mamba2"}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}))
    state = model.init_state(4, 8)
    for x in torch.randn(3, 4, 1, 1024):
        model(x, state=state)


def main() -> None:
    ctypes.CDLL(None).__tsan_init  # noqa: B018 - fails unless the sanitizer is there
    if sys.argv[1:2] == ["--race"]:
        ctypes.CDLL(sys.argv[2]).race()
        return
    torch.autograd.backward([output.sum() for output in sequences() if output.requires_grad])
    with torch.no_grad():
        tokens()
        mixers()
    print("no data race was seen")


if __name__ == "__main__":
    main()
