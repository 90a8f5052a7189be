"""`hybridgen classify`."""

import json
import os
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


def test_no_terminal_obeys_names(hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    picture, names = tmp_path / "a\nb\x1b[31m.png", tmp_path / "names"
    pictures[0].rename(picture)
    names.write_text('["\\u001b]0;title\\u0007", "x\\ny", "\\ud800", "fish"]')
    result = hybridgen("classify", model, picture, "--labels", names)
    assert result.status == 0
    assert len(result.out.splitlines()) == 5
    assert all(char.isprintable() or char == "\n" for char in result.out)
    assert r"a\nb\x1b[31m.png" in result.out
    missing = hybridgen("classify", tmp_path / "m\x1b[31m", picture)
    assert missing.status == 2
    assert r"m\x1b[31m: there is no such directory" in missing.err


def test_labels_as_editors_write_them(hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    names = tmp_path / "names"
    texts = (b"\xef\xbb\xbfcat\r\ndog\r\nbird\r\nfish\r\n\r\n", b'\xef\xbb\xbf["cat", "dog", "bird", "fish"]')
    for text in texts:
        names.write_bytes(text)
        result = hybridgen("classify", model, pictures[0], "--labels", names, "--json")
        found = json.loads(result.out)[0]["classes"]
        assert {entry["class"]: entry["name"] for entry in found} == dict(enumerate(["cat", "dog", "bird", "fish"]))
    names.write_text("cat\n\nbird\nfish\n")
    result = hybridgen("classify", model, pictures[0], "--labels", names)
    assert (result.status, "class 1 has an empty name" in result.err) == (2, True)
    os.mkfifo(tmp_path / "pipe")
    result = hybridgen("classify", model, pictures[0], "--labels", tmp_path / "pipe")
    assert (result.status, "is no regular file" in result.err) == (2, True)


def test_weights_that_cannot_run(hybridgen: Program, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    result = hybridgen("classify", model, pictures[0], "--device", "meta")
    assert (result.status, "give --device cpu" in result.err) == (2, True)
    mixed = hg.load(model)
    mixed.patch_embed.half()
    hg.save(mixed, tmp_path / "mixed")
    result = hybridgen("classify", tmp_path / "mixed", pictures[0])
    assert (result.status, "float16 and float32; give a dtype (--dtype)" in result.err) == (2, True)
    assert hybridgen("classify", tmp_path / "mixed", pictures[0], "--dtype", "float32").status == 0
    broken = hg.load(model)
    broken.head.weight = torch.nn.Parameter(torch.full_like(broken.head.weight, torch.nan))
    hg.save(broken, tmp_path / "broken")
    result = hybridgen("classify", tmp_path / "broken", pictures[0], "--json")
    assert (result.status, result.out, "logits are not finite" in result.err) == (2, "", True)


def test_remarks_of_pillow_stay_its_own(hybridgen: Program, model: Path, pictures: list[Path]) -> None:
    image = Image.open(pictures[0]).convert("P")
    image.save(pictures[0], transparency=bytes(range(256)))
    result = hybridgen("classify", model, pictures[0])
    assert (result.status, result.err) == (0, "")


def test_other_models_are_named(hybridgen: Program, pictures: list[Path], tmp_path: Path) -> None:
    document = {**DOCUMENT, "input": {"type": "tokens", "vocab_size": 8}}
    hg.save(hg.build(hg.ModelSpec.model_validate(document)), tmp_path / "tokens")
    result = hybridgen("classify", tmp_path / "tokens", pictures[0])
    assert result.status == 2
    assert f"{tmp_path / 'tokens'}: this needs a model of images" in result.err
