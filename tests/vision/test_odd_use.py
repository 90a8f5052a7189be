"""What users of image models give by mistake is refused with words, and leaves the model as it was."""

import copy

import numpy as np
import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError, ShapeError, SpecError, UnsupportedError
from hybridgen.vision import create_model, interpolate_pos_embed, resize_model

# What the type checks of the tests would refuse first must be refused without them.
pytestmark = pytest.mark.usefixtures("no_shape_checks")

DOCUMENT = {
    "input": {"type": "patches", "image_size": 16, "patch_size": 4, "cls_token": "middle"},
    "backbone": {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4, "bidirectional": "v2"}},
    "head": {"type": "classifier", "num_classes": 3},
}
SEQUENCES = {
    "input": {"type": "tokens", "vocab_size": 8},
    "backbone": {"d_model": 16, "n_layer": 1, "ssm": {"type": "mamba1"}},
    "head": {"type": "lm"},
}


@pytest.fixture
def model():
    return create_model(DOCUMENT).eval()


def images(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "hidden",
    [None, torch.zeros(2, 17), torch.zeros(2, 17, 8), torch.zeros(2, 0, 16), torch.zeros(2, 17, 16, device="meta"),
     torch.zeros(2, 17, 16, dtype=torch.long)],
)  # fmt: skip
@pytest.mark.parametrize("pre_logits", [False, True])
def test_hidden_states_that_are_none(model, hidden, pre_logits):
    with pytest.raises(ShapeError, match="the input"):
        model.forward_head(hidden, pre_logits=pre_logits)


def test_sparse_images(model):
    with pytest.raises(ShapeError, match=r"dense tensor; given torch\.sparse_coo: .*to_dense"):
        model(images().to_sparse())


@pytest.mark.parametrize("layers", [None, 3, "0", ["0"], [1.0], [True], [None]])
def test_layers_that_are_no_numbers(model, layers):
    with pytest.raises(UnsupportedError, match="return_layers: "):
        model.forward_intermediates(images(), layers)


def test_layers_in_any_container(model):
    expected = model.forward_intermediates(images(), [0, -1])[1]
    for layers in ((0, 1), range(2), iter([0, 1]), np.array([0, -1]), torch.tensor([0, 1])):
        maps = model.forward_intermediates(images(), layers)[1]
        torch.testing.assert_close(maps, expected)


def test_classifier_that_cannot_be_made_leaves_the_old_one(model, monkeypatch):
    before, spec = model(images()), model.spec

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("hybridgen.model.vision.parameter_generator", fail)
    with pytest.raises(MemoryError):
        model.reset_classifier(7)
    assert model.spec is spec
    assert model.num_classes == 3
    torch.testing.assert_close(model(images()), before)


def test_compiled_models_are_resized(model):
    compiled = torch.compile(model, backend="eager")
    assert resize_model(compiled, 24).source.size() == (24, 24)


@pytest.mark.parametrize("upstream", [False, True])
def test_models_without_values_are_resized(upstream):
    resized = resize_model(create_model(DOCUMENT, device="meta"), (24, 16), upstream=upstream)
    assert resized(torch.zeros(1, 3, 24, 16, device="meta")).shape == (1, 3)


def test_resizing_other_models():
    with pytest.raises(HybridgenError, match=r"model of images.*has input: \{type: tokens\}"):
        resize_model(hg.build(hg.ModelSpec.model_validate(SEQUENCES)), 24)
    with pytest.raises(HybridgenError, match=r"model of hybridgen's.*given Linear"):
        resize_model(torch.nn.Linear(2, 2), 24)


def test_position_embeddings_of_another_model(model):
    old, new = model.source, resize_model(model, 24).source
    rows = model.pos_embed.detach()
    for wrong in (None, rows[0], rows[:, :5], rows.expand(2, -1, -1), rows[..., :0], rows.long(), rows.cfloat()):
        for target in (new, old):
            with pytest.raises(ShapeError, match=r"position embeddings.*must"):
                interpolate_pos_embed(wrong, old, target)
    with pytest.raises(HybridgenError, match=r"old must be .*model\.source; given VisionModel"):
        interpolate_pos_embed(rows, model, model)


def test_advice_is_not_refused_in_turn():
    with pytest.raises(SpecError) as caught:
        create_model(DOCUMENT, drop_path=1.0)
    assert "write 1" not in str(caught.value)
    assert "below 1; given 1.0" in str(caught.value)


def test_copies_run_alike(model):
    expected = model(images())
    copied = copy.deepcopy(model)
    copied.reset_classifier(5)
    assert copied(images()).shape == (2, 5)
    torch.testing.assert_close(model(images()), expected)
