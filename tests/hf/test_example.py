"""The example of docs/huggingface_example.md runs: text, tokenizer, Trainer, Auto classes, scores, pictures."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hybridgen as hg

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        return importlib.import_module("train_language_model")


@pytest.fixture(scope="module")
def text(script: ModuleType) -> ModuleType:
    return sys.modules["language_text"]


@pytest.fixture(scope="module")
def folder(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes."""
    folder = tmp_path_factory.mktemp("example")
    threads = torch.get_num_threads()
    script.main(["--smoke", "--threads", "1", "--out", str(folder / "runs"), "-o", str(folder / "results")])
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "language.json").read_text())


@pytest.fixture(scope="module")
def data(script: ModuleType) -> Any:
    return script.read_data(script.SMOKE)


def test_modules_are_for_training_or_for_validation(text: ModuleType, data: Any) -> None:
    found = text.modules(60)
    kept = {module.name for module in data.text.validation}
    assert len(found) >= 40
    assert kept
    assert set(data.text.train) == {str(module) for module in found if module.name not in kept}
    assert data.text.overlap() < 0.03


def test_docstring_of_both_parts_is_taken_out_of_validation(text: ModuleType) -> None:
    names = iter(range(10_000))
    kept = next(name for name in map(str, names) if text.Module(name, ()).validates)
    other = next(name for name in map(str, names) if not text.Module(name, ()).validates)
    shared, own = text.Entry("def f()", "Says the same."), text.Entry("def g()", "Says something else.")
    source = text.split([text.Module(kept, (shared, own)), text.Module(other, (shared,))], topics=False)
    assert source.train == ("def f()\n    Says the same.\n",)
    assert source.validation == (text.Module(kept, (own,)),)


def test_entries_name_what_they_describe(text: ModuleType) -> None:
    import ast

    tree = ast.parse(
        '"""Top."""\nclass A(B):\n    """Of A."""\n    def f(self, x, *, y=1):\n        """Of f.\n\n        More."""'
    )
    found = list(text._entries(tree, "m.n"))
    assert found == [
        text.Entry("module m.n", "Top."),
        text.Entry("class A(B)", "Of A."),
        text.Entry("def A.f(self, x, *, y=1)", "Of f.\n\nMore."),
    ]


def test_questions_have_one_right_answer_each(text: ModuleType, data: Any) -> None:
    lines = {
        entry.heading: entry.text.partition("\n")[0] for module in data.text.validation for entry in module.entries
    }
    asked = text.questions(data.text.validation, 20)
    assert len(asked) >= 5
    for question in asked:
        assert len(set(question.choices)) == 4
        assert question.choices[question.answer].strip() == lines[question.context]


def test_every_row_comes_once_before_any_comes_again(text: ModuleType) -> None:
    numbers = text.order(10, 25, seed=0)
    assert sorted(numbers[:10].tolist()) == sorted(numbers[10:20].tolist()) == list(range(10))
    assert not torch.equal(numbers[:10], numbers[10:20])
    assert torch.equal(numbers, text.order(10, 25, seed=0))


def test_models_learn_from_the_same_batches(results: dict[str, Any]) -> None:
    assert set(results["runs"]) == {"hybrid", "transformer", "mamba2"}
    for run in results["runs"].values():
        losses = [loss for _, loss in run["validation"]]
        assert losses[0] == pytest.approx(math.log(512), abs=0.3)
        assert losses[-1] < losses[0] - 0.1
        assert [step for step, _ in run["validation"]] == [0, 6, 12]


def test_pictures_are_drawn(folder: Path) -> None:
    assert "<svg" in (folder / "results" / "language.svg").read_text()
    assert (folder / "results" / "language.png").read_bytes().startswith(b"\x89PNG")


def test_auto_classes_open_the_model_and_its_tokenizer(script: ModuleType, folder: Path, data: Any) -> None:
    model, tokenizer = script.opened(folder / "runs" / "hybrid")
    assert type(model).__name__ == "HybridgenForCausalLM"
    ids = data.validation[:1]
    with torch.no_grad():
        torch.testing.assert_close(hg.load(folder / "runs" / "hybrid")(ids), model(ids).logits)
    sentence = "Return a new £ list.\n"
    assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence
    assert tokenizer(sentence)["input_ids"] == data.tokenizer(sentence)["input_ids"]
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == model.config.eos_token_id


def test_scores_are_sums_over_tokens_in_windows(
    script: ModuleType, folder: Path, data: Any, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop, with windows of which a text needs several."""
    scorer = script.Scorer(*script.opened(folder / "runs" / "hybrid"), batch=3)
    monkeypatch.setattr(sys.modules["language_scoring"], "WINDOW", 16)
    texts = ["Return the list, sorted.", "def f(x)\n    " + "Sort the list of names in place. " * 4, "a"]
    scorer.model.requires_grad_(False)
    for whole, found in zip(texts, scorer.rolling(texts), strict=True):
        ids = [scorer.tokenizer.eos_token_id, *scorer.tokenizer(whole)["input_ids"]]
        expected = 0.0
        for place in range(1, len(ids)):
            start = (place - 1) // 16 * 16
            first = max(0, min(start + 16, len(ids) - 1) - 16)
            logits = scorer.model(torch.tensor([ids[first:place]])).logits[0, -1]
            expected += float(logits.log_softmax(dim=-1)[ids[place]])
        assert found == pytest.approx(expected, abs=1e-3)
    for run in results["runs"].values():
        assert 1 < run["scores"]["bits_per_byte"] < 6
        assert 0 <= run["scores"]["acc"] <= 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_finds_the_same(script: ModuleType, folder: Path, data: Any) -> None:
    pytest.importorskip("lm_eval")
    found = script.score(folder / "runs" / "hybrid", data, with_harness=True)
    assert found["lm_eval"]["greatest_difference_nats"] < 1e-3
    for name in ("bits_per_byte", "acc", "acc_norm"):
        assert found["lm_eval"][name] == pytest.approx(found[name], abs=1e-6)
