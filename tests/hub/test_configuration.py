"""What config.json, generation_config.json and the shim say of a spec."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hybridgen as hg
from hybridgen.hub import architecture, config_document, generation_document, layer_types
from hybridgen.hub.configuration import is_hub_config
from hybridgen.hub.shim import SHIM_TEXT

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
STACK: dict[str, Any] = {
    "d_model": 32,
    "blocks": {
        "m": {"mixer": {"type": "mamba2", "d_state": 8, "headdim": 16}},
        "s": {"mixer": {"type": "mamba1", "d_state": 4}},
        "a": {"mixer": {"type": "attention", "num_heads": 4}},
        "w": {"mixer": {"type": "attention", "num_heads": 4, "window": 8}},
        "f": {"mlp": {"d_intermediate": 64}},
    },
    "pattern": "m s a w f m",
}
TOKENS = {"type": "tokens", "vocab_size": 61}
IMAGES = {"type": "patches", "image_size": 16, "patch_size": 8}


def spec(source: Any, head: Any) -> hg.ModelSpec:
    stack = STACK
    if source is IMAGES:  # a window looks back, which patches do not
        stack = {**STACK, "blocks": {key: STACK["blocks"][key] for key in "msaf"}, "pattern": "m s a f"}
    return hg.ModelSpec.model_validate({"name": "x", "input": source, "backbone": stack, "head": head})


def classes(count: int) -> dict[str, Any]:
    return {"type": "classifier", "num_classes": count}


@pytest.mark.parametrize(
    ("source", "head", "name", "auto"),
    [
        (TOKENS, {"type": "lm"}, "HybridgenForCausalLM", "AutoModelForCausalLM"),
        (TOKENS, classes(3), "HybridgenForSequenceClassification", "AutoModelForSequenceClassification"),
        (IMAGES, classes(3), "HybridgenForImageClassification", "AutoModelForImageClassification"),
        (IMAGES, classes(0), "HybridgenForImageClassification", "AutoModelForImageClassification"),
        (IMAGES, {"type": "none"}, "HybridgenForImageClassification", "AutoModelForImageClassification"),
        (TOKENS, {"type": "none"}, "HybridgenModel", "AutoModel"),
        ({"type": "hidden"}, {"type": "none"}, "HybridgenModel", "AutoModel"),
    ],
)
def test_the_ends_of_a_model_choose_its_class(source: Any, head: Any, name: str, auto: str) -> None:
    config = config_document(spec(source, head), "bfloat16")
    assert architecture(spec(source, head)) == name
    assert config["architectures"] == [name]
    assert config["auto_map"][auto] == f"modeling_hybridgen.{name}"
    assert config["auto_map"]["AutoModel"] == "modeling_hybridgen.HybridgenModel"
    assert config["auto_map"]["AutoConfig"] == "modeling_hybridgen.HybridgenConfig"


@pytest.mark.parametrize(
    ("source", "head", "words"),
    [
        (
            {"type": "codebooks", "n_codebooks": 2, "vocab_size": 9},
            {"type": "codebooks"},
            "x: no class of transformers reads codes; save with format='hybridgen'",
        ),
        ({"type": "codebooks", "n_codebooks": 2, "vocab_size": 9}, {"type": "none"}, "reads codes"),
        ({"type": "hidden"}, classes(2), "puts a head of type 'classifier' on hidden states"),
    ],
)
def test_models_without_a_class_are_refused(source: Any, head: Any, words: str) -> None:
    with pytest.raises(hg.UnsupportedError, match=words):
        config_document(spec(source, head), "float32")


def test_layers_have_names_that_transformers_allows_and_its_caches_know() -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer
    from transformers.configuration_utils import ALLOWED_LAYER_TYPES, PreTrainedConfig

    names = layer_types(spec(TOKENS, {"type": "lm"}))
    assert names == ["linear_attention"] * 2 + ["full_attention", "sliding_attention", "moe", "linear_attention"]
    assert set(names) <= set(ALLOWED_LAYER_TYPES)
    config = PreTrainedConfig(layer_types=names, num_hidden_layers=6, sliding_window=8)
    cache = DynamicCache(config=config)
    kinds = [LinearAttentionLayer, LinearAttentionLayer, DynamicLayer, DynamicSlidingWindowLayer]
    assert [type(layer) for layer in cache.layers[:4]] == kinds
    assert cache.is_dummy == [False, False, False, False, True, False]


def test_the_spec_is_the_only_place_of_what_stands_in_it() -> None:
    model = spec(TOKENS, {"type": "lm"})
    config = config_document(model, "bfloat16")
    assert config["spec"] == model.document()
    assert config.keys() == {
        "architectures", "model_type", "dtype", "auto_map", "hybridgen_version", "tie_word_embeddings", "spec"
    }  # fmt: skip
    assert (config["model_type"], config["dtype"]) == ("hybridgen", "bfloat16")
    assert config["tie_word_embeddings"] is True
    untied = config_document(spec(TOKENS, {"type": "lm", "tie_embeddings": False}), "float32")
    assert untied["tie_word_embeddings"] is False
    assert is_hub_config(config)
    assert not is_hub_config({**config, "format": "hybridgen"})
    assert not is_hub_config({"model_type": "llama", "spec": {}})
    assert not is_hub_config(None)


@pytest.mark.parametrize("source", [TOKENS, IMAGES])
def test_classifiers_say_how_many_classes_they_have(source: Any) -> None:
    config = config_document(spec(source, classes(3)), "float32")
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    empty = config_document(spec(source, classes(0)), "float32")
    assert (empty["id2label"], empty["label2id"]) == ({}, {})


def test_transformers_counts_the_classes_of_a_classifier() -> None:
    from transformers.configuration_utils import PreTrainedConfig

    for count in (0, 1, 2, 7):
        config = config_document(spec(IMAGES, classes(count)), "float32")
        read = PreTrainedConfig(id2label=config["id2label"], label2id=config["label2id"])
        assert read.num_labels == count


def test_names_of_classes_are_taken_if_they_are_as_many() -> None:
    model = spec(TOKENS, classes(2))
    named = config_document(model, "float32", {"id2label": {0: "cat", 1: "dog"}, "pad_token_id": 0, "d_model": 5})
    assert named["id2label"] == {"0": "cat", "1": "dog"}
    assert named["label2id"] == {"cat": 0, "dog": 1}
    assert named["pad_token_id"] == 0
    assert "d_model" not in named
    for names in ({0: "cat"}, {0: "cat", 2: "dog"}, ["cat", "dog"]):
        assert config_document(model, "float32", {"id2label": names})["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_rows_of_the_vocabulary_that_are_no_tokens_are_never_generated() -> None:
    assert generation_document(spec(TOKENS, {"type": "lm"})) == {"suppress_tokens": [61, 62, 63]}
    full = generation_document(spec({"type": "tokens", "vocab_size": 64}, {"type": "lm"}))
    assert full == {"_from_model_config": True}
    assert generation_document(spec(TOKENS, classes(3))) is None
    assert generation_document(spec(IMAGES, classes(3))) is None


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, check=False, capture_output=True, text=True)


def test_the_shim_hands_on_the_classes_and_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "modeling_hybridgen.py").write_text(SHIM_TEXT)
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; "
    missing = run(f"{start}sys.modules['hybridgen'] = None; import modeling_hybridgen", tmp_path)
    assert "this model needs the package hybridgen; install it with `pip install 'hybridgen[hf]'`" in missing.stderr
    (tmp_path / "hybridgen").mkdir()
    (tmp_path / "hybridgen/__init__.py").write_text("")
    names = ["Config", "Model", "ForCausalLM", "ForSequenceClassification", "ForImageClassification"]
    (tmp_path / "hybridgen/hf.py").write_text("\n".join(f"Hybridgen{name} = {name!r}" for name in names))
    shown = run(f"{start}import modeling_hybridgen as m; print(m.HybridgenForCausalLM, m.HybridgenConfig)", tmp_path)
    assert shown.stdout.split() == ["ForCausalLM", "Config"]
    (tmp_path / "hybridgen/hf.py").write_text("import nothing_like_it")
    assert "No module named 'nothing_like_it'" in run(f"{start}import modeling_hybridgen", tmp_path).stderr


def test_transformers_finds_nothing_to_install_in_the_shim(tmp_path: Path) -> None:
    from transformers.dynamic_module_utils import get_imports

    (tmp_path / "modeling_hybridgen.py").write_text(SHIM_TEXT)
    assert get_imports(tmp_path / "modeling_hybridgen.py") == []


def test_the_part_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import hybridgen.hub as hub, "
        "hybridgen.hub.card as card, "
        f"hybridgen as hg; spec = hg.load_spec({str(CONFIGS / 'tiny-hybrid.yaml')!r}); "
        "hub.config_document(spec, 'float32'); print(len(card.card(spec, 'float32')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert int(done.stdout) > 1000, done.stderr
