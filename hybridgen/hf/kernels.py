"""Which of our layers `use_kernels=True` may replace with kernels from the Hub."""

from torch import nn

from hybridgen.layers.norms import QueryKeyNorm


def offer_kernels() -> None:
    """Gives the norms of queries and keys the name by which the package `kernels` finds what computes them.

    These attributes are what its decorator sets, without its import. `docs/huggingface.md` says why other layers have
    no such name.
    """
    QueryKeyNorm.kernel_layer_name = "RMSNorm"  # type: ignore[attr-defined]
    QueryKeyNorm.kernel_condition = staticmethod(_is_plain)  # type: ignore[attr-defined]


def _is_plain(module: nn.Module) -> bool:
    """Whether a norm is `x / rms(x) * weight`, all that those kernels compute."""
    assert isinstance(module, QueryKeyNorm), "named by `offer_kernels` alone"
    return module.kind == "rms" and module.bias is None and not module.offset
