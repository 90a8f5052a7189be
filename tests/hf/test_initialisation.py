"""How weights of transformers' models start: as `hg.build`'s do, whichever of them a checkpoint lacks."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, set_seed

import hybridgen as hg
from hybridgen.hf import HybridgenConfig
from hybridgen.hub import architecture
from tests.helpers.hub_models import document, image_document
from tests.helpers.mixer_cases import MIXER_CASES

WIDE = document(
    backbone={
        "d_model": 128,
        "blocks": {
            "M": {"mixer": {"type": "mamba1", "d_state": 8}},
            "N": {"mixer": {"type": "mamba2", "d_state": 8, "headdim": 4}},
            "A": {"mixer": {"type": "attention", "num_heads": 4}, "mlp": {"d_intermediate": 256}},
        },
        "pattern": "M N A",
        "init": {"rescale_prenorm_residual": True},
    },
    head={"type": "lm", "tie_embeddings": False, "bias": True},
)


def build_both(spec, seed):
    """Both worlds' model of a spec, freshly made."""
    set_seed(seed)
    return AutoModelForCausalLM.from_config(HybridgenConfig.from_spec(spec)), hg.build(spec, seed=seed)


def assert_alike(name, value, expected):
    """Checks that two draws could be of one distribution: the same constants, or much the same spread."""
    assert value.shape == expected.shape, name
    assert value.isfinite().all(), name
    if torch.equal(value, expected):
        return
    assert value.numel() > 1, name
    if value.numel() <= 60:
        return
    spread = expected.std()
    assert (value.mean() - expected.mean()).abs() < 6 * spread * (2 / value.numel()) ** 0.5 + 1e-7, name
    assert 0.7 < value.std() / spread < 1.4, name
    assert value.max() <= expected.max() + 0.7 * spread, name
    assert value.min() >= expected.min() - 0.7 * spread, name


def test_fresh_models_start_as_ours_do():
    spec = hg.ModelSpec.model_validate(WIDE)
    model, plain = build_both(spec, 0)
    ours = dict(plain.named_parameters())
    for name, value in model.named_parameters():
        assert_alike(name, value, ours[name])
    rates = torch.nn.functional.softplus(model.backbone.layers[1].mixer.dt_bias)
    assert rates.min() >= 0.9e-3
    assert rates.max() <= 0.11


def test_seeds_decide():
    spec = hg.ModelSpec.model_validate(document())
    first, again, other = (build_both(spec, seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.embedding.weight"], other["backbone.embedding.weight"])


@pytest.mark.parametrize(
    "missing",
    [
        ["backbone.layers.1.mixer.dt_bias"],
        ["backbone.layers.1.mixer.A_log", "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.dt_proj.bias"],
        [
            "backbone.layers.2.mixer.in_proj.weight",
            "backbone.norm_f.weight",
            "lm_head.bias",
            "backbone.embedding.weight",
        ],
    ],
)
def test_what_a_checkpoint_lacks_starts_as_ours_and_the_rest_stays(tmp_path, missing):
    plain = hg.build(hg.ModelSpec.model_validate(WIDE), seed=1)
    hg.save(plain, tmp_path, format="hf")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name not in missing}, tmp_path / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    set_seed(5)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == set(missing)
    for name, value in model.named_parameters():
        if name in missing:
            assert_alike(name, value, weights[name])
        else:
            assert torch.equal(value, weights[name]), name


def test_images_start_as_ours_do():
    spec = hg.ModelSpec.model_validate(image_document())
    model = AutoModelForImageClassification.from_config(HybridgenConfig.from_spec(spec))
    for name, value in hg.build(spec).named_parameters():
        assert_alike(name, model.get_parameter(name), value)


def _has_a_class(case):
    try:
        return architecture(hg.ModelSpec.model_validate(case))
    except hg.HybridgenError:
        return None


def _language_model(name):
    return {"input": {"type": "tokens", "vocab_size": 9}, "head": {"type": "lm"}} | MIXER_CASES[name]


@pytest.mark.parametrize(
    "name", [name for name in sorted(MIXER_CASES) if _has_a_class(_language_model(name)) == "HybridgenForCausalLM"]
)
def test_parameters_have_the_names_that_they_have_in_our_models(name):
    spec = hg.ModelSpec.model_validate(_language_model(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(HybridgenConfig.from_spec(spec))
    plain = hg.build(spec, device="meta")
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [value.shape for value in model.parameters()] == [value.shape for value in plain.parameters()]
