"""Causal depthwise convolution over time, with a carried state and packed sequences."""

from jaxtyping import Bool, Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.causal_conv1d import mamba_ssm, native
from hybridgen.ops.causal_conv1d.plain import causal_conv1d_plain, causal_conv1d_update_plain
from hybridgen.ops.reverse import flipped_resets
from hybridgen.ops.shapes import check_shapes


def causal_conv1d(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C K"],
    bias: Float[Tensor, " C"] | None,
    activation: str,
    initial_state: Float[Tensor, "B C K-1"] | None = None,
    resets: Bool[Tensor, "B T"] | None = None,
    backend: str = "auto",
    reverse: bool = False,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B C K-1"]]:
    """Convolve each channel with its own K taps over the present and the K-1 past tokens.

    y_t = activation(bias + sum_k weight[:, k] x_{t-(K-1)+k}). Source: Mamba, 2312.00752, figure 3 ("Conv").

    Args:
        weight: Tap K-1 meets the present token. Any K from 1.
        activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        initial_state: The K-1 inputs before the first token; None means zeros.
        resets: True where a token begins a new sequence: it and its successors see nothing from before it.
        backend: `auto`, `torch`, `native` or `mamba_ssm` (the kernel of causal-conv1d).
        reverse: Convolve from the last token to the first, as if x were flipped before and y after: y_t sees
            x_t .. x_{t+K-1}. Sequences still begin at `resets`; both states hold their inputs in the flipped order.

    Returns:
        The outputs and the final state: the last K-1 inputs of each row's last sequence, zeros before its start.
        Both in x's dtype.

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, T, C = x.shape
    K = weight.shape[-1]
    check_shapes(
        "causal_conv1d",
        {
            "weight": (weight, (C, K)),
            "bias": (bias, (C,)),
            "initial_state": (initial_state, (batch, C, K - 1)),
            "resets": (resets, (batch, T)),
        },
    )

    arguments = (x, weight, bias, activation, initial_state, resets)
    name = backends.pick(
        "causal_conv1d",
        backend,
        x.device,
        {"native": native.scan_refusal, "mamba_ssm": mamba_ssm.scan_refusal},
        *arguments,
    )
    if name == "native":
        return native.causal_conv1d_native(*arguments, reverse)
    run = mamba_ssm.causal_conv1d_kernel if name == "mamba_ssm" else causal_conv1d_plain
    if not reverse:
        return run(*arguments)
    y, state = run(x.flip(1), weight, bias, activation, initial_state, flipped_resets(resets))
    return y.flip(1), state


def causal_conv1d_update(
    x: Float[Tensor, "B C"],
    state: Float[Tensor, "B C S"],
    weight: Float[Tensor, "C K"],
    bias: Float[Tensor, " C"] | None,
    activation: str,
    backend: str = "auto",
) -> Float[Tensor, "B C"]:
    """Convolve one more token; `state` advances in place.

    Args:
        state: The K-1 inputs before this token.
        backend: `auto`, `torch`, `native` or `mamba_ssm`, as for `causal_conv1d`.

    Returns:
        What `causal_conv1d` gives for this token, in x's dtype.

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    batch, C = x.shape
    K = weight.shape[-1]
    check_shapes(
        "causal_conv1d_update",
        {"state": (state, (batch, C, K - 1)), "weight": (weight, (C, K)), "bias": (bias, (C,))},
    )

    arguments = (x, state, weight, bias, activation)
    name = backends.pick(
        "causal_conv1d_update",
        backend,
        x.device,
        {"native": native.update_refusal, "mamba_ssm": mamba_ssm.update_refusal},
        *arguments,
    )
    if name == "native":
        return native.causal_conv1d_update_native(*arguments)
    if name == "mamba_ssm":
        return mamba_ssm.causal_conv1d_update_kernel(*arguments)
    return causal_conv1d_update_plain(*arguments)
