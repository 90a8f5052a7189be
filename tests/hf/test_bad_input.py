"""Wrong calls of the classes of `hybridgen.hf` are refused with words, and change nothing."""

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.hf import HybridgenForCausalLM, wrap
from tests.helpers.hub_models import document, ids
from tests.hf.kinds import KINDS


def language_model() -> HybridgenForCausalLM:
    model = wrap(hg.build(hg.ModelSpec.model_validate(KINDS["hybrid2"]))).eval()
    assert isinstance(model, HybridgenForCausalLM)
    return model


def classifier(classes):
    parts = document(head={"type": "classifier", "num_classes": classes})
    return wrap(hg.build(hg.ModelSpec.model_validate(parts))).eval()


@pytest.mark.parametrize("name", ["input_ids", "inputs_embeds"])
def test_lists_are_no_tensors(name):
    with pytest.raises(ShapeError, match=f"{name} must be a tensor; given list: call torch.tensor"):
        language_model()(**{name: [[1, 2]]})


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 12), (12,), (2, 5)])
def test_labels_of_other_rows_are_refused_even_if_there_are_as_many(name, shape):
    with pytest.raises(ShapeError, match=r"labels must be of shape \(2, 6\); given \("):
        language_model()(torch.ones(2, 6, dtype=torch.int64), **{name: torch.ones(shape, dtype=torch.int64)})


def test_labels_are_tensors():
    with pytest.raises(ShapeError, match="labels must be a tensor; given list"):
        language_model()(torch.ones(1, 2, dtype=torch.int64), labels=[[1, 2]])


@pytest.mark.parametrize("position", [-7, 6])
def test_logits_are_kept_of_positions_that_are_there(position):
    tokens = torch.ones(1, 6, dtype=torch.int64)
    with pytest.raises(ShapeError, match=rf"logits_to_keep must be positions in -6 \.\.\. 5; given {position}"):
        language_model()(tokens, logits_to_keep=torch.tensor([0, position]))
    with pytest.raises(ShapeError, match="logits_to_keep must be a tensor; given str"):
        language_model()(tokens, logits_to_keep="x")


@pytest.mark.parametrize("rows", [0, -3, 2.5, "x", True])
def test_a_refused_size_of_the_vocabulary_changes_nothing(rows):
    model = language_model()
    tokens = torch.ones(1, 6, dtype=torch.int64)
    before = model(tokens).logits
    with pytest.raises(ShapeError, match="new_num_tokens must be an integer of at least 1; given"):
        model.resize_token_embeddings(rows)
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize(
    ("classes", "labels", "words"),
    [
        (3, torch.tensor([9, 0]), r"labels must be in 0 \.\.\. 2, or -100 for none; given 9"),
        (3, torch.tensor([-5, 0]), "given -5"),
        (3, torch.tensor([1]), r"integers of shape \(2,\) for single_label_classification"),
        (3, torch.ones(2, 3, dtype=torch.int64), "or set config.problem_type"),
        (3, torch.ones(2), r"of shape \(2, 3\) for multi_label_classification; given \(2,\)"),
        # Against logits (2, 1) one target would be taken for both rows.
        (1, torch.tensor([0.5]), r"of shape \(2, 1\) for regression; given \(1,\)"),
        (3, [1, 2], "labels must be a tensor; given list"),
    ],
)
def test_labels_of_classifiers_that_do_not_fit(classes, labels, words):
    model = classifier(classes)
    with pytest.raises(ShapeError, match=words):
        model(ids(), labels=labels)
    assert model.config.problem_type is None


def test_a_classifier_without_classes_has_no_loss():
    with pytest.raises(UnsupportedError, match="without classes has no loss; load it with num_labels"):
        classifier(0)(ids(), labels=torch.tensor([0, 1]))
