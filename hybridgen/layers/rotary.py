"""Rotary position embedding in both channel layouts. Source: arXiv 2104.09864, equation 34."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_frequencies(dim: int, base: float, device: torch.device | None = None) -> Float[Tensor, " half"]:
    """Returns `base^(-2i/dim)` for i < dim/2, rounded to float32 step by step.

    This is how other systems compute them, for models of any dtype; at positions in the thousands a last digit shows.
    """
    return 1.0 / (base ** (torch.arange(0, dim, 2, device=device).float() / dim))


def rotary_table(
    positions: Int[Tensor, "R T"], dim: int, base: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "R T half"], Float[Tensor, "R T half"]]:
    """Returns the cosines and sines of `position * base^(-2i/dim)` for i < dim/2.

    Args:
        positions: Position of each token in its own sequence, one row for all (R = 1) or one per batch row.
        dim: Rotated channels, even.
        base: Base of the frequencies.
        dtype: float32, or float64 for models in float64.
    """
    angles = positions.to(dtype)[..., None] * rotary_frequencies(dim, base, positions.device).to(dtype)
    return angles.cos(), angles.sin()


def apply_rotary(
    x: Float[Tensor, "B T H P"],
    cos: Float[Tensor, "R T half"],
    sin: Float[Tensor, "R T half"],
    interleaved: bool,
) -> Float[Tensor, "B T H P"]:
    """Rotates the first 2*half channels of each head; the others pass through.

    Args:
        interleaved: Pairs are channels (2i, 2i+1) when true, (i, i + half) when false.
    Returns:
        The rotated heads in x's dtype; the products are formed in the table's dtype.
    """
    rotated, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    cos, sin = cos[:, :, None], sin[:, :, None]
    pair_axis = -1 if interleaved else -2
    pairs = rotated.to(cos.dtype).unflatten(-1, (-1, 2) if interleaved else (2, -1))
    first, second = pairs.unbind(pair_axis)
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=pair_axis)
    return torch.cat((turned.flatten(-2).to(x.dtype), rest), dim=-1)
