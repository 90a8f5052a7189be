"""ALiBi's slopes, for any number of heads."""

import pytest
import torch

from hybridgen.layers.alibi import alibi_slopes


def test_slopes_of_the_paper():
    assert alibi_slopes(8) == tuple(2.0**-power for power in range(1, 9))
    assert alibi_slopes(1) == (2.0**-8,)
    # Twelve heads, as in the authors' code: those of 8, and every other one of 16.
    assert alibi_slopes(12) == (*alibi_slopes(8), *alibi_slopes(16)[0:8:2])


@pytest.mark.parametrize("heads", range(1, 66))
def test_slopes_of_x_transformers(heads):
    bias = pytest.importorskip("x_transformers.x_transformers").AlibiPositionalBias
    assert torch.equal(torch.tensor(alibi_slopes(heads)), bias(heads).slopes.flatten())
