"""`save_pretrained` and `from_pretrained`: what is written opens again, in transformers and in hybridgen."""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    modeling_utils,
)

import hybridgen as hg
from hybridgen.errors import CheckpointError
from hybridgen.hf import (
    HybridgenConfig,
    HybridgenForCausalLM,
    HybridgenForImageClassification,
    HybridgenForSequenceClassification,
    HybridgenModel,
    unwrap,
    wrap,
)
from tests.helpers.hub_models import document, ids, image_document, language_model
from tests.hf.kinds import wrapped

UNTIED = {"type": "lm", "tie_embeddings": False, "bias": True, "logit_scale": 0.5, "logit_softcap": 8.0}
TIED = {"type": "lm", "tie_embeddings": True}
ISLANDS = ("A_log", "D", "dt_bias", "dt_proj.bias")


def same(first, second):
    """Whether two models have the same weights of the same dtypes, bit for bit."""
    mine, other = first.state_dict(), second.state_dict()
    return mine.keys() == other.keys() and all(
        mine[name].dtype == other[name].dtype and torch.equal(mine[name], other[name]) for name in mine
    )


@pytest.mark.parametrize("head", [TIED, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("format", ["hf", "save_pretrained"])
def test_language_models_round_trip_bit_for_bit(tmp_path, head, format):
    plain = language_model(head=head)
    if format == "hf":
        hg.save(plain, tmp_path, format="hf")
    else:
        wrap(plain).save_pretrained(tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is HybridgenForCausalLM
    assert not any(info.values())
    assert same(model, plain)
    assert (model.lm_head.weight is model.backbone.embedding.weight) == head["tie_embeddings"]
    assert torch.equal(model(ids()).logits, plain.eval()(ids()))
    assert same(hg.load(tmp_path), plain)
    assert hg.load(tmp_path).spec == plain.spec


@pytest.mark.parametrize("format", ["hybridgen", "hf"])
def test_save_writes_models_of_transformers(tmp_path, format):
    plain = language_model(head=UNTIED)
    hg.save(wrap(plain), tmp_path, format=format)
    assert same(hg.load(tmp_path), plain)


def test_shards_round_trip_and_replace_each_other(tmp_path):
    plain = language_model(head=UNTIED)
    wrap(plain).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path), plain)
    assert same(hg.load(tmp_path), plain)
    wrap(plain).save_pretrained(tmp_path)
    # transformers leaves the index of the shards behind; whoever reads takes the one file that is there.
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert same(hg.load(tmp_path), plain)
    hg.save(plain, tmp_path, format="hf", max_shard_size="30KB")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path), plain)


