"""Linear maps, also of the few rows that decoding gives them."""

from jaxtyping import Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.linear import native
from hybridgen.ops.linear.plain import linear_plain


def linear(
    x: Float[Tensor, "*batch K"],
    weight: Float[Tensor, "O K"],
    bias: Float[Tensor, " O"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*batch O"]:
    """Map the last axis: x weight^T + bias.

    Of few rows, as in decoding, the time is the reading of the weights. PyTorch's matrix product reads them at less
    than half of a CPU's bandwidth then; the native kernel reaches it. With `auto` and with any `use_backend` but
    `torch`, calls that are not of this kind, those that need a gradient among them, go to PyTorch.

    Args:
        weight: In x's dtype.
        bias: In x's dtype.
        backend: `auto`, `torch` or `native`.

    Returns:
        The result in x's dtype. The native kernel adds in float32, and a row's result does not depend on the others.

    Raises:
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    refusal = native.refusal(x, weight, bias)
    if backend == "auto" and refusal is not None:
        return linear_plain(x, weight, bias)
    if backends.pick("linear", backend, x.device, {"native": lambda: refusal}) == "native":
        return native.linear_native(x, weight, bias)
    return linear_plain(x, weight, bias)
