"""Mamba-2's state-space recurrence: over a whole sequence, and one token at a time."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from hybridgen.errors import ShapeError
from hybridgen.ops import backends
from hybridgen.ops.reverse import flipped_resets
from hybridgen.ops.shapes import check_groups, check_shapes
from hybridgen.ops.ssd import mamba_ssm, native
from hybridgen.ops.ssd.chunked import ssd_scan_plain, ssd_update_plain

_SCANS = {"torch": ssd_scan_plain, "native": native.ssd_scan_native, "mamba_ssm": mamba_ssm.ssd_scan_kernel}
_UPDATES = {"torch": ssd_update_plain, "native": native.ssd_update_native, "mamba_ssm": mamba_ssm.ssd_update_kernel}


def ssd_scan(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    D: Float[Tensor, "*skip"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_limit: tuple[float, float | None] = (0.0, None),
    chunk_size: int = 256,
    initial_state: Float[Tensor, "B H P N"] | None = None,
    resets: Bool[Tensor, "B T"] | None = None,
    backend: str = "auto",
    reverse: bool = False,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Run a state-space recurrence with one decay per head and a (P, N) state per head.

    dt = clamp(softplus(dt + dt_bias), dt_limit); h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T; y_t = h_t C_t + D x_t.
    Source: Mamba-2, 2405.21060, equation 1 with scalar A, computed in the chunked form of section 6.

    Args:
        dt: Step sizes before the bias and the softplus.
        A: Negative.
        B: How a token enters the state; head h belongs to group h // (H/G).
        C: How the state is read, in the same groups.
        D: Skip weight per head, (H), or per channel, (H, P); None means no skip.
        dt_limit: Lowest and highest step size; None means no highest.
        chunk_size: Tokens per chunk, at most; `torch` takes at most 64, `native` 16. It changes speed, not values.
        initial_state: The state before the first token; None means zeros.
        resets: True where a token begins a new sequence: it and its successors see nothing from before it.
        backend: `auto`, `torch`, `native` or `mamba_ssm`.
        reverse: Scan from the last token to the first, as if x, dt, B and C were flipped before and y after:
            `initial_state` lies behind the last token, and the boundary between tokens t and t+1 is still resets[t+1].

    Returns:
        y in x's dtype, and the state after the last token (the first, if `reverse`) in float32 (float64 for float64
        inputs), the dtype in which everything is computed. The values of packed sequences must be finite.

    Raises:
        ShapeError: The tensors do not fit each other, or `chunk_size` is below 1.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    check_shapes(
        "ssd_scan",
        {
            "dt": (dt, (batch, T, H)),
            "A": (A, (H,)),
            "B": (B, (batch, T, G, N)),
            "C": (C, (batch, T, G, N)),
            "D": (D, (H, P) if D is not None and D.dim() == 2 else (H,)),
            "dt_bias": (dt_bias, (H,)),
            "initial_state": (initial_state, (batch, H, P, N)),
            "resets": (resets, (batch, T)),
        },
    )
    check_groups("ssd_scan", "heads", H, G)
    if chunk_size < 1:
        raise ShapeError(f"ssd_scan: chunk_size must be at least 1, but is {chunk_size}")

    refusals = {"native": native.scan_refusal, "mamba_ssm": mamba_ssm.scan_refusal}
    scan = _SCANS[backends.pick("ssd_scan", backend, x.device, refusals, x, dt, B, C)]
    if not reverse:
        return scan(x, dt, A, B, C, D, dt_bias, dt_limit, chunk_size, initial_state, resets)
    flipped = (x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1))
    y, state = scan(*flipped, D, dt_bias, dt_limit, chunk_size, initial_state, flipped_resets(resets))
    return y.flip(1), state


def ssd_update(
    state: Float[Tensor, "B H P N"],
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    D: Float[Tensor, "*skip"] | None = None,
    dt_bias: Float[Tensor, " H"] | None = None,
    dt_limit: tuple[float, float | None] = (0.0, None),
    backend: str = "auto",
) -> Float[Tensor, "B H P"]:
    """Scan one more token; `state` advances in place.

    Args:
        state: The state before this token, in the dtype that the arithmetic takes: float32, or float64.

    Returns:
        What `ssd_scan` gives for this token, in x's dtype.

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, H, P, N = state.shape
    G = B.shape[1]
    check_shapes(
        "ssd_update",
        {
            "x": (x, (batch, H, P)),
            "dt": (dt, (batch, H)),
            "A": (A, (H,)),
            "B": (B, (batch, G, N)),
            "C": (C, (batch, G, N)),
            "D": (D, (H, P) if D is not None and D.dim() == 2 else (H,)),
            "dt_bias": (dt_bias, (H,)),
        },
    )
    check_groups("ssd_update", "heads", H, G)

    refusals: dict[str, Callable[..., str | None]]
    refusals = {"native": native.update_refusal, "mamba_ssm": mamba_ssm.update_refusal}
    update = _UPDATES[backends.pick("ssd_update", backend, x.device, refusals, state, x, dt, A, B, C, D, dt_bias)]
    return update(state, x, dt, A, B, C, D, dt_bias, dt_limit)
