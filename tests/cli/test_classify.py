"""`hybridgen classify`."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hybridgen as hg
from hybridgen.vision import read_picture
from tests.cli.conftest import Program

DOCUMENT = {
    "input": {"type": "patches", "image_size": 8, "patch_size": 4, "cls_token": "middle"},
    "backbone": {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4}, "drop_path": 0.5},
    "head": {"type": "classifier", "num_classes": 4},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose classifier is not near zero."""
    model = hg.build(hg.ModelSpec.model_validate(DOCUMENT))
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    hg.save(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for index, color in enumerate([(255, 0, 0), (0, 255, 0), (20, 20, 200)] * 4):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (20, 12), color).save(paths[-1])
    return paths


def test_probabilities_are_those_of_the_model(hybridgen: Program, model: Path, pictures: list[Path]) -> None:
    result = hybridgen("classify", model, *pictures, "-k", "2", "--json")
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out)
    assert [entry["picture"] for entry in found] == [str(path) for path in pictures]
    loaded = hg.load(model).eval()
    images = torch.stack([read_picture(path, loaded.spec.input) for path in pictures])
    with torch.no_grad():
        shares, classes = loaded(images).softmax(-1).topk(2)
    assert [[each["class"] for each in entry["classes"]] for entry in found] == classes.tolist()
    given = torch.tensor([[each["probability"] for each in entry["classes"]] for entry in found])
    torch.testing.assert_close(given, shares, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\nfish\n",
        "\ufeffcat\ndog\nbird\nfish\n",
        '["cat", "dog", "bird", "fish"]',
        '\ufeff["cat", "dog", "bird", "fish"]',
        '{"0": "cat", "1": "dog", "2": "bird", "3": "fish"}',
        '{"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n03", "bird"], "3": ["n04", "fish"]}',
    ],
)
def test_names_from_a_file(hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text, encoding="utf-8")
    result = hybridgen("classify", model, pictures[0], "--labels", tmp_path / "names")
    assert result.status == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["picture", "rank", "class", "name", "probability"]
    assert lines[1][0] == str(pictures[0])
    names = ["cat", "dog", "bird", "fish"]
    rows = [line[-4:] for line in lines[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]  # no more than there are classes
    assert all(names[int(row[1])] == row[2] for row in rows)
    assert sum(float(row[3]) for row in rows) == pytest.approx(1, abs=1e-3)


def test_names_do_not_steer_the_terminal(hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "names").write_text("Katze \N{CAT FACE}\n\x1b[31mdog\nbi\x07rd\nfish\n", encoding="utf-8")
    result = hybridgen("classify", model, pictures[0], "--labels", tmp_path / "names")
    assert result.status == 0
    assert "\x1b" not in result.out
    assert "\x07" not in result.out
    assert all(name in result.out for name in ("Katze \N{CAT FACE}", "\ufffd[31mdog", "bi\ufffdrd"))


def test_one_bad_picture_does_not_hide_the_others(
    hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("nothing")
    result = hybridgen("classify", model, tmp_path / "bad.png", pictures[0], tmp_path / "absent.png")
    assert result.status == 2
    assert str(pictures[0]) in result.out
    assert "bad.png: is no picture" in result.err
    assert "absent.png: there is no such file" in result.err
    assert "Traceback" not in result.err
    alone = hybridgen("classify", model, tmp_path / "bad.png", "--json")
    assert (alone.status, json.loads(alone.out)) == (2, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", "must name the model's 4 classes; it names 2"),
        ("[1, 2, 3, 4]", "must name each class 0 ... 3 by a text"),
        ('["cat"', "begins like JSON and is none"),
        ('{"a": "x", "b": "x", "c": "x", "d": "x"}', "must name each class 0 ... 3 by a text"),
    ],
)
def test_bad_names_are_refused(
    hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "names").write_text(text)
    result = hybridgen("classify", model, pictures[0], "--labels", tmp_path / "names")
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "is not text in UTF-8" in hybridgen("classify", model, pictures[0], "--labels", tmp_path / "bytes").err


def test_models_that_classify_no_images_are_refused(hybridgen: Program, saved: Path, tmp_path: Path) -> None:
    result = hybridgen("classify", saved, "x.png")
    assert result.status == 2
    assert "needs a model of images" in result.err
    hg.save(hg.build(hg.ModelSpec.model_validate({**DOCUMENT, "head": "none"})), tmp_path / "features")
    result = hybridgen("classify", tmp_path / "features", "x.png")
    assert result.status == 2
    assert "needs a head that classifies" in result.err
    assert "--crop-ratio" in hybridgen("classify", "--help").out
