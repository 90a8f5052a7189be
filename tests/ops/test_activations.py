"""The activation table and the gated activation."""

import pytest
import torch

from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.gated_activation.reference import FORMULAS, gated_activation_reference
from hybridgen.spec.activations import ACTIVATION_NAMES
from tests.helpers.tolerances import assert_close


def test_every_name_of_a_document_has_a_function_and_a_formula():
    assert set(ACTIVATIONS) == set(FORMULAS) == set(ACTIVATION_NAMES)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_gated_activation_matches_reference(name, dtype, grad):
    value = torch.linspace(-2, 3, 63).roll(7).to(dtype)
    gate = torch.linspace(-25, 25, 63).to(dtype)
    before = gate.clone()
    with torch.set_grad_enabled(grad):
        result = gated_activation(value, gate, name)
    assert result.dtype == dtype
    assert torch.equal(gate, before)
    assert_close(result, gated_activation_reference(value, gate, name))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gated_activation_gradcheck(name):
    value, gate = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = (value.requires_grad_(), (gate + 0.01).requires_grad_())
    assert torch.autograd.gradcheck(lambda v, g: gated_activation(v, g, name), inputs)
