"""Mamba-1's selective scan: over a whole sequence, and one token at a time."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.selective_scan import mamba_ssm, native
from hybridgen.ops.selective_scan.plain import flip_time, selective_scan_plain, selective_state_update_plain
from hybridgen.ops.shapes import check_groups, check_shapes


def selective_scan(
    u: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    D: Float[Tensor, " D"] | None = None,
    z: Float[Tensor, "B T D"] | None = None,
    dt_bias: Float[Tensor, " D"] | None = None,
    gate_activation: str = "silu",
    initial_state: Float[Tensor, "B D N"] | None = None,
    resets: Bool[Tensor, "B T"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """Run a diagonal state-space recurrence whose step size, input and output weights depend on the token.

    dt = softplus(dt + dt_bias); h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t; y_t = (C_t h_t + D u_t) act(z_t).
    Source: Mamba, 2312.00752, equations 2a, 2b and algorithm 2.

    Args:
        dt: Step sizes before the bias and the softplus.
        A: Negative.
        B: How a token enters the state; channel d belongs to group d // (D/G).
        C: How the state is read, in the same groups.
        D: Skip weight per channel; None means no skip.
        z: Gate; None means no gate.
        gate_activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        initial_state: The state before the first token; None means zeros.
        resets: True where a token begins a new sequence: it and its successors see nothing from before it.
        reverse: Scan from the last token to the first: h_t follows h_{t+1}, `initial_state` lies behind the last token,
            and the boundary between tokens t and t+1 is still resets[t+1]. The order of y stays that of u.
        backend: `auto`, `torch`, `native` or `mamba_ssm`.

    Returns:
        y in u's dtype, and the state after the last token (the first, if `reverse`) in float32 (float64 for float64
        inputs), the dtype in which everything is computed.

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, T, channels = u.shape
    N, G = A.shape[-1], B.shape[2]
    check_shapes(
        "selective_scan",
        {
            "dt": (dt, (batch, T, channels)),
            "A": (A, (channels, N)),
            "B": (B, (batch, T, G, N)),
            "C": (C, (batch, T, G, N)),
            "D": (D, (channels,)),
            "z": (z, (batch, T, channels)),
            "dt_bias": (dt_bias, (channels,)),
            "initial_state": (initial_state, (batch, channels, N)),
            "resets": (resets, (batch, T)),
        },
    )
    check_groups("selective_scan", "channels", channels, G)

    refusals = {"mamba_ssm": mamba_ssm.scan_refusal, "native": native.scan_refusal}
    taken = backends.pick("selective_scan", backend, u.device, refusals, u, dt, A, B, C, z, resets)
    if taken == "native":
        return native.selective_scan_native(
            u, dt, A, B, C, D, z, dt_bias, gate_activation, initial_state, resets, reverse
        )
    if reverse:
        u, dt, B, C, z, resets = flip_time(u, dt, B, C, z, resets)
    if taken == "mamba_ssm":
        y, state = mamba_ssm.selective_scan_kernel(u, dt, A, B, C, D, z, dt_bias, gate_activation, initial_state)
    else:
        y, state = selective_scan_plain(u, dt, A, B, C, D, z, dt_bias, gate_activation, initial_state, resets)
    return (y.flip(1) if reverse else y), state


def selective_state_update(
    state: Float[Tensor, "B D N"],
    u: Float[Tensor, "B D"],
    dt: Float[Tensor, "B D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    D: Float[Tensor, " D"] | None = None,
    z: Float[Tensor, "B D"] | None = None,
    dt_bias: Float[Tensor, " D"] | None = None,
    gate_activation: str = "silu",
    backend: str = "auto",
) -> Float[Tensor, "B D"]:
    """Scan one more token; `state` advances in place.

    Args:
        state: The state before this token, in the dtype that the arithmetic takes: float32, or float64.

    Returns:
        What `selective_scan` gives for this token, in u's dtype.

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, channels, N = state.shape
    G = B.shape[1]
    check_shapes(
        "selective_state_update",
        {
            "u": (u, (batch, channels)),
            "dt": (dt, (batch, channels)),
            "A": (A, (channels, N)),
            "B": (B, (batch, G, N)),
            "C": (C, (batch, G, N)),
            "D": (D, (channels,)),
            "z": (z, (batch, channels)),
            "dt_bias": (dt_bias, (channels,)),
        },
    )
    check_groups("selective_state_update", "channels", channels, G)

    refusals: dict[str, Callable[..., str | None]] = {
        "mamba_ssm": mamba_ssm.update_refusal,
        "native": native.update_refusal,
    }
    arguments = (state, u, dt, A, B, C, D, z, dt_bias)
    taken = backends.pick("selective_state_update", backend, u.device, refusals, *arguments)
    if taken == "native":
        return native.selective_state_update_native(*arguments, gate_activation)
    if taken == "mamba_ssm":
        return mamba_ssm.selective_state_update_kernel(*arguments, gate_activation)
    return selective_state_update_plain(*arguments, gate_activation)
