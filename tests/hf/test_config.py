"""The configuration: a spec, what is read off it, and what transformers does with configurations."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from transformers import AutoConfig

import hybridgen as hg
from hybridgen.errors import SpecError, UnsupportedError
from hybridgen.hf import HybridgenConfig
from tests.helpers.hub_models import document, image_document, spec_of

SHIPPED = sorted((Path(__file__).parents[2] / "configs/model").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_makes_a_configuration_that_transformers_accepts(path):
    spec = hg.load_spec(path)
    config = HybridgenConfig.from_spec(spec)
    config.validate_layer_type()
    assert len(config.layer_types) == config.num_hidden_layers == len(spec.backbone.layers)
    assert HybridgenConfig.from_dict(json.loads(config.to_json_string())).resolved() == spec


def test_json_round_trip_keeps_everything(tmp_path):
    config = HybridgenConfig.from_spec(spec_of(), eos_token_id=3, use_cache=False, num_labels=4)
    config.save_pretrained(tmp_path)
    again = HybridgenConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() | {"transformers_version": again.transformers_version}
    assert (again.eos_token_id, again.use_cache, again.num_labels) == (3, False, 4)
    assert HybridgenConfig.from_pretrained(tmp_path) == again
    assert AutoConfig.from_pretrained(tmp_path) == again


def test_what_is_worked_out_is_not_written():
    written = HybridgenConfig.from_spec(spec_of()).to_dict()
    assert not written.keys() & {"hidden_size", "layer_types", "vocab_size", "_resolved", "num_hidden_layers"}
    diff = HybridgenConfig.from_spec(spec_of()).to_diff_dict()
    assert diff["model_type"] == "hybridgen"
    assert diff["spec"] == spec_of().document()


def test_copies_are_equal_and_apart():
    config = HybridgenConfig.from_spec(spec_of())
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        other.vocab_size = 70
        assert other != config
        assert config.vocab_size == 56


def test_a_spec_is_resolved_however_it_comes():
    given = HybridgenConfig(spec=document())
    assert given == HybridgenConfig.from_spec(spec_of())
    assert given.spec == spec_of().document()
    other = HybridgenConfig()
    other.spec = document(pattern="A")
    assert (other.num_hidden_layers, other.layer_types) == (1, ["full_attention"])
    other.spec["backbone"]["blocks"]["A"]["mixer"]["window"] = 8
    assert other.layer_types == ["sliding_attention"]
    assert other.sliding_window == 8


def test_auto_config_takes_another_spec_and_another_vocabulary(tmp_path):
    HybridgenConfig.from_spec(spec_of()).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, spec=document(pattern="N N")).num_hidden_layers == 2
    assert AutoConfig.from_pretrained(tmp_path, vocab_size=80).resolved().input.vocab_size == 80
    with pytest.raises(SpecError, match=r"backbone\.d_modl: unknown field of backbone; closest is 'd_model'"):
        AutoConfig.from_pretrained(tmp_path, spec={"backbone": {"d_modl": 3, "n_layer": 1}})


def test_a_bad_spec_names_the_place_and_the_fix():
    with pytest.raises(SpecError, match="closest is 'd_model'"):
        HybridgenConfig(spec={"backbone": {"d_modl": 3, "n_layer": 1}})
    with pytest.raises(SpecError, match="pattern"):
        HybridgenConfig(spec=document(pattern="A X"))


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 64), ("num_hidden_layers", 9), ("layer_types", ["conv"])])
def test_what_the_spec_holds_cannot_be_said_otherwise_beside_it(field, value):
    config = HybridgenConfig.from_spec(spec_of())
    with pytest.raises(UnsupportedError, match=f"{field} stands in the spec"):
        HybridgenConfig.from_dict(config.to_dict() | {field: value})
    with pytest.raises(UnsupportedError, match=f"{field} stands in the spec"):
        setattr(config, field, value)
    setattr(config, field, getattr(config, field))


def test_codes_are_refused_with_words():
    codes = document(
        input={"type": "codebooks", "n_codebooks": 2, "vocab_size": 9}, head={"type": "codebooks"}, name="speech"
    )
    with pytest.raises(UnsupportedError, match=r"speech: no class of transformers reads codes; use hg\.build"):
        HybridgenConfig(spec=codes)


def test_properties_are_those_of_the_spec():
    config = HybridgenConfig.from_spec(spec_of())
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 3, 56)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert config.layer_types == ["linear_attention", "full_attention", "linear_attention"]
    assert config.sliding_window is None
    assert (config.image_size, config.num_channels) == (None, None)
    images = HybridgenConfig(spec=image_document())
    assert (images.image_size, images.num_channels, images.vocab_size, images.num_labels) == ((8, 8), 3, 0, 5)
    assert HybridgenConfig.from_spec(spec_of(pattern="M")).num_attention_heads == 0


def test_setting_vocabulary_and_ties_changes_the_spec():
    config = HybridgenConfig.from_spec(spec_of())
    tied = config.tie_word_embeddings
    config.tie_word_embeddings = not tied
    assert config.resolved().head.tie_embeddings is (not tied)
    config.vocab_size = 60
    assert (config.resolved().input.vocab_size, config.vocab_size) == (60, 60)
    hidden = HybridgenConfig.from_spec(spec_of(input={"type": "hidden"}, head={"type": "none"}))
    with pytest.raises(UnsupportedError, match="vocab_size can be set where the model reads tokens"):
        hidden.vocab_size = 10


def test_labels_are_the_classifiers():
    assert HybridgenConfig.from_spec(spec_of()).num_labels == 2
    named = HybridgenConfig(spec=image_document(), id2label=dict(enumerate("abcde")))
    assert (named.num_labels, named.id2label[4]) == (5, "e")
    assert HybridgenConfig.from_spec(spec_of(), num_labels=7).num_labels == 7
