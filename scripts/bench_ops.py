"""Times the operators against their peers, and against what the machine can do.

Run it after changing anything in hybridgen/ops or csrc, `python scripts/bench_ops.py selective_scan --quick` for a
first look. Sizes are those of mamba-130m and mamba2-130m. Peers: plain PyTorch, torch.compile, mamba-ssm's reference
functions (their published formulas), transformers' Mamba layers, mambapy's parallel scan where it is installed, and a
scalar loop in C++. How it measures stands in benchlib.py.
"""

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import suppress

import torch
import torch.nn.functional as F
from benchlib import (
    Case,
    Run,
    add_limit,
    compiled,
    exp_limit,
    main,
    matmul_limit,
    on_threads,
    ours,
    peers,
    read_limit,
    training_run,
)
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan, mamba_selective_state_update
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan, mamba2_selective_state_update
from transformers.utils import logging

from hybridgen.ops import native
from hybridgen.ops.add_norm import add_norm
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.linear import linear
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update

T, D, N = 2048, 1536, 16
HEADS, P, STATES = 24, 64, 128
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


# ---- gated activation ----


def gate_cases(quick: bool) -> Iterator[Case]:
    def eager(value: Tensor, gate: Tensor) -> Tensor:
        return F.silu(gate) * value

    for name, dtype in DTYPES.items():
        size = f"2048 x 8192, {name}"
        value, gate = (torch.randn(2048, 8192).to(dtype).requires_grad_() for _ in range(2))
        fused = compiled(eager)

        def call(value: Tensor = value, gate: Tensor = gate) -> Tensor:
            return gated_activation(value, gate, "silu")

        candidates = {
            **ours(call),
            "eager silu(gate) * value": lambda v=value, g=gate: eager(v, g),
            "torch.compile": lambda v=value, g=gate, f=fused: f(v, g),
        }
        yield Case(f"gated_activation forward, {size}", candidates, add_limit(value.numel(), dtype, 3))
        v, g, out = value.detach(), gate.detach(), torch.empty_like(value)
        reused: dict[str, Run] = {
            **ours(lambda v=v, g=g, o=out: gated_activation(v, g, "silu", out=o)),
            "eager torch.silu, torch.mul": lambda v=v, g=g, o=out: torch.mul(torch.ops.aten.silu.out(g, out=o), v),
        }
        yield Case(f"gated_activation forward, {size}, output reused", reused, add_limit(v.numel(), dtype, 3))
        backward: dict[str, Run] = {}
        if native.LOADED:
            silu = native.activation_number("silu")
            backward["hybridgen native"] = lambda v=v, g=g, o=out, n=silu: native.OPS.gated_activation_backward(
                o, v, g, n
            )
        backward |= {
            "eager": lambda v=v, g=g, o=out: (o * F.silu(g), torch.ops.aten.silu_backward(o * v, g)),
        }
        yield Case(f"gated_activation backward, {size}", backward, add_limit(v.numel(), dtype, 5))
        inputs = [value, gate]
        both = {
            **{key: training_run(run, inputs) for key, run in ours(call).items()},
            "eager silu(gate) * value": training_run(lambda v=value, g=gate: eager(v, g), inputs),
            "torch.compile": training_run(lambda v=value, g=gate, f=fused: f(v, g), inputs),
        }
        title = f"gated_activation forward and backward, {size}"
        yield Case(title, both, add_limit(value.numel(), dtype, 8), training=True)


# ---- selective scan ----


