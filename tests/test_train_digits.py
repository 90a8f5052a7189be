"""The training script learns, and saves a model that can be loaded."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hybridgen as hg

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_digits.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_split_is_stratified_and_always_the_same(script: ModuleType) -> None:
    images, labels, test_images, test_labels = script.digits()
    assert (images.shape, test_images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert test_labels.bincount().tolist() == pytest.approx([36] * 10, abs=2)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(images, script.digits()[0])
    assert not (test_images.flatten(1)[:, None] == images.flatten(1)).all(dim=2).any()
    assert len(labels) == len(images)


def test_shift_moves_by_one_pixel_and_fills_with_background(script: ModuleType) -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 1, 8, 8)
    moved = script.shifted(image, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[0, 0], (1, 1, 1, 1), value=-1.0)
    allowed = [padded[down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
    kinds = {next(index for index, one in enumerate(allowed) if torch.equal(one, each)) for each in moved[:, 0]}
    assert kinds == set(range(9))


def test_only_matrices_decay(script: ModuleType) -> None:
    model = hg.build(hg.load_spec(script.CONFIG))
    decayed, kept = (group["params"] for group in script.optimizer_of(model, 1e-3, 0.05).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed) + len(kept) == len(names)
    ends = {names[id(parameter)].removeprefix("backbone.layers.0.mixer.") for parameter in decayed}
    assert {"in_proj.weight", "x_proj_b.weight", "conv1d.weight", "patch_embed.proj.weight", "head.weight"} <= ends
    assert not ends & {"A_log", "A_b_log", "D", "D_b", "dt_proj.bias", "pos_embed", "cls_token"}


def test_rate_warms_up_and_falls_to_zero(script: ModuleType) -> None:
    rates = [script.factor(step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001
    assert sorted(rates[10:], reverse=True) == rates[10:]


@pytest.mark.slow
def test_models_learn_are_drawn_and_saved(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels, *tests = script.digits()
    monkeypatch.setattr(script, "digits", lambda: (images[:256], labels[:256], *tests))
    script.main(["--models", "vim", "hybrid", "--epochs", "3", "--seeds", "1", "-o", str(tmp_path)])
    runs = json.loads((tmp_path / "digits.json").read_text())["runs"]
    for name in ("vim", "hybrid"):
        losses = [loss for _, loss, _ in runs[name][0]["curve"]]
        assert losses[-1] < losses[0]
    assert "<svg" in (tmp_path / "digits.svg").read_text()
    script.main(["--models", "vim", "--epochs", "1", "--seeds", "1", "--out", str(tmp_path / "model")])
    assert "saved in" in capsys.readouterr().out
    model = hg.load(tmp_path / "model")
    assert script.accuracy(model, *tests) == pytest.approx(script.accuracy(script.train("vim", 0, 1)[0], *tests))
