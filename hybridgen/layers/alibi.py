"""The slopes of ALiBi: how much a head's scores fall per token of distance."""


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Returns the slope of each head: 2^(-8/n), 2^(-16/n), ... of n heads, n a power of two.

    Of another number of heads, the first n, n being the greatest power of two below it, have these, and the rest every
    other one of 2n heads. Source: arXiv 2108.12409, section 3, and its authors' code.
    """
    near = 1 << (heads.bit_length() - 1)
    own = [2 ** (-8 * number / near) for number in range(1, near + 1)]
    between = [2 ** (-4 * number / near) for number in range(1, 2 * near + 1, 2)]
    return (*own, *between[: heads - near])