def scan_reference(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """Selective_scan_ref of mamba-ssm, by its formula: (B, D, T) tensors, every decay at once, a loop over tokens."""
    dt = F.softplus(dt + bias[:, None])
    decay = torch.exp(torch.einsum("bdt,dn->bdtn", dt, A))
    increment = torch.einsum("bdt,bnt,bdt->bdtn", dt, B, u)
    state, outputs = A.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + increment[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return (torch.stack(outputs, dim=2) + u * skip[:, None]) * F.silu(z)


def scan_mambapy(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """MambaBlock.selective_scan of mamba.py with its gate: (B, T, D) tensors, a parallel scan."""
    pscan = importlib.import_module("mambapy.pscan").pscan
    dt = F.softplus(dt + bias)
    decay = torch.exp(dt[..., None] * A)
    increment = dt[..., None] * B[:, :, None] * u[..., None]
    y = (pscan(decay, increment) @ C[..., None]).squeeze(3)
    return (y + skip * u) * F.silu(z)


def scan_scalar(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """The scalar loop in C++, split over threads by channels."""
    y, library, long = torch.empty_like(u), peers(), ctypes.c_int64
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (y, u, dt, A, B, C, skip, z, bias)]
    on_threads(
        lambda begin, end: library.selective_scan_scalar(
            long(begin), long(end), long(u.shape[1]), long(u.shape[2]), long(A.shape[1]), *pointers
        ),
        u.shape[2],
    )
    return y


def scan_cases(quick: bool) -> Iterator[Case]:
    u, z, dt = torch.randn(1, T, D), torch.randn(1, T, D), torch.randn(1, T, D) - 4
    A, skip, bias = -torch.arange(1.0, N + 1).repeat(D, 1), torch.ones(D), torch.zeros(D)
    B, C = torch.randn(1, T, N), torch.randn(1, T, N)
    flat = (u, dt, A, B, C, skip, z, bias)
    # The peers that want (B, D, T) get it ready made.
    turned = [t.mT.contiguous() if t.dim() == 3 else t for t in flat]
    u2, dt2, _, B2, C2, _, z2, _ = turned

    def call(u: Tensor = u, dt: Tensor = dt, z: Tensor = z, B: Tensor = B, C: Tensor = C) -> Tensor:
        return selective_scan(u, dt, A, B[:, :, None], C[:, :, None], skip, z, bias)[0]

    has_mambapy = False
    with suppress(ImportError):
        importlib.import_module("mambapy.pscan")
        has_mambapy = True
    candidates = ours(call)
    if has_mambapy:
        candidates["mambapy pscan"] = lambda: scan_mambapy(*flat)
    if peers() is not None:
        candidates["scalar C++ loop"] = lambda: scan_scalar(*flat)
    if not quick:
        candidates["mamba-ssm reference"] = lambda: scan_reference(*turned)
        candidates["transformers"] = lambda: mamba_selective_scan(u2, dt2, A, B2, C2, skip, z2, bias, True)
    size = f"T {T}, D {D}, N {N}"
    yield Case(f"selective_scan forward, {size}, float32", candidates, exp_limit((N + 2.0) * T * D))

    half = [t.bfloat16() for t in (u, dt, z, B, C)]
    yield Case(f"selective_scan forward, {size}, bfloat16", ours(lambda: call(*half)), exp_limit((N + 2.0) * T * D))

    inputs = [t.requires_grad_() for t in flat]
    both = {name: training_run(run, inputs) for name, run in ours(call).items()}
    if has_mambapy:
        both["mambapy pscan"] = training_run(lambda: scan_mambapy(*flat), inputs)
    # Forward, and the same exponentials again in the backward pass.
    limit = exp_limit(2 * (N + 2.0) * T * D)
    yield Case(f"selective_scan forward and backward, {size}, float32", both, limit, training=True)

    state, one, bc = torch.zeros(1, D, N), torch.randn(1, D), torch.randn(1, 1, N)
    step = ours(lambda: selective_state_update(state, one, one, A, bc, bc, skip, one, bias))
    step["transformers"] = lambda: mamba_selective_state_update(
        state, one, one, A, bc[:, 0], bc[:, 0], skip, bias, True, one
    )
    yield Case(f"selective_state_update, D {D}, N {N}, float32", step)


# ---- causal convolution ----


def conv_cases(quick: bool) -> Iterator[Case]:
    K = 4
    for name, dtype in DTYPES.items():
        x = torch.randn(1, T, D).to(dtype).requires_grad_()
        turned = x.detach().mT.contiguous().requires_grad_()
        weight, bias = (torch.randn(shape).to(dtype).requires_grad_() for shape in ((D, K), (D,)))

        def call(x: Tensor = x, w: Tensor = weight, b: Tensor = bias) -> Tensor:
            return causal_conv1d(x, w, b, "silu")[0]

        def conv1d(x: Tensor, w: Tensor = weight, b: Tensor = bias) -> Tensor:
            return F.silu(F.conv1d(x, w[:, None], b, padding=K - 1, groups=D)[..., :T])

        def shifts(x: Tensor, w: Tensor = weight, b: Tensor = bias) -> Tensor:
            padded = F.pad(x, (0, 0, K - 1, 0))
            return F.silu(sum((padded[:, k : k + T] * w[:, k] for k in range(K)), b))

        fused = compiled(shifts)
        calls = {
            "F.conv1d + silu on (B, T, D)": (lambda x=x, f=conv1d: f(x.mT).mT, x),
            "F.conv1d + silu on (B, D, T)": (lambda x=turned, f=conv1d: f(x), turned),
            "torch.compile, shifts": (lambda x=x, f=fused: f(x), x),
        }
        candidates = {**ours(call), **{key: run for key, (run, _) in calls.items()}}
        size = f"T {T}, D {D}, K {K}, {name}"
        yield Case(f"causal_conv1d + silu forward, {size}", candidates, add_limit(T * D, dtype, 2))
        both = {key: training_run(run, [x, weight, bias]) for key, run in ours(call).items()}
        both |= {key: training_run(run, [given, weight, bias]) for key, (run, given) in calls.items()}
        title = f"causal_conv1d + silu forward and backward, {size}"
        yield Case(title, both, add_limit(T * D, dtype, 5), training=True)

    state, one = torch.zeros(1, D, K - 1), torch.randn(1, D)
    w, b = torch.randn(D, K), torch.randn(D)
    yield Case(f"causal_conv1d_update, D {D}, float32", ours(lambda: causal_conv1d_update(one, state, w, b, "silu")))


# ---- Mamba-2 ----


def ssd_cases(quick: bool) -> Iterator[Case]:
    for name, dtype in DTYPES.items():
        x, dt = torch.randn(1, T, HEADS, P).to(dtype), (torch.randn(1, T, HEADS) - 4).to(dtype)
        B, C = (torch.randn(1, T, 1, STATES).to(dtype) for _ in range(2))
        A, skip, bias = -torch.linspace(1, 16, HEADS), torch.ones(HEADS), torch.zeros(HEADS)
        inputs = [x, dt, A, B, C, skip, bias]

        def call(inputs: list[Tensor] = inputs) -> Tensor:
            return ssd_scan(*inputs)[0]

        def theirs(chunk: int, inputs: list[Tensor] = inputs) -> Tensor:
            x, dt, A, B, C, skip, bias = inputs
            return mamba2_chunk_scan(x, dt, A, B, C, chunk, skip, bias, dt_softplus=True)

        peers_here: dict[str, Run] = {
            "transformers, chunk 64": lambda f=theirs: f(64),
            "transformers, chunk 256": lambda f=theirs: f(256),
        }
        size = f"T {T}, {HEADS} heads of {P}, N {STATES}, {name}"
        # Chunks of 64: scores, the part within chunks, states in and out.
        flops = 2.0 * T * (64 * STATES + HEADS * (64 * P + 2 * STATES * P))
        yield Case(f"ssd_scan forward, {size}", {**ours(call), **peers_here}, matmul_limit(flops, dtype))
        if dtype == torch.bfloat16:
            continue
        for tensor in inputs:
            tensor.requires_grad_()
        runs = {**ours(call), "transformers, chunk 64": peers_here["transformers, chunk 64"]}
        both = {key: training_run(run, inputs) for key, run in runs.items()}
        yield Case(f"ssd_scan forward and backward, {size}", both, matmul_limit(3 * flops, dtype), training=True)

    state, x, dt = torch.zeros(1, HEADS, P, STATES), torch.randn(1, HEADS, P), torch.randn(1, HEADS)
    A, skip, bias, bc = -torch.rand(HEADS), torch.ones(HEADS), torch.zeros(HEADS), torch.randn(1, 1, STATES)
    wide = [t[..., None].expand(*t.shape, P) for t in (dt, skip, bias)]
    wide_A = A[:, None, None].expand(HEADS, P, STATES)
    step = ours(lambda: ssd_update(state, x, dt, A, bc, bc, skip, bias))
    step["transformers"] = lambda: mamba2_selective_state_update(
        state, x, wide[0], wide_A, bc, bc, wide[1], wide[2], True
    )
    yield Case(f"ssd_update, {HEADS} heads of {P}, N {STATES}, float32", step)


# ---- residual addition and norm ----


def norm_cases(quick: bool) -> Iterator[Case]:
    def eager(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = residual + x
        return F.rms_norm(total, weight.shape, weight.float(), 1e-5).to(x.dtype), total

    for name, dtype in DTYPES.items():
        width = 2048
        x, weight = torch.randn(1, T, width).to(dtype), torch.ones(width, dtype=dtype)
        residual = torch.randn(1, T, width)
        fused = compiled(eager)
        candidates = {
            **ours(lambda x=x, r=residual, w=weight: add_norm(x, r, w, None, 1e-5, "rms")),
            "eager add, F.rms_norm": lambda x=x, r=residual, w=weight: eager(x, r, w),
            "torch.compile": lambda x=x, r=residual, w=weight, f=fused: f(x, r, w),
        }
        # The residual is read and written in float32, the branch read and the result written in its own dtype.
        streams = 2 + 2 * dtype.itemsize / 4
        title = f"add_norm (RMS) forward, {T} x {width}, {name}, float32 residual"
        yield Case(title, candidates, add_limit(x.numel(), torch.float32, streams))


# ---- linear maps of few rows ----


def linear_cases(quick: bool) -> Iterator[Case]:
    for name, dtype in DTYPES.items():
        weights = [torch.randn(3072, 768).mul_(0.03).to(dtype) for _ in range(30)]
        size = sum(w.numel() * w.element_size() for w in weights)
        for rows in (1, 8) if quick else (1, 2, 4, 8, 16):
            x = torch.randn(rows, 768).to(dtype)
            candidates = {
                **ours(lambda x=x, ws=weights: [linear(x, w) for w in ws]),
                "F.linear": lambda x=x, ws=weights: [F.linear(x, w) for w in ws],
            }
            title = f"linear, {rows} rows, {len(weights)} weights of 3072 x 768, {name}"
            yield Case(title, {k: v for k, v in candidates.items() if k != "hybridgen torch"}, read_limit(size))


SECTIONS = {
    "gated_activation": gate_cases,
    "selective_scan": scan_cases,
    "causal_conv1d": conv_cases,
    "ssd": ssd_cases,
    "add_norm": norm_cases,
    "linear": linear_cases,
}

if __name__ == "__main__":
    logging.set_verbosity_error()
    main("Times the operators against their peers and the machine's limits.", SECTIONS)
