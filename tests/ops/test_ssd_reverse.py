"""SSD from the last token to the first: the token-by-token reference on sequences flipped one by one."""

import pytest
import torch

from hybridgen.ops.reverse import flipped_resets
from hybridgen.ops.ssd import ssd_scan
from hybridgen.ops.ssd.reference import ssd_scan_reference
from tests.helpers.tolerances import assert_close

H, P, G, N = 4, 3, 2, 5


def inputs(length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    sequences = {"x": normal(2, length, H, P), "dt": normal(2, length, H)}
    sequences |= {"B": normal(2, length, G, N), "C": normal(2, length, G, N)}
    return sequences, {"A": -normal(H).exp(), "D": normal(H, P), "dt_bias": normal(H)}


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("length", [0, 1, 2, 65])
def test_reverse_is_the_scan_of_flipped_tokens(length, backend):
    sequences, weights = inputs(length)
    initial = torch.randn(2, H, P, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, state = ssd_scan(**sequences, **weights, initial_state=initial, reverse=True, backend=backend)
    flipped = {name: tensor.flip(1) for name, tensor in sequences.items()}
    expected, expected_state = ssd_scan_reference(**flipped, **weights, initial_state=initial)
    assert_close(y, expected.flip(1))
    assert_close(state, expected_state)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_reverse_keeps_packed_sequences_apart(backend):
    sequences, weights = inputs(40)
    layout = ((5, 1, 33, 1), (17, 20, 2, 1))
    resets = torch.zeros(2, 40, dtype=torch.bool)
    expected = torch.empty(2, 40, H, P, dtype=torch.float64)
    for row, lengths in enumerate(layout):
        begin = 0
        for length in lengths:
            part = {n: t[row : row + 1, begin : begin + length].flip(1) for n, t in sequences.items()}
            expected[row, begin : begin + length] = ssd_scan_reference(**part, **weights)[0][0].flip(0)
            resets[row, begin] = begin > 0
            begin += length
    y, _ = ssd_scan(**sequences, **weights, resets=resets, reverse=True, backend=backend)
    assert_close(y, expected)


def test_flipped_resets_by_hand():
    assert flipped_resets(None) is None
    resets = torch.tensor([[True, False, False, True, True]])
    assert flipped_resets(resets).tolist() == [[False, True, True, False, False]]
    assert flipped_resets(resets[:, :0]).shape == (1, 0)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_gradients(backend):
    sequences, weights = inputs(6)
    tensors = {name: tensor.requires_grad_() for name, tensor in (sequences | weights).items()}

    def call(*values):
        return ssd_scan(**dict(zip(tensors, values, strict=True)), reverse=True, backend=backend)

    assert torch.autograd.gradcheck(call, tuple(tensors.values()), fast_mode=True)
