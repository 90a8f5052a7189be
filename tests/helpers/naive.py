"""Each mixer once more, written token by token from the papers' equations: slow, differentiable, easy to check.

They read the weights of a built mixer by name and share no code with the package (norms, rotation, activations and
scans are spelt out here).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACT = {
    "silu": lambda v: v * torch.sigmoid(v),
    "gelu": lambda v: 0.5 * v * (1 + torch.erf(v / math.sqrt(2))),
    "relu2": lambda v: v.clamp(min=0) ** 2,
    "tanh": torch.tanh,
}


def _rms(v: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    v = v / torch.sqrt((v * v).mean() + eps)
    return v if weight is None else v * weight


def _conv(rows: list[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Causal depthwise convolution of a list of (C) rows with weight (C, 1, K)."""
    width = weight.shape[-1]
    out = []
    for t in range(len(rows)):
        total = torch.zeros_like(rows[0]) if bias is None else bias
        for lag in range(min(width, t + 1)):
            total = total + weight[:, 0, width - 1 - lag] * rows[t - lag]
        out.append(total)
    return out


def _rotate(head: Tensor, position: int, dim: int, base: float, interleaved: bool) -> Tensor:
    out = list(head.unbind())
    frequencies = (1 / base ** (torch.arange(0, dim, 2).float() / dim)).tolist()  # float32, as everybody has them
    for i in range(dim // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + dim // 2)
        angle = position * frequencies[i]
        out[a] = head[a] * math.cos(angle) - head[b] * math.sin(angle)
        out[b] = head[b] * math.cos(angle) + head[a] * math.sin(angle)
    return torch.stack(out)


def attention(mixer: Any, x: Tensor) -> Tensor:
    spec, w = mixer.spec, dict(mixer.named_parameters())
    heads, kv, dim = spec.num_heads, spec.num_heads_kv or spec.num_heads, mixer.head_dim
    rows = [F.linear(row, w["in_proj.weight"], w.get("in_proj.bias")) for row in x]
    qkv_dim = (heads + 2 * kv) * dim
    qkv, mlp = [row[:qkv_dim] for row in rows], [row[qkv_dim:] for row in rows]
    if spec.d_conv:
        qkv = _conv(qkv, w["conv1d.weight"], w["conv1d.bias"])
    queries, keys, values = [], [], []
    for t, row in enumerate(qkv):
        q, k, v = row.split((heads * dim, kv * dim, kv * dim))
        if spec.qk_norm == "full":
            q, k = _rms(q, w["q_norm.weight"], 1e-5), _rms(k, w["k_norm.weight"], 1e-5)
        q, k = list(q.view(heads, dim)), list(k.view(kv, dim))
        if spec.qk_norm == "head":
            q = [_rms(head, w["q_norm.weight"], 1e-5) for head in q]
            k = [_rms(head, w["k_norm.weight"], 1e-5) for head in k]
        turn = (spec.rotary_emb_dim, spec.rotary_emb_base, spec.rotary_emb_interleaved)
        queries.append([_rotate(head, t, *turn) for head in q])
        keys.append([_rotate(head, t, *turn) for head in k])
        values.append(v.view(kv, dim))
    out, hidden, kept = [], [x.new_zeros(()) for _ in x], list(range(len(x)))
    for t, row in enumerate(x):
        first = 0 if spec.window is None else max(0, t - spec.window + 1)
        contexts = []
        for h in range(heads):
            group = h // (heads // kv)
            scale = spec.softmax_scale or dim**-0.5
            seen = [s for s in kept if first <= s <= t]
            scores = torch.stack([scale * (queries[t][h] @ keys[s][group]) for s in seen])
            if spec.alibi:  # 2^(-8/H), 2^(-16/H), ... for these four heads
                slope = spec.alibi_slopes[h] if spec.alibi_slopes else 2.0 ** (-8 * (h + 1) / heads)
                scores = scores - slope * (t - torch.tensor(seen, dtype=scores.dtype))
            if spec.logit_softcap:
                scores = spec.logit_softcap * torch.tanh(scores / spec.logit_softcap)
            if h == spec.selection_head:
                chosen = scores.relu()
            weights = (scores - torch.stack([hidden[s] for s in seen])).exp()
            total = weights.sum() + (w["sinks"][h].exp() if spec.sink else 0)
            contexts.append(sum(weights[i] / total * values[s][group] for i, s in enumerate(seen)))
        if spec.selective:
            movable = [s for s in seen if s < t and (s > 0 or not spec.protect_bos)]
            for s in movable:
                hidden[s] = hidden[s] + chosen[seen.index(s)]
            if spec.context_budget and len(seen) > spec.context_budget:
                most = max(float(hidden[s].detach()) for s in movable)
                kept.remove(next(s for s in movable if float(hidden[s].detach()) >= most - max(most, 1.0) / 1024))
        context = torch.cat(contexts)
        if spec.output_gate != "none":
            gate = torch.sigmoid(w["g_proj.weight"] @ row)
            context = context * (gate if spec.output_gate == "elementwise" else gate.repeat_interleave(dim))
        up, gate = mlp[t].chunk(2)
        out.append(F.linear(torch.cat((context, up * ACT["silu"](gate))), w["out_proj.weight"], w.get("out_proj.bias")))
    return torch.stack(out)


def mamba1(mixer: Any, x: Tensor) -> Tensor:
    spec, w = mixer.spec, dict(mixer.named_parameters())
    d_inner, N = w["A_log"].shape
    rank = w["dt_proj.weight"].shape[1]
    rows = [F.linear(row, w["in_proj.weight"], w.get("in_proj.bias")) for row in x]
    convolved = _conv([row[:d_inner] for row in rows], w["conv1d.weight"], w.get("conv1d.bias"))
    A, h, out = -w["A_log"].exp(), torch.zeros(d_inner, N, dtype=x.dtype), []
    for t, row in enumerate(convolved):
        u = ACT[spec.conv_activation](row)
        dt, B, C = (w["x_proj.weight"] @ u).split((rank, N, N))
        if spec.bcdt_norm != "none":
            dt, B, C = (_rms(v, w.get(f"{name}_norm.weight"), 1e-6) for v, name in ((dt, "dt"), (B, "B"), (C, "C")))
        dt = torch.log1p(torch.exp(w["dt_proj.weight"] @ dt + w["dt_proj.bias"]))
        h = torch.exp(dt[:, None] * A) * h + (dt * u)[:, None] * B
        y = (h @ C + w["D"] * u) * ACT[spec.gate_activation](rows[t][d_inner:])
        out.append(F.linear(y, w["out_proj.weight"], w.get("out_proj.bias")) * w.get("gamma", 1.0))
    return torch.stack(out)


def mamba2(mixer: Any, x: Tensor) -> Tensor:
    spec, w = mixer.spec, dict(mixer.named_parameters())
    H, P, G, N = w["dt_bias"].numel(), spec.headdim, spec.ngroups, spec.d_state
    d_ssm = H * P
    d_mlp = w["out_proj.weight"].shape[1] - d_ssm
    rows = [F.linear(row, w["in_proj.weight"], w.get("in_proj.bias")) for row in x]
    sizes = (d_mlp, d_mlp, d_ssm, d_ssm + 2 * G * N, H)
    parts = [row.split(sizes) for row in rows]
    convolved = _conv([part[3] for part in parts], w["conv1d.weight"], w.get("conv1d.bias"))
    A, h, out = -w["A_log"].exp(), torch.zeros(H, P, N, dtype=x.dtype), []
    act = ACT[spec.gate_activation]
    for (z0, x0, z, _, raw_dt), row in zip(parts, convolved, strict=True):
        u, B, C = ACT["silu"](row).split((d_ssm, G * N, G * N))
        dt = torch.log1p(torch.exp(raw_dt + w["dt_bias"])).clamp(spec.dt_limit[0], spec.dt_limit[1])
        u = u.view(H, P)
        B, C = (v.view(G, N).repeat_interleave(H // G, dim=0) for v in (B, C))
        h = torch.exp(dt * A)[:, None, None] * h + dt[:, None, None] * u[:, :, None] * B[:, None, :]
        skip = w["D"].view(H, P) if spec.D_has_hdim else w["D"][:, None]
        y = (torch.einsum("hpn,hn->hp", h, C) + skip * u).flatten()
        if not spec.rmsnorm:
            y = y * act(z)
        else:
            groups = (y if spec.norm_before_gate else y * act(z)).view(G, -1)
            y = torch.cat([_rms(group, None, 1e-5) for group in groups]) * w["norm.weight"]
            y = y * act(z) if spec.norm_before_gate else y
        y = torch.cat((x0 * act(z0), y))
        out.append(F.linear(y, w["out_proj.weight"], w.get("out_proj.bias")) * w.get("gamma", 1.0))
    return torch.stack(out)


NAIVE = {"attention": attention, "mamba1": mamba1, "mamba2": mamba2}
