"""Classifiers of rows of tokens and of images: our logits, transformers' losses."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

import hybridgen as hg
from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.hf import (
    HybridgenConfig,
    HybridgenForImageClassification,
    HybridgenForSequenceClassification,
    wrap,
)
from tests.helpers.hub_models import document, ids, image_document


def classifier(pool="last", classes=4):
    return hg.build(
        hg.ModelSpec.model_validate(
            document(head={"type": "classifier", "num_classes": classes, "pool": pool}, pattern="M A N")
        )
    ).eval()


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_logits_are_those_of_our_model(pool):
    plain = classifier(pool)
    model = wrap(plain)
    assert type(model) is HybridgenForSequenceClassification
    assert torch.equal(model(ids()).logits, plain(ids()))
    embedded = model.get_input_embeddings()(ids())
    assert torch.equal(model(inputs_embeds=embedded).logits, plain(ids()))


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_no_part(pool, side):
    plain = classifier(pool)
    model = wrap(plain)
    rows = [ids(1, 9, seed=1), ids(1, 4, seed=2), ids(1, 1, seed=3)]
    batch = torch.full((3, 9), 7)
    mask = torch.zeros(3, 9, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(0, row.shape[1]) if side == "right" else slice(9 - row.shape[1], 9)
        batch[index, place], mask[index, place] = row[0], 1
    expected = torch.cat([plain(row) for row in rows])
    torch.testing.assert_close(model(batch, attention_mask=mask).logits, expected, rtol=1e-4, atol=1e-5)


def test_the_losses_are_transformers(recwarn):
    model = wrap(classifier())
    logits = model(ids()).logits
    classes = torch.tensor([1, 3])
    assert model(ids(), labels=classes).loss == functional.cross_entropy(logits, classes)
    assert model.config.problem_type == "single_label_classification"
    shares = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    several = wrap(classifier())
    expected = functional.binary_cross_entropy_with_logits(logits, shares)
    assert several(ids(), labels=shares).loss == expected
    assert several.config.problem_type == "multi_label_classification"
    one = wrap(classifier(classes=1))
    targets = torch.tensor([0.5, -1.0])
    expected = functional.mse_loss(one(ids()).logits.squeeze(), targets)
    assert one(ids(), labels=targets).loss == expected
    assert one.config.problem_type == "regression"
    one(ids(), labels=targets).loss.backward()
    assert all(value.grad is not None for value in one.parameters())


def test_what_a_classifier_has_no_use_for():
    model = wrap(classifier())
    with pytest.raises(UnsupportedError, match="takes no past_key_values"):
        model(ids(), past_key_values=object())
    assert model(ids(), use_cache=True).past_key_values is None
    hidden = model(ids(), output_hidden_states=True).hidden_states
    assert [one.shape for one in hidden] == [(2, 12, 32)] * 4


def test_a_bfloat16_classifier_runs_and_learns():
    model = wrap(classifier()).to(torch.bfloat16).train()
    loss = model(ids(), labels=torch.tensor([1, 3])).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("pool", ["mean", "cls", "max", "last"])
def test_images_are_read_as_our_model_reads_them(pool):
    parts = image_document(pool=pool)
    if pool == "cls":
        parts["input"]["cls_token"] = "middle"
    plain = hg.build(hg.ModelSpec.model_validate(parts)).eval()
    model = wrap(plain)
    assert type(model) is HybridgenForImageClassification
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = model(images, labels=torch.tensor([0, 4]), output_hidden_states=True)
    assert torch.equal(outputs.logits, plain(images))
    assert outputs.loss == functional.cross_entropy(outputs.logits, torch.tensor([0, 4]))
    assert len(outputs.hidden_states) == 3
    assert torch.equal(model(pixel_values=images).logits, outputs.logits)
    assert torch.equal(outputs.hidden_states[-1], plain.forward_features(images))


def test_wrong_images_are_refused_with_words():
    model = wrap(hg.build(hg.ModelSpec.model_validate(image_document())))
    with pytest.raises(ShapeError):
        model(torch.rand(2, 3, 9, 8))
    with pytest.raises(ShapeError):
        model(torch.rand(3, 8, 8))


def test_classes_of_the_wrong_kind_are_refused():
    with pytest.raises(UnsupportedError, match="reads images"):
        HybridgenForSequenceClassification(HybridgenConfig(spec=image_document()))
    with pytest.raises(UnsupportedError, match="reads no images"):
        HybridgenForImageClassification(HybridgenConfig(spec=document()))


def test_dropout_of_images_follows_train_and_eval():
    parts = image_document()
    parts["backbone"] = parts["backbone"] | {"drop_path": 0.5}
    model = wrap(hg.build(hg.ModelSpec.model_validate(parts)))
    images = torch.rand(4, 3, 8, 8)
    torch.manual_seed(0)
    assert not torch.equal(model.train()(images).logits, model(images).logits)
    assert torch.equal(model.eval()(images).logits, model(images).logits)


@pytest.mark.parametrize("images", [False, True])
def test_without_classes_the_logits_are_pooled_states_until_labels_are_asked_for(tmp_path, images):
    parts = image_document(num_classes=0) if images else document(head={"type": "classifier", "num_classes": 0})
    plain = hg.build(hg.ModelSpec.model_validate(parts)).eval()
    given = torch.rand(2, 3, 8, 8) if images else ids()
    model = wrap(plain)
    assert model.config.num_labels == HybridgenConfig(spec=parts).num_labels == 0
    assert torch.equal(model(given).logits, plain(given))
    model.save_pretrained(tmp_path)
    auto = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    assert torch.equal(auto.from_pretrained(tmp_path)(given).logits, plain(given))
    assert torch.equal(hg.load(tmp_path)(given), plain(given))
    three, info = auto.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert info["missing_keys"] == {"head.weight", "head.bias"}
    assert three(given, labels=torch.tensor([0, 2])).logits.shape == (2, 3)
    assert three.config.num_labels == three.spec.head.num_classes == 3


def test_attention_of_images_goes_by_the_interface():
    model = wrap(
        hg.build(hg.ModelSpec.model_validate(image_document())),
    ).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    assert expected.attentions is None
    with pytest.raises(UnsupportedError, match="needs attn_implementation='eager'"):
        model(images, output_attentions=True)
    model.set_attn_implementation("eager")
    found = model(images, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert [tuple(one.shape) for one in found.attentions] == [(2, 4, 4, 4)]
    torch.testing.assert_close(found.attentions[0].sum(dim=-1), torch.ones(2, 4, 4))
    assert len(found.hidden_states) == 3
    assert model.get_input_embeddings() is model.patch_embed


def test_layers_in_pairs_have_one_stream_a_pair():
    backbone = {"d_model": 32, "n_layer": 4, "ssm": {"type": "mamba1", "d_state": 4}, "bidirectional": "layers"}
    tokens = {"type": "tokens", "vocab_size": 50}
    model = wrap(hg.build(hg.ModelSpec.model_validate({"backbone": backbone, "input": tokens}))).eval()
    found = model(ids(), use_cache=False, output_hidden_states=True).hidden_states
    assert len(found) == 3
    torch.testing.assert_close(found[0], model.get_input_embeddings()(ids()))
    assert torch.equal(found[-1], model(ids(), use_cache=False).last_hidden_state)
