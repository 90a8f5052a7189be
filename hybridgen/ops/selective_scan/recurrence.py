"""Mamba-1's recurrence and its gradient, a chunk of tokens at a time, on plain tensors without autograd.

Inside, tensors are (T, B, G, N, D/G): with the channels innermost, one step of the recurrence is one multiply-add over
contiguous memory, and the sums over states and over channels are batched matrix products.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32
"""Tokens per chunk. A chunk's work memory stays in the cache; the state is kept once per chunk for the gradient."""


class ScanInputs(NamedTuple):
    """The tensors of one scan, as `selective_scan` documents them; the arithmetic is in A's dtype."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None
    resets: Tensor | None

    def spans(self) -> list[tuple[int, int]]:
        """The chunks as (first token, one past the last)."""
        T = self.u.shape[1]
        return [(first, min(first + CHUNK, T)) for first in range(0, T, CHUNK)]

    def start(self) -> Tensor:
        """The state before the first token, (B, G, N, D/G)."""
        batch, D, N, G = self.u.shape[0], *self.A.shape, self.B.shape[2]
        if self.initial_state is None:
            return self.A.new_zeros(batch, G, N, D // G)
        return _to_groups(self.initial_state.to(self.A.dtype), G)


class ScanGradients(NamedTuple):
    """One gradient per tensor of `ScanInputs` but the resets; an absent input has None."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor


