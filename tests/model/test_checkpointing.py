"""Layers that are computed again: the same numbers, less memory."""

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError, UnsupportedError
from tests.helpers.memory import training_peak

BOTH = {"attn_layer_idx": [1, 3], "attn": {"num_heads": 4, "rotary_emb_dim": 16}, "attn_mlp_d_intermediate": 128}
STACKS = {
    "hybrid": {"ssm": {"type": "mamba2", "headdim": 16}, **BOTH},
    "mamba1": {"ssm": {"type": "mamba1"}},
    "vim, pairs of layers": {"ssm": {"type": "mamba1"}, "bidirectional": "layers"},
    "selective": {**BOTH, "attn_selective": True, "ssm": {"type": "mamba1"}},
    "residual attention": {"attn_layer_idx": "all", "attn": {"num_heads": 4}, "residual_attn": True},
    "values": {"attn_layer_idx": "all", "attn": {"num_heads": 4}, "value_residual": "learned"},
    "dropout": {"attn_layer_idx": "all", "attn": {"num_heads": 4, "dropout": 0.2}, "drop_path": 0.3},
}


def model_of(backbone):
    """A model of four small layers, in training."""
    spec = {"d_model": 64, "n_layer": 4, **backbone}
    return hg.build(hg.ModelSpec.model_validate({"backbone": spec})).train()


def gradients(model, x):
    """The output, and the gradients of everything, of one step with the same random numbers."""
    torch.manual_seed(3)
    model.zero_grad()
    inputs = x.clone().requires_grad_()
    y = model(inputs)
    y.square().sum().backward()
    return [y.detach(), inputs.grad, *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("stack", STACKS)
def test_gradients_are_the_same(stack, kind):
    """Bit for bit where the same operations run twice; residual attention changes to its form without tables."""
    model, x = model_of(STACKS[stack]), torch.randn(2, 70, 64)
    if stack == "residual attention":
        hg.checkpoint_layers(model, "full")  # products, as below
        for mixer in model.modules():
            mixer.runs_again = True
        model.backbone.run_layer = None
    expected = gradients(model, x)
    hg.checkpoint_layers(model, kind)
    for found, wanted in zip(gradients(model, x), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_table_of_scores_and_products_agree():
    """Residual attention that is computed again gives what its table gives, up to rounding."""
    model, x = model_of(STACKS["residual attention"]), torch.randn(2, 70, 64)
    expected = gradients(model, x)
    hg.checkpoint_layers(model, "full")
    for found, wanted in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_memory_is_saved():
    """Full checkpointing keeps least, selective less than none."""
    spec = {"d_model": 128, "n_layer": 8, "ssm": {"type": "mamba1"}}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": spec}))
    peaks = {}
    for kind in ("none", "selective", "full"):
        hg.checkpoint_layers(model, kind)
        peaks[kind] = training_peak(model, 1, 512)
    assert peaks["selective"] < 0.85 * peaks["none"]
    assert peaks["full"] < 0.5 * peaks["none"]


def test_inference_and_states_are_as_ever():
    """Without gradients, or with a state, nothing is computed twice."""
    model = model_of(STACKS["hybrid"])
    calls = []
    hg.checkpoint_layers(model, "full")
    run = model.backbone.run_layer
    model.backbone.run_layer = lambda *arguments: calls.append(0) or run(*arguments)
    x = torch.randn(1, 5, 64)
    model(x, model.init_state(1, 8))
    with torch.no_grad():
        model(x)
    assert not calls
    model(x)
    assert len(calls) == 4
    hg.checkpoint_layers(model, "none")
    assert model.backbone.run_layer is None


def test_what_cannot_be_is_refused(no_shape_checks):
    """An unknown kind, and a table that layers share."""
    model = model_of({**STACKS["residual attention"], "residual_attn": {"training": "table"}})
    with pytest.raises(HybridgenError, match="none, selective, full; given 'some'"):
        hg.checkpoint_layers(model, "some")
    with pytest.raises(UnsupportedError, match="training: products"):
        hg.checkpoint_layers(model, "full")
    with pytest.raises(HybridgenError, match="Linear"):
        hg.checkpoint_layers(torch.nn.Linear(2, 2), "full")
