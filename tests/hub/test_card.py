"""The model card of every shipped model: front matter that the Hub reads, numbers that `hybridgen cost` gives."""

from pathlib import Path

import pytest
import yaml

import hybridgen as hg
from hybridgen.hub import architecture
from hybridgen.hub.card import card
from hybridgen.hub.seal import is_untouched

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
PATHS = sorted(CONFIGS.glob("*.yaml"))
TASKS = {
    "HybridgenModel": "feature-extraction",
    "HybridgenForCausalLM": "text-generation",
    "HybridgenForSequenceClassification": "text-classification",
    "HybridgenForImageClassification": "image-classification",
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_cards_of_shipped_models(path: Path) -> None:
    spec = hg.load_spec(path)
    text = card(spec, "bfloat16", "build")
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "transformers"
    assert matter["pipeline_tag"] == TASKS[architecture(spec)]
    kinds = {"mlp" if layer.mixer is None else layer.mixer.type for layer in spec.backbone.layers}
    assert matter["tags"][0] == "hybridgen"
    assert set(matter["tags"][1:]) == kinds
    assert len(matter["tags"]) == len(set(matter["tags"]))
    assert f"| parameters | {hg.cost(spec).total.parameters.total:,} |" in body
    document = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert hg.ModelSpec.model_validate(document) == spec
    assert "freshly initialised" in body
    assert "—" not in text
    assert is_untouched(text)
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    assert len(rows) == len(spec.backbone.blocks)
    assert sum(int(row.split("|")[3]) for row in rows) == spec.backbone.n_layer


def test_cards_say_where_weights_come_from() -> None:
    spec = hg.load_spec(CONFIGS / "tiny-hybrid.yaml")
    assert "how they were trained is not recorded" in card(spec, "float32", "import")
    unknown = card(spec, "float32")
    assert "How the weights were trained is not recorded here." in unknown
    assert "freshly" not in unknown


def test_models_of_images_have_no_state_and_other_words() -> None:
    text = card(hg.load_spec(CONFIGS / "vim-tiny.yaml"), "float32")
    assert "decoding state" not in text
    assert "AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)" in text
    assert "pixel_values=images" in text


def test_features_have_the_hubs_name_for_them() -> None:
    stack = {"d_model": 32, "n_layer": 1}
    hidden = card(hg.ModelSpec.model_validate({"backbone": stack}), "float32")
    assert "pipeline_tag: feature-extraction\n" in hidden
    assert "inputs_embeds=hidden_states" in hidden
    images = {"input": {"type": "patches", "image_size": 16, "patch_size": 8}, "backbone": stack}
    spec = hg.ModelSpec.model_validate({**images, "head": {"type": "classifier", "num_classes": 0}})
    assert "pipeline_tag: image-feature-extraction\n" in card(spec, "float32")


@pytest.mark.parametrize("change", [lambda text: text + "x", lambda text: text.replace("tiny", "Tiny"), lambda _: ""])
def test_a_card_that_somebody_changed_is_theirs(change) -> None:
    assert not is_untouched(change(card(hg.load_spec(CONFIGS / "tiny-hybrid.yaml"), "float32")))


def test_codes_have_no_card() -> None:
    codes = {"type": "codebooks", "n_codebooks": 2, "vocab_size": 9}
    document = {"input": codes, "backbone": {"d_model": 32, "n_layer": 1}, "head": {"type": "codebooks"}}
    with pytest.raises(hg.UnsupportedError, match="reads codes"):
        card(hg.ModelSpec.model_validate(document), "float32")