class _Workspace:
    """The states of one chunk at a time, in memory that all chunks share."""

    def __init__(self, inputs: ScanInputs) -> None:
        D, N = inputs.A.shape
        G = inputs.B.shape[2]
        self.inputs = inputs
        self.A = _to_groups(inputs.A[None], G)
        q = min(CHUNK, inputs.u.shape[1])
        shape = (inputs.u.shape[0], G, N, D // G)
        self.decay = inputs.A.new_empty(q, *shape)
        self.states = inputs.A.new_empty(q + 1, *shape)
        self.decay_steps, self.state_steps = self.decay.unbind(0), self.states.unbind(0)
        # Which tokens begin a sequence in any row; only those pay for the cut.
        self.reset_steps = None if inputs.resets is None else inputs.resets.any(0).tolist()

    def load(self, tensor: Tensor, first: int, last: int) -> Tensor:
        """Tokens first to last of a (B, T, D) or (B, T, G, N) tensor as (T, B, G, D/G or N)."""
        chunk = tensor[:, first:last].transpose(0, 1).to(self.A.dtype)
        return chunk if chunk.dim() == 4 else chunk.unflatten(2, (self.A.shape[1], -1))

    def rates(self, first: int, last: int) -> Tensor:
        """Dt with its bias, before the softplus, (T, B, G, D/G)."""
        dt, bias = self.inputs.dt[:, first:last].to(self.A.dtype), self.inputs.dt_bias
        return self.load(dt if bias is None else dt + bias.to(dt.dtype), 0, last - first)

    def cut(self, token: int, tensor: Tensor) -> Tensor:
        """The tensor with zeros in the rows where the token begins a new sequence; nothing flows across."""
        if self.reset_steps is None or self.inputs.resets is None or not self.reset_steps[token]:
            return tensor
        return tensor.masked_fill(self.inputs.resets[:, token, None, None, None], 0.0)

    def run(self, first: int, last: int, dt: Tensor, dt_u: Tensor) -> tuple[Tensor, Tensor]:
        """h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t through one chunk, from the state in `states[0]`.

        Returns:
            The decays, (T, B, G, N, D/G), and the states, T+1 of them: before the chunk and after each token.
        """
        q = last - first
        decay, states = self.decay[:q], self.states[: q + 1]
        torch.mul(dt[..., None, :], self.A, out=decay).exp_()
        torch.mul(dt_u[..., None, :], self.load(self.inputs.B, first, last)[..., None], out=states[1:])
        for t in range(q):
            before = self.cut(first + t, self.state_steps[t])
            torch.addcmul(self.state_steps[t + 1], self.decay_steps[t], before, out=self.state_steps[t + 1])
        return decay, states


def scan_forward(inputs: ScanInputs, keep_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs (B, T, D), the final state (B, D, N), and the state before each chunk if kept, else nothing."""
    batch, T, channels = inputs.u.shape
    y = inputs.A.new_empty(batch, T, channels)
    kept: list[Tensor] = []
    state = inputs.start()
    if T:
        work = _Workspace(inputs)
        work.states[0] = state
        for first, last in inputs.spans():
            if keep_states:
                kept.append(work.states[0].clone())
            dt, u = F.softplus(work.rates(first, last)), work.load(inputs.u, first, last)
            _, states = work.run(first, last, dt, dt * u)
            out = torch.matmul(work.load(inputs.C, first, last)[..., None, :], states[1:]).squeeze(-2)
            out = out.flatten(2)
            if inputs.D is not None:
                out.addcmul_(u.flatten(2), inputs.D.to(out.dtype))
            y[:, first:last] = out.transpose(0, 1)
            work.states[0] = states[-1]
        state = work.states[0]
    return y, _from_groups(state), torch.stack(kept) if kept else state.new_empty(0, *state.shape)


def scan_backward(inputs: ScanInputs, kept: Tensor, dy: Tensor, dfinal: Tensor) -> ScanGradients:
    """The gradients of `scan_forward`, the states computed again chunk by chunk from those it kept.

    With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}, last chunk first.
    """
    T, G = inputs.u.shape[1], inputs.B.shape[2]
    dtype = inputs.A.dtype
    dfinal = _to_groups(dfinal.to(dtype), G)
    du, ddt, dB, dC = (inputs.A.new_empty(t.shape) for t in (inputs.u, inputs.dt, inputs.B, inputs.C))
    dA = torch.zeros_like(dfinal[0])
    if T:
        work = _Workspace(inputs)
        gradient = torch.empty_like(work.decay)
        for (first, last), before in reversed(list(zip(inputs.spans(), kept, strict=True))):
            rates, u = work.rates(first, last), work.load(inputs.u, first, last)
            dt = F.softplus(rates)
            dt_u = dt * u
            work.states[0] = before
            decay, states = work.run(first, last, dt, dt_u)
            dy_t = work.load(dy, first, last)
            g = _reverse(work, gradient[: last - first], dy_t, first, last, dfinal)
            dfinal = decay[0] * work.cut(first, g[0])

            d_dt_u = torch.matmul(work.load(inputs.B, first, last)[..., None, :], g).squeeze(-2)
            _store(dC, first, last, torch.matmul(states[1:], dy_t[..., None]).squeeze(-1))
            _store(dB, first, last, torch.matmul(g, dt_u[..., None]).squeeze(-1))
            _store(du, first, last, (d_dt_u * dt).flatten(2))
            # From here on `decay` holds the gradient of dt A, and `g` is scratch.
            d_dtA = decay.mul_(states[:-1]).mul_(g)
            if inputs.resets is not None:
                d_dtA.masked_fill_(inputs.resets[:, first:last].T[..., None, None, None], 0.0)
            dA += torch.mul(d_dtA, dt[..., None, :], out=g).sum((0, 1))
            d_dt = d_dtA.mul_(work.A).sum(-2).addcmul_(d_dt_u, u)
            _store(ddt, first, last, (d_dt * rates.sigmoid()).flatten(2))
    if inputs.D is not None:
        du.addcmul_(dy, inputs.D.to(dtype))
    return ScanGradients(
        du.to(inputs.u.dtype),
        ddt.to(inputs.dt.dtype),
        _from_groups(dA[None]).squeeze(0),
        dB.to(inputs.B.dtype),
        dC.to(inputs.C.dtype),
        None if inputs.D is None else (dy * inputs.u).sum((0, 1)).to(inputs.D.dtype),
        None if inputs.dt_bias is None else ddt.sum((0, 1)).to(inputs.dt_bias.dtype),
        _from_groups(dfinal),
    )


def _reverse(work: _Workspace, g: Tensor, dy_t: Tensor, first: int, last: int, after: Tensor) -> Tensor:
    """Fill g with the gradients of the chunk's states; `after` is what flows in from the tokens behind it."""
    torch.mul(dy_t[..., None, :], work.load(work.inputs.C, first, last)[..., None], out=g)
    steps = g.unbind(0)
    steps[-1].add_(after)
    for t in range(len(steps) - 2, -1, -1):
        torch.addcmul(steps[t], work.decay_steps[t + 1], work.cut(first + t + 1, steps[t + 1]), out=steps[t])
    return g


def _store(target: Tensor, first: int, last: int, chunk: Tensor) -> None:
    target[:, first:last] = chunk.transpose(0, 1)


def _to_groups(state: Tensor, groups: int) -> Tensor:
    """(B, D, N) -> (B, G, N, D/G)."""
    return state.unflatten(1, (groups, -1)).mT.clone(memory_format=torch.contiguous_format)


def _from_groups(state: Tensor) -> Tensor:
    """(B, G, N, D/G) -> (B, D, N)."""
    return state.mT.flatten(1, 2).clone(memory_format=torch.contiguous_format)
