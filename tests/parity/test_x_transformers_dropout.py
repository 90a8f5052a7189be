"""What x-transformers drops in training, and what we drop, with the same draws: values and gradients."""

import pytest
import torch

from hybridgen.interop import x_transformers as interop
from tests.parity import test_x_transformers as parity

theirs = pytest.importorskip("x_transformers.x_transformers")
float64_softmax = parity.float64_softmax

DROPOUTS = {
    "embeddings": {"top": {"emb_dropout": 0.3}},
    "mlp": {"ff_dropout": 0.3},
    "gated-mlp": {"ff_dropout": 0.3, **parity.SWIGLU},
    "attention": {"attn_dropout": 0.3, **parity.SOFTCLAMP},
    "attention-sink-mqa": {"attn_dropout": 0.3, **parity.SINK, **parity.MQA},
    "attention-alibi-selective": {"attn_dropout": 0.3, **parity.ALIBI, **parity.SELECTIVE},
    "attention-residual": {"attn_dropout": 0.3, **parity.RESIDUAL, **parity.SELECTIVE, **parity.SOFTCLAMP},
    "per-layer": {"attn_dropout": [0.0, 0.3, 0.5], "ff_dropout": [0.5, 0.0, 0.1], **parity.SINK},
    "everything": {"attn_dropout": 0.2, "ff_dropout": 0.3, "top": {"emb_dropout": 0.1}, **parity.SINK},
}
DRAWS = {
    "first": [0.0, 0.9, 0.9, 0.9, 0.9, 0.9],
    "last": [0.9, 0.9, 0.9, 0.9, 0.9, 0.0],
    "some": [0.9, 0.0, 0.0, 0.9, 0.0, 0.9],
}
STACKS = {
    "pre": {},
    "postnorm": parity.POST,
    "sandwich": parity.SANDWICH,
    "values": parity.VALUES,
    "residual": parity.RESIDUAL,
}


def drop(x, p=0.5, training=True, inplace=False):
    """Dropout whose draws depend on the shape alone."""
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return x * (drawn >= p) / (1 - p) if training else x


def compare(options):
    config = parity.arguments(options)
    first = parity.upstream(config)
    ours = parity.load(first, config)
    for model in (first.train(), ours.train()):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # of a layer left out, too
    value, grads = parity.differences(first, ours, options)
    assert value < parity.EXACT
    assert max(grads.values()) < parity.EXACT
    assert interop.spec_document(interop.upstream_config(ours.spec)) == interop.spec_document(config)


@pytest.mark.parametrize("name", DROPOUTS)
def test_the_same_is_dropped(name, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda *given: calls.append(given) or drop(*given))
    compare(DROPOUTS[name])
    assert any(given[1] > 0 for given in calls)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("stack", STACKS)
def test_the_same_layers_are_left_out(stack, draw, monkeypatch):
    drawn = iter(DRAWS[draw])
    monkeypatch.setattr(theirs, "random", lambda: next(drawn))
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.tensor(DRAWS[draw]).view(shape))
    compare({**STACKS[stack], "layer_dropout": 0.5})
    assert next(drawn, None) is None
