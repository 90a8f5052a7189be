"""Wrong calls of the classes of `hybridgen.hf` are refused with words, and change nothing."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hybridgen as hg
from hybridgen import hf
from hybridgen.errors import CheckpointError, HybridgenError, ShapeError, SpecError, UnsupportedError
from hybridgen.hf import HybridgenForCausalLM, wrap
from hybridgen.ops.linear_cross_entropy import linear_cross_entropy
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


@pytest.mark.parametrize("count", [-1, True])
def test_a_number_of_logits_is_no_less_than_none(count):
    with pytest.raises(
        ShapeError, match=f"logits_to_keep must be a number of last positions, 0 for all; given {count}"
    ):
        language_model()(torch.ones(1, 6, dtype=torch.int64), logits_to_keep=count)


@pytest.mark.parametrize("places", [torch.tensor(1), torch.ones(1, 1, dtype=torch.int64), torch.ones(2)])
def test_logits_are_kept_of_a_list_of_positions(places):
    with pytest.raises(ShapeError, match=r"logits_to_keep must be positions \(n,\), integers; given"):
        language_model()(torch.ones(1, 6, dtype=torch.int64), logits_to_keep=places)


def test_labels_and_what_they_ignore_are_integers():
    tokens = torch.ones(1, 6, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"labels must be integers, .*; given torch.uint8"):
        language_model()(tokens, labels=tokens.to(torch.uint8))
    with pytest.raises(ShapeError, match="ignore_index must be an integer; given None"):
        language_model()(tokens, labels=tokens, ignore_index=None)


@pytest.mark.parametrize("multiple", [0, -8])
def test_a_table_is_padded_to_a_number_of_rows(multiple):
    with pytest.raises(ShapeError, match="pad_to_multiple_of must be an integer of at least 1; given"):
        language_model().resize_token_embeddings(60, pad_to_multiple_of=multiple)


@pytest.mark.parametrize("config", [None, {}, transformers.LlamaConfig(num_hidden_layers=1)])
@pytest.mark.parametrize("name", ["CausalLM", "SequenceClassification", "ImageClassification", "Model"])
def test_classes_take_our_configuration(name, config):
    kind = getattr(hf, "HybridgenModel" if name == "Model" else f"HybridgenFor{name}")
    with pytest.raises(HybridgenError, match="takes a HybridgenConfig; given"):
        kind(config)


@pytest.fixture
def saved(tmp_path):
    hg.save(language_model(), tmp_path, format="hf")
    return tmp_path


def changed(directory, **fields):
    """Rewrites config.json."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


@pytest.mark.parametrize("spec", [None, "gone"])
def test_a_directory_without_a_spec_is_no_model(saved, spec):
    changed(saved, spec=spec)
    with pytest.raises(SpecError, match="holds its spec, and this one holds none; save the model again"):
        HybridgenForCausalLM.from_pretrained(saved)
    with pytest.raises(HybridgenError):
        hg.load(saved)


def test_ties_beside_the_spec_are_refused(saved):
    with pytest.raises(UnsupportedError, match="tie_word_embeddings stands in the spec, as True"):
        HybridgenForCausalLM.from_pretrained(saved, tie_word_embeddings=False)
    changed(saved, tie_word_embeddings=False)
    with pytest.raises(UnsupportedError, match=r"set config\.tie_word_embeddings, and give lm_head a weight"):
        HybridgenForCausalLM.from_pretrained(saved)


@pytest.mark.parametrize("field", ["resolved", "_resolved", "to_dict"])
def test_no_field_of_config_json_takes_the_place_of_a_method(saved, field):
    changed(saved, **{field: 5})
    with pytest.raises(UnsupportedError, match=f"{field} is no field of a configuration"):
        HybridgenForCausalLM.from_pretrained(saved)


def test_a_field_called_format_is_somebodys_own(saved):
    changed(saved, format="x")
    tokens = torch.ones(1, 6, dtype=torch.int64)
    assert torch.equal(hg.load(saved).eval()(tokens), HybridgenForCausalLM.from_pretrained(saved).eval()(tokens).logits)
    changed(saved, format="hybridgen")
    with pytest.raises(CheckpointError, match="if it is of Hugging Face's format, remove its field `format`"):
        hg.load(saved)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_of_the_users_is_not_overwritten(tmp_path, is_link):
    directory, own = tmp_path / "out", tmp_path / "own.py"
    directory.mkdir()
    path = directory / "modeling_hybridgen.py"
    if is_link:
        own.write_text("mine")
        path.symlink_to(own)
    else:
        path.write_text("mine")
    with pytest.raises(CheckpointError, match=r"modeling_hybridgen\.py: not written by hybridgen; move it"):
        language_model().save_pretrained(directory)
    assert path.read_text() == "mine"


def test_one_weight_is_stored_once_and_in_one_dtype(saved):
    file = saved / "model.safetensors"
    weights = load_file(file)
    name = "backbone.layers.0.mixer.in_proj.weight"
    save_file(weights | {name.removeprefix("backbone."): weights[name] / 2}, file)
    with pytest.raises(CheckpointError, match=f"layers.0.mixer.in_proj.weight are both {name}; remove one of them"):
        hg.load(saved)
    save_file(weights | {name: weights[name].double()}, file)
    words = r"stored in several formats, float32 and float64; give a dtype \(--dtype\) to turn them into one"
    with pytest.raises(CheckpointError, match=words):
        hg.load(saved)
    assert hg.load(saved, dtype="float32").get_parameter(name).dtype == torch.float32


@pytest.mark.parametrize("name", [5, None, b"x", "a\0b", "x" * 5000])
def test_directories_have_names(name):
    with pytest.raises(CheckpointError):
        hg.load(name)
    with pytest.raises(CheckpointError):
        hg.save(language_model(), name)


@pytest.mark.parametrize("model", [5, None, "x"])
def test_base_models_are_of_models(model):
    with pytest.raises(HybridgenError, match="base_model takes a model"):
        hg.base_model(model)


@pytest.mark.parametrize("name", ["weight", "labels", "bias"])
def test_a_loss_is_of_tensors_on_one_device(name):
    given = {"weight": torch.ones(3, 4), "labels": torch.ones(2, dtype=torch.int64), "bias": torch.ones(3)}
    given[name] = given[name].to("meta")
    with pytest.raises(ShapeError, match=f"{name} is on meta, and hidden on cpu"):
        linear_cross_entropy(torch.ones(2, 4), **given)


def test_a_loss_is_of_tensors():
    with pytest.raises(ShapeError, match="weight must be a tensor, but is list"):
        linear_cross_entropy(torch.ones(2, 4), [[1.0]], torch.ones(2, dtype=torch.int64))