def test_a_checkpoint_with_the_head_alone_is_tied_to_it(tmp_path):
    from safetensors.torch import load_file, save_file

    plain = language_model(head=TIED)
    hg.save(plain, tmp_path, format="hf")
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("backbone.embedding.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path), plain)


def test_generation_config_comes_along(tmp_path):
    hg.save(language_model(), tmp_path, format="hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config.suppress_tokens == list(range(50, 56))
    model.generation_config.max_new_tokens = 7
    model.generation_config.eos_token_id = 3
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert (again.generation_config.max_new_tokens, again.generation_config.eos_token_id) == (7, 3)
    assert again.generation_config.suppress_tokens == list(range(50, 56))


@pytest.mark.parametrize("head", [TIED, UNTIED], ids=["tied", "untied"])
def test_base_model_and_back(tmp_path, head):
    plain = language_model(head=head)
    hg.save(plain, tmp_path, format="hf")
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is HybridgenModel
    assert torch.equal(base(ids()).last_hidden_state, plain.backbone(ids()))
    base.save_pretrained(tmp_path / "base")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "base", output_loading_info=True)
    missing = set() if head["tie_embeddings"] else {"lm_head.weight", "lm_head.bias"}
    assert info["missing_keys"] == missing
    assert model.spec == plain.spec
    assert same(model.backbone, plain.backbone)
    if head["tie_embeddings"]:
        assert same(hg.load(tmp_path / "base"), plain)
    else:
        assert model.lm_head.weight.abs().max() <= 32**-0.5
        assert not model.lm_head.bias.any()
        with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
            hg.load(tmp_path / "base")


def test_a_classifier_on_a_language_model_gets_a_head_that_starts_as_ours(tmp_path):
    plain = language_model()
    hg.save(plain, tmp_path, format="hf")
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert type(model) is HybridgenForSequenceClassification
    assert info["missing_keys"] == {"head.weight", "head.bias"}
    assert same(model.backbone, plain.backbone)
    assert model.head.weight.shape == (3, 32)
    assert 0.01 < model.head.weight.std() < 0.03
    assert model.head.weight.abs().max() <= 2.0
    assert not model.head.bias.any()
    model.save_pretrained(tmp_path / "classifier")
    assert json.loads((tmp_path / "classifier/config.json").read_text())["auto_map"] == {
        "AutoConfig": "modeling_hybridgen.HybridgenConfig",
        "AutoModel": "modeling_hybridgen.HybridgenModel",
        "AutoModelForSequenceClassification": "modeling_hybridgen.HybridgenForSequenceClassification",
    }
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert same(again, model)
    assert again.config.num_labels == 3
    mine = hg.load(tmp_path / "classifier").eval()
    assert torch.equal(mine(ids()), again(ids()).logits)


def test_image_classifiers_round_trip(tmp_path):
    plain = hg.build(hg.ModelSpec.model_validate(image_document()))
    hg.save(plain, tmp_path, format="hf")
    model, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is HybridgenForImageClassification
    assert not any(info.values())
    assert same(model, plain)
    model.save_pretrained(tmp_path / "again")
    assert same(hg.load(tmp_path / "again"), plain)
    other = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert other.head.weight.shape == (7, 32)
    assert other.spec.head.num_classes == 7


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes_keep_the_float32_islands(tmp_path, dtype):
    hg.save(language_model(), tmp_path, format="hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    ours = hg.load(tmp_path, dtype=dtype)
    assert same(model, ours)
    wide = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    if dtype == "float64":
        assert not wide
    else:
        assert {name.split("mixer.")[1] for name in wide} == set(ISLANDS)
    assert model.dtype == getattr(torch, dtype)
    model.save_pretrained(tmp_path / "narrow")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "narrow"), ours)
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "narrow", dtype="auto"), ours)
    assert same(hg.load(tmp_path / "narrow"), ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_from_config_keeps_the_islands_too(dtype):
    config = HybridgenConfig(spec=document())
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    expected = hg.build(config.resolved(), dtype=dtype)
    assert {name: value.dtype for name, value in model.named_parameters()} == {
        name: value.dtype for name, value in expected.named_parameters()
    }
    assert not any(value.isnan().any() for value in model.parameters())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}])
def test_device_maps(tmp_path, options):
    plain = language_model()
    hg.save(plain, tmp_path, format="hf")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path, **options), plain)


def test_what_is_pushed_holds_the_file_that_its_configuration_names(tmp_path, monkeypatch):
    pushed = []

    def upload(self, directory, *args, **kwargs):
        pushed.extend(file.name for file in Path(directory).iterdir())

    monkeypatch.setattr(modeling_utils, "hf_api", mock.MagicMock())
    monkeypatch.setattr(modeling_utils, "create_and_tag_model_card", mock.MagicMock())
    monkeypatch.setattr(HybridgenForCausalLM, "_upload_modified_files", upload)
    wrap(language_model()).save_pretrained(tmp_path, push_to_hub=True, repo_id="a/b")
    assert {"config.json", "model.safetensors", "modeling_hybridgen.py"} <= set(pushed)


