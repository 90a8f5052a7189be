"""The mixers of several directions, token by token from the formulas; each order is a list of indices."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.naive import ACT, _conv, _rms

ACTIVATIONS = {
    **ACT,
    "gelu_tanh": lambda v: 0.5 * v * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (v + 0.044715 * v**3))),
    "relu": lambda v: v.clamp(min=0),
    "sigmoid": torch.sigmoid,
    "softplus": lambda v: torch.log1p(torch.exp(v)),
    "mish": lambda v: v * torch.tanh(torch.log1p(torch.exp(v))),
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v) - 1),
    "identity": lambda v: v,
}


def row_paths(mixer: Any, length: int) -> list[list[int]]:
    """The orders of a mixer that reads rows only."""
    there = list(range(length))
    return [{"row": there, "row_reverse": there[::-1]}[order] for order in mixer.spec.directions()]


def _weights(mixer: Any, number: int) -> dict[str, Tensor]:
    """The weights of one direction, by the names of the first."""
    w = dict(mixer.named_parameters())
    for name in list(w):
        head, dot, tail = name.partition(".")
        stem, log = (head[:-4], "_log") if head.endswith("_log") else (head, "")
        own = f"{stem}_{'abcdefgh'[number]}{log}{dot}{tail}"
        w[name] = w.get(own, w[name])
    return w


def _ordered(rows: list[Tensor], path: list[int], w: dict[str, Tensor], act: Any, is_shared: bool) -> list[Tensor]:
    """The convolved tokens in the order of a path: the order of the convolution too, unless that is shared."""
    if is_shared:
        rows = [act(row) for row in _conv(rows, w["conv1d.weight"], w.get("conv1d.bias"))]
        return [rows[index] for index in path]
    return [act(row) for row in _conv([rows[index] for index in path], w["conv1d.weight"], w.get("conv1d.bias"))]


def mamba1_scans(mixer: Any, x: Tensor, paths: list[list[int]]) -> Tensor:
    """out_proj(sum over directions * act(z)) of the tokens (T, D) of one row."""
    spec, first = mixer.spec, _weights(mixer, 0)
    d_inner, N = first["A_log"].shape
    rows = [F.linear(row, first["in_proj.weight"], first.get("in_proj.bias")) for row in x]
    total = [torch.zeros(d_inner, dtype=x.dtype) for _ in rows]
    for number, path in enumerate(paths):
        w = _weights(mixer, number)
        values = [row[:d_inner] for row in rows]
        ordered = _ordered(values, path, w, ACTIVATIONS[spec.conv_activation], "conv" in spec.shared())
        A, h = -w["A_log"].exp(), torch.zeros(d_inner, N, dtype=x.dtype)
        for index, u in zip(path, ordered, strict=True):
            dt, B, C = (w["x_proj.weight"] @ u).split((w["dt_proj.weight"].shape[1], N, N))
            if spec.bcdt_norm != "none":
                dt, B, C = (_rms(v, w.get(f"{n}_norm.weight"), 1e-6) for v, n in ((dt, "dt"), (B, "B"), (C, "C")))
            dt = torch.log1p(torch.exp(w["dt_proj.weight"] @ dt + w["dt_proj.bias"]))
            h = torch.exp(dt[:, None] * A) * h + (dt * u)[:, None] * B
            total[index] = total[index] + h @ C + w["D"] * u
    scale = 1 / len(paths) if spec.divide_out else 1
    gated = [y * scale * ACTIVATIONS[spec.gate_activation](row[d_inner:]) for y, row in zip(total, rows, strict=True)]
    return _leave(first, gated)


def mamba2_scans(mixer: Any, x: Tensor, paths: list[list[int]]) -> Tensor:
    """The same with SSD as the scan, the norm behind the sum, and the MLP beside it."""
    spec, first = mixer.spec, _weights(mixer, 0)
    H, P, G, N = first["dt_bias"].numel(), spec.headdim, spec.ngroups, spec.d_state
    d_mlp = first["out_proj.weight"].shape[1] - H * P
    sizes = (d_mlp, d_mlp, H * P, H * P + 2 * G * N, H)
    rows = [F.linear(row, first["in_proj.weight"], first.get("in_proj.bias")).split(sizes) for row in x]
    total = [torch.zeros(H * P, dtype=x.dtype) for _ in rows]
    for number, path in enumerate(paths):
        w = _weights(mixer, number)
        ordered = _ordered([row[3] for row in rows], path, w, ACTIVATIONS["silu"], "conv" in spec.shared())
        A, h = -w["A_log"].exp(), torch.zeros(H, P, N, dtype=x.dtype)
        skip = w["D"].view(H, P) if spec.D_has_hdim else w["D"][:, None]
        for index, row in zip(path, ordered, strict=True):
            u, B, C = row.split((H * P, G * N, G * N))
            dt = torch.log1p(torch.exp(rows[index][4] + w["dt_bias"])).clamp(spec.dt_limit[0], spec.dt_limit[1])
            B, C = (v.view(G, N).repeat_interleave(H // G, dim=0) for v in (B, C))
            u = u.view(H, P)
            h = torch.exp(dt * A)[:, None, None] * h + dt[:, None, None] * u[:, :, None] * B[:, None, :]
            total[index] = total[index] + (torch.einsum("hpn,hn->hp", h, C) + skip * u).flatten()
    out, act = [], ACTIVATIONS[spec.gate_activation]
    for summed, (z0, x0, z, _, _) in zip(total, rows, strict=True):
        y = summed / len(paths) if spec.divide_out else summed
        gated = y if spec.norm_before_gate else y * act(z)
        if spec.rmsnorm:
            gated = torch.cat([_rms(v, None, 1e-5) for v in gated.view(G, -1)]) * first["norm.weight"]
        gated = gated * act(z) if spec.norm_before_gate else gated
        out.append(torch.cat((x0 * act(z0), gated)))
    return _leave(first, out)


def _leave(w: dict[str, Tensor], rows: list[Tensor]) -> Tensor:
    out = torch.stack([F.linear(row, w["out_proj.weight"], w.get("out_proj.bias")) for row in rows])
    return out * w["gamma"] if "gamma" in w else out


NAIVE_SCANS = {"mamba1": mamba1_scans, "mamba2": mamba2_scans}
