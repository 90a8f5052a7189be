"""Gradient checkpointing by transformers' switches: the same gradients from fewer saved tensors."""

import pytest
import torch
from transformers import AutoModelForImageClassification

import hybridgen as hg
from hybridgen.errors import UnsupportedError
from hybridgen.hf import HybridgenConfig, wrap
from tests.helpers.hub_models import BLOCKS, document, ids, image_document, language_model


def fresh(**parts):
    return wrap(language_model(**parts)).train()


def step(model, tokens=None):
    """Loss, gradients by name, and the bytes that autograd kept."""
    tokens = ids(2, 24) if tokens is None else tokens
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(tokens, labels=tokens).loss
    saved = sum(kept.values())
    loss.backward()
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, saved


def assert_same_gradients(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("every", [1, 2])
def test_gradients_are_the_same_and_less_is_kept(reentrant, every):
    model = fresh(pattern="M A N M")
    loss, expected, before = step(model)
    model.activation_checkpointing_enable({"use_reentrant": reentrant}, every_n_layers=every)
    assert model.is_activation_checkpointing
    assert [layer.gradient_checkpointing for layer in model.backbone.layers] == [
        index % every == 0 for index in range(4)
    ]
    again, found, after = step(model)
    torch.testing.assert_close(again, loss)
    assert_same_gradients(found, expected)
    assert after < before * (0.5 if every == 1 else 0.8)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    assert step(model)[2] == before


def test_the_deprecated_name_works():
    model = fresh()
    _, expected, before = step(model)
    with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
        model.gradient_checkpointing_enable()
    _, found, after = step(model)
    assert_same_gradients(found, expected)
    assert after < before
    with pytest.warns(FutureWarning):
        model.gradient_checkpointing_disable()
    assert step(model)[2] == before


def test_dropout_is_drawn_as_without():
    blocks = {"x": {"mixer": BLOCKS["A"]["mixer"] | {"dropout": 0.3}, "mlp": {"d_intermediate": 48, "dropout": 0.3}}}
    model = fresh(backbone={"d_model": 32, "blocks": blocks, "pattern": "x x", "drop_path": 0.2})
    torch.manual_seed(4)
    _, expected, _ = step(model)
    model.activation_checkpointing_enable()
    torch.manual_seed(4)
    assert_same_gradients(step(model)[1], expected)


def _residual(training):
    return {
        "d_model": 32,
        "blocks": {"A": BLOCKS["A"]},
        "pattern": "A A A",
        "residual_attn": {"training": training},
    }


def test_residual_attention_needs_products():
    with pytest.raises(UnsupportedError, match=r"residual_attn: \{training: products\}"):
        fresh(backbone=_residual("table")).activation_checkpointing_enable()
    model = fresh(backbone=_residual("products"))
    _, expected, _ = step(model)
    model.activation_checkpointing_enable()
    assert_same_gradients(step(model)[1], expected)
    model.activation_checkpointing_disable()
    assert_same_gradients(step(model)[1], expected)


def test_frozen_embeddings_with_reentrant_checkpoints_still_train_the_layers():
    model = fresh(head={"type": "lm", "tie_embeddings": False})
    model.get_input_embeddings().requires_grad_(False)
    _, expected, _ = step(model)
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    assert_same_gradients(step(model)[1], expected)


def test_images_and_hidden_states():
    plain = hg.build(hg.ModelSpec.model_validate(image_document()))
    model = wrap(plain).train()
    assert type(model) is AutoModelForImageClassification._model_mapping[HybridgenConfig]
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([1, 3])
    model(images, labels=labels).loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(images, labels=labels).loss.backward()
    assert_same_gradients({name: value.grad for name, value in model.named_parameters()}, expected)
    bare = wrap(hg.build(hg.ModelSpec.model_validate(document(input={"type": "hidden"}, head={"type": "none"}))))
    bare.train().activation_checkpointing_enable()
    bare(inputs_embeds=torch.randn(1, 5, 32)).last_hidden_state.sum().backward()
    assert bare.layers[0].mixer.in_proj.weight.grad is not None


def test_a_cache_and_evaluation_go_past_it():
    model = fresh().eval()
    expected = model(ids()).logits
    model.activation_checkpointing_enable()
    assert torch.equal(model(ids()).logits, expected)
    outputs = model(ids()[:, :5], use_cache=True)
    more = model(ids()[:, 5:], past_key_values=outputs.past_key_values)
    torch.testing.assert_close(more.logits, expected[:, 5:], rtol=1e-4, atol=1e-5)
