"""`hybridgen prune-budget`."""

import json
import math
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F

import hybridgen as hg
from hybridgen.model.prune_budget import BudgetSearch, with_budgets
from tests.cli.conftest import TINY, Program

DOCUMENT = {
    "input": {"type": "tokens", "vocab_size": 256},
    "backbone": {
        "d_model": 32,
        "blocks": {
            "a": {"mixer": {"type": "attention", "num_heads": 2, "selective": True}},
            "b": {"mixer": {"type": "attention", "num_heads": 4, "num_heads_kv": 1, "selective": True}},
            "m": {"mixer": {"type": "mamba1", "d_state": 4}},
        },
        "pattern": "a m b a",
    },
    "head": {"type": "lm"},
}
TEXT = b"the cat sat on the mat and the dog sat on the cat. " * 6


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model that has seen the text a few times: what it hides has a use."""
    torch.manual_seed(0)
    model = hg.build(hg.ModelSpec.model_validate(DOCUMENT))
    optimizer, ids = torch.optim.Adam(model.parameters(), lr=5e-3), torch.tensor(list(TEXT))[None, :200]
    for _ in range(15):
        loss = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hg.save(model, tmp_path / "model")
    (tmp_path / "text.txt").write_bytes(TEXT)
    return tmp_path


def test_curve_and_document(hybridgen: Program, trained: Path) -> None:
    options = ("prune-budget", trained / "model", "--data", trained / "text.txt", "--context", "64")
    out = trained / "out.yaml"
    result = hybridgen(*options, "--target-memory", "0.2", "--json", "-o", out, "--save", trained / "pruned")
    assert (result.status, result.err) == (0, "")
    curve = json.loads(result.out)
    memory = [point["memory"] for point in curve]
    assert memory[0] == 1
    assert memory == sorted(set(memory), reverse=True)
    assert memory[-1] <= 0.2 < memory[-2]
    assert curve[0]["budgets"] == {"0": 63, "2": 63, "3": 63}
    wide, narrow = 2 * 16, 8  # channels of the keys of a layer of each kind
    budgets = curve[-1]["budgets"]
    share = (wide * (budgets["0"] + budgets["3"]) + narrow * budgets["2"]) / (63 * (2 * wide + narrow))
    assert memory[-1] == pytest.approx(share)
    assert hybridgen(*options, "--target-memory", "0.2", "--json").out == result.out
    pruned, whole = hg.load(trained / "pruned"), hg.load(trained / "model")
    for model in (pruned, hg.build(hg.load_spec(out))):
        layers = model.spec.backbone.layers
        assert {str(index): layers[index].mixer.context_budget for index in (0, 2, 3)} == budgets
    rows = torch.tensor(list(TEXT[:256])).view(4, 64)
    for model, point in ((whole, curve[0]), (pruned, curve[-1])):
        with torch.no_grad():
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()
        assert point["loss"] == pytest.approx(loss, rel=1e-5)
        assert point["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    table = hybridgen(*options, "--target-memory", "0.5").out.splitlines()
    assert table[0].split() == ["memory", "perplexity", "layer", "0", "layer", "2", "layer", "3"]
    assert table[1].split()[0] == "1.0000"


def test_each_step_is_the_cheapest(trained: Path) -> None:
    model = hg.load(trained / "model")
    search = BudgetSearch(model, torch.tensor(list(TEXT[:128])).view(2, 64))
    first, second = search.run(0.85)[:2]
    rates = {}
    for layer in search.layers:
        one = search.measured({**first.per_layer, layer: 31})
        rates[layer] = (one.loss - first.loss) / (first.memory - one.memory)
    (changed,) = [layer for layer in search.layers if second.per_layer[layer] == 31]
    assert rates[changed] == min(rates.values())


def test_a_budget_beyond_the_text_changes_nothing(trained: Path) -> None:
    model = hg.load(trained / "model")
    spec = with_budgets(model.spec, {0: 400, 3: 7})
    assert [layer.mixer.model_dump().get("context_budget") for layer in spec.backbone.layers] == [400, None, None, 7]
    assert spec.backbone.pattern == "a_k400 m b a_k7"
    assert hg.ModelSpec.model_validate(spec.document()) == spec


def test_ids_in_several_forms(hybridgen: Program, tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["input"]["vocab_size"] = 300
    hg.save(hg.build(hg.ModelSpec.model_validate(document)), tmp_path / "model")
    ids = [(7 * n * n + 3) % 300 for n in range(80)]
    (tmp_path / "a.txt").write_text(" ".join(map(str, ids)))
    (tmp_path / "b.json").write_text(json.dumps(ids))
    numpy.save(tmp_path / "c.npy", numpy.array(ids, dtype=numpy.uint16))
    outputs = {
        hybridgen(
            "prune-budget", tmp_path / "model", "--data", tmp_path / name, "--context", "40", "--target-memory", "0.5"
        ).out
        for name in ("a.txt", "b.json", "c.npy")
    }
    assert len(outputs) == 1
    assert "perplexity" in outputs.pop()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"1 2 x", (), "must hold token ids, as this model has a vocabulary of 300"),
        (b"\xff\xfe", (), "must hold token ids"),
        (b"[1, 2.5, 3, 4]", (), "must hold token ids"),
        (b"1 2 3 300", (), "ids must lie in 0 .. 299; given 300"),
        (b"1 2 3", (), "must hold at least 4 tokens; given 3"),
        (b"1 2 3 4 5 6", ("--target-memory", "0.1"), "between 2 keys of 5, 0.4, and 1; given 0.1"),
        (b"1 2 3 4 5 6", ("--target-memory", "0.5", "--shrink", "1"), "shrink must lie between 0 and 1; given 1.0"),
    ],
)
def test_what_is_wrong_is_said(
    hybridgen: Program, tmp_path: Path, content: bytes, options: tuple[str, ...], words: str
) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["input"]["vocab_size"] = 300
    hg.save(hg.build(hg.ModelSpec.model_validate(document)), tmp_path / "model")
    (tmp_path / "data").write_bytes(content)
    result = hybridgen("prune-budget", tmp_path / "model", "--data", tmp_path / "data", *options)
    assert result.status == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_models_and_files_that_do_not_fit(hybridgen: Program, tmp_path: Path) -> None:
    assert hybridgen("build", TINY, "-o", tmp_path / "tiny").status == 0
    (tmp_path / "data").write_text("1 2 3 4 5")
    result = hybridgen("prune-budget", tmp_path / "tiny", "--data", tmp_path / "data")
    assert result.status == 2
    assert "selective: true" in result.err
    hg.save(hg.build(hg.ModelSpec.model_validate(DOCUMENT)), tmp_path / "model")
    result = hybridgen("prune-budget", tmp_path / "model", "--data", tmp_path / "none")
    assert result.status == 2
    assert "none: No such file" in result.err
    out = tmp_path / "absent" / "out.yaml"
    result = hybridgen(
        "prune-budget", tmp_path / "model", "--data", tmp_path / "data", "--target-memory", "1", "-o", out
    )
    assert result.status == 2
    assert "in a directory that exists" in result.err
    result = hybridgen("prune-budget", tmp_path / "model", "--data", tmp_path / "data", "--save", tmp_path / "model")
    assert result.status == 2
    assert "saved from Python" in result.err