@pytest.mark.parametrize("pattern", ["M A N", "B N"])
@pytest.mark.filterwarnings("ignore:.*offload.*")
def test_offloaded_layers(tmp_path, pattern):
    hg.save(language_model(pattern=pattern), tmp_path / "saved", format="hf")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    places = dict.fromkeys(["backbone.embedding", "backbone.norm_f", "lm_head", "backbone.layers.0"], "cpu")
    places |= {f"backbone.layers.{index}": "disk" for index in range(1, len(pattern.split()))}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert {value.device.type for value in model.backbone.layers[1].parameters()} == {"meta"}
    torch.testing.assert_close(model(ids()).logits, expected(ids()).logits)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids(), **options), expected.generate(ids(), **options))
    assert {value.device.type for value in model.backbone.layers[1].parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["transformer", "mamba2", "hybrid2", "values", "memory"])
def test_layers_on_several_devices(kind):
    """The second device is `meta`, which takes tensors of its own alone, as a second GPU would."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = wrapped(kind, "float32")
    for module in [*model.backbone.layers[1:], model.backbone.norm_f, model.lm_head]:
        module.to("meta")
        add_hook_to_module(module, AlignDevicesHook(execution_device="meta", skip_keys=["past_key_values"]))
    tokens, mask = ids(2, 6) % 48, torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    assert model(tokens, attention_mask=mask, use_cache=False).logits.device.type == "meta"
    with torch.no_grad():
        outputs = model(tokens, attention_mask=mask, use_cache=True)
        places = [layer and next(iter(layer.tensors().values())).device.type
                  for layer in outputs.past_key_values.layers[0].shared.state.layers]  # fmt: skip
        assert places == ["cpu"] + ["meta"] * (len(places) - 1)
        again = torch.cat((mask, torch.ones(2, 1, dtype=mask.dtype)), dim=1)
        outputs = model(tokens[:, :1], attention_mask=again, past_key_values=outputs.past_key_values)
    assert outputs.logits.shape == (2, 1, model.config.vocab_size)


def test_meta_models_have_shapes_and_no_values(tmp_path):
    with torch.device("meta"):
        model = HybridgenForCausalLM(HybridgenConfig(spec=document()))
    assert {value.device.type for value in model.parameters()} == {"meta"}
    hg.save(language_model(), tmp_path, format="hf")
    plain = hg.load(tmp_path)
    model.load_state_dict(plain.state_dict(), assign=True)
    model.tie_weights()
    assert torch.equal(model.eval()(ids()).logits, plain.eval()(ids()))


def test_resaving_with_another_class_writes_that_class_into_the_shim_map(tmp_path):
    HybridgenForCausalLM(HybridgenConfig(spec=document())).save_pretrained(tmp_path)
    assert (tmp_path / "modeling_hybridgen.py").is_file()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_hybridgen.HybridgenForCausalLM"
    assert config["architectures"] == ["HybridgenForCausalLM"]


@pytest.mark.parametrize("head", [TIED, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("rows", [70, 20])
def test_resized_vocabularies_work_everywhere(tmp_path, head, rows):
    model = wrap(language_model(head=head))
    assert model.generation_config.suppress_tokens == list(range(50, 56))
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(rows, mean_resizing=False)
    kept = min(rows, 56)
    assert torch.equal(model.get_input_embeddings().weight[:kept], before[:kept])
    assert model.get_output_embeddings().weight.shape == (rows, 32)
    assert (model.lm_head.weight is model.backbone.embedding.weight) == head["tie_embeddings"]
    assert model.config.vocab_size == model.spec.input.vocab_size == rows
    assert model.generation_config.suppress_tokens is None
    tokens = ids() % rows
    for mode in (model.train(), model.eval()):
        outputs = mode(tokens, labels=tokens)
        outputs.loss.backward()
        assert outputs.loss.isfinite()
    assert outputs.logits.shape == (2, 12, rows)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(tokens).logits, outputs.logits)
    assert torch.equal(hg.load(tmp_path).eval()(tokens), outputs.logits)
    assert torch.equal(unwrap(model)(tokens), outputs.logits)


def test_growing_by_the_mean_keeps_the_old_rows():
    model = wrap(language_model(head=UNTIED))
    old = model.lm_head.weight.detach().clone()
    model.resize_token_embeddings(64)
    assert torch.equal(model.lm_head.weight[:56], old)
    assert model.lm_head.weight.isfinite().all()
