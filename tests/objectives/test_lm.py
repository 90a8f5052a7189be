"""The objective `lm`: training on the bytes of a text file."""

import json
import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.objectives import objective_from, parse_objectives
from hybridgen.objectives.lm import LmObjective
from hybridgen.objectives.lm_training import Text, _held_out_loss
from hybridgen.probing import mlp_control, spec_for
from hybridgen.probing.specs import Ends
from tests.cli.conftest import CONFIGS

SMALL = {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4}, "d_intermediate": 0}
SPEC = hg.ModelSpec.model_validate({"name": "small", "backbone": SMALL})
QUICK = {"seq_len": 16, "batch_size": 4, "steps": 4, "evaluate_every": 2, "windows": 4, "sample": 0}
WITHOUT_TORCH = """
import sys
import hybridgen as hg
from hybridgen.objectives import parse_objectives
(lm,) = parse_objectives([f"lm(text={sys.argv[2]})"])
lm.check(hg.load_spec(sys.argv[1]))
assert "torch" not in sys.modules
"""


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker; several threads on cores that are busy wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cycle(tmp_path):
    """What follows an `a` depends on what stood before it: 0.79 nats per byte for who sees one byte at a time."""
    file = tmp_path / "cycle.txt"
    file.write_text("abacada" * 1000)
    return file


def _without_times(details: dict) -> dict:
    runs = [{**run, "seconds": 0, "tokens_per_second": 0} for run in details["runs"]]
    return {**details, "tokens_per_second": 0, "runs": runs}


def test_a_model_with_memory_learns_what_the_control_cannot(cycle, capsys):
    objective = LmObjective(
        text=str(cycle), seq_len=32, batch_size=8, steps=60, learning_rate=[2e-2], evaluate_every=30, sample=7
    )
    learned, control = objective.measure(SPEC), objective.measure(mlp_control(SPEC))
    unigram = 4 / 7 * math.log(7 / 4) + 3 / 7 * math.log(7)
    assert learned.details["unigram_loss"] == pytest.approx(unigram, abs=0.05)
    blind = 4 / 7 * math.log(4)
    assert learned.metrics["lm.loss"] < 0.4 * blind
    assert control.metrics["lm.loss"] > 0.95 * blind
    loss = learned.metrics["lm.loss"]
    assert learned.metrics["lm.bits_per_byte"] == pytest.approx(loss / math.log(2))
    assert learned.metrics["lm.perplexity"] == pytest.approx(math.exp(loss))
    details = learned.details
    assert [step for step, _ in details["curve"]] == [step for step, _ in details["held_out_curve"]] == [30, 60]
    assert details["held_out_curve"][-1][1] == loss
    assert details["tokens"] == 60 * 8 * 32
    assert len(details["sample"]["text"]) == 7
    assert details["sample"]["prompt"] in "abacada" * 12
    assert "seed 0, learning rate 0.02: held-out loss" in capsys.readouterr().out


def test_the_held_out_part_is_not_trained_on_and_every_tested_byte_is_predicted_once(tmp_path):
    file = tmp_path / "two"
    file.write_bytes(bytes(range(100)) + bytes(range(100, 141)))
    text = Text(str(file), size=141, first_held_out=100, seq_len=10, windows=9)
    seen = text.rows(text.training_starts(2000, torch.Generator().manual_seed(0)))
    assert seen.shape == (2000, 11)
    assert (seen[:, 1:] == seen[:, :-1] + 1).all()
    assert (int(seen.min()), int(seen.max())) == (0, 99)
    assert text.rows(text.test_starts)[:, 1:].flatten().tolist() == list(range(101, 141))
    fewer = Text(str(file), size=141, first_held_out=100, seq_len=10, windows=2)
    assert fewer.test_starts.tolist() == [100, 120]
    assert fewer.describe() == {
        "bytes": 141,
        "first_held_out": 100,
        "windows": 2,
        "windows_in_all": 4,
        "predicted_bytes": 20,
    }


def test_the_loss_is_the_mean_over_all_tested_bytes(cycle):
    """Whatever the size of the batches: 4 rows and 1, or 5 at once."""
    text = Text(str(cycle), size=7000, first_held_out=6300, seq_len=16, windows=5)
    model = hg.build(spec_for(SPEC, Ends("lm", "lm", 256)))
    rows = text.rows(text.test_starts)
    expected = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()
    for batch_size in (4, 5):
        asked = LmObjective(text=str(cycle), **{**QUICK, "batch_size": batch_size})
        assert _held_out_loss(model, text, asked) == pytest.approx(expected, rel=1e-5)


def test_a_seed_decides_all_numbers_and_leaves_the_global_generator_alone(cycle):
    objective = LmObjective(text=str(cycle), **{**QUICK, "sample": 5}, seeds=2)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = objective.measure(SPEC)
    assert torch.equal(torch.rand(1), expected)
    second = objective.measure(SPEC)
    assert first.metrics == second.metrics
    assert _without_times(first.details) == _without_times(second.details)
    losses = [run["loss"] for run in first.details["runs"]]
    assert losses[0] != losses[1]
    assert first.metrics["lm.loss"] == sum(losses) / 2
    low, high = first.details["interval"]
    assert low < first.metrics["lm.loss"] < high


def test_the_best_rate_is_reported_and_a_run_that_diverges_is_told(cycle):
    found = LmObjective(text=str(cycle), **QUICK, learning_rate=[1e30, 1e-2]).measure(SPEC)
    assert found.details["learning_rate"] == 1e-2
    assert [run["has_diverged"] for run in found.details["runs"]] == [True, False]
    assert math.isfinite(found.metrics["lm.loss"])
    assert any("take a smaller learning rate" in words for words in found.details["warnings"])
    lost = LmObjective(text=str(cycle), **QUICK, learning_rate=[1e30]).measure(SPEC)
    assert math.isinf(lost.metrics["lm.loss"])
    assert math.isinf(lost.metrics["lm.perplexity"])
    json.dumps(lost.details, allow_nan=False)


def test_bytes_that_are_held_out_do_not_count_as_trained_on(cycle):
    """Of 7,000 bytes 700 are trained on, 30 steps of 64 bytes: each about three times."""
    details = LmObjective(text=str(cycle), **{**QUICK, "steps": 30, "evaluate_every": 30}, held_out=0.9).measure(SPEC)
    assert any("each byte was trained on about 3 times" in one for one in details.details["warnings"])


def test_any_bytes_are_text(tmp_path):
    file = tmp_path / "noise.bin"
    file.write_bytes(torch.randint(256, (4000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy())
    found = LmObjective(text=str(file), **{**QUICK, "sample": 40}).measure(SPEC)
    assert found.metrics["lm.loss"] == pytest.approx(math.log(256), abs=0.3)
    sample = found.details["sample"]
    assert "\N{REPLACEMENT CHARACTER}" in sample["prompt"]
    assert all(char.isprintable() or char in "\n\t" for char in sample["prompt"] + sample["text"])


def test_bfloat16_computes_about_the_same(cycle):
    whole, half = (
        LmObjective(text=str(cycle), **QUICK, dtype=dtype).measure(SPEC) for dtype in ("float32", "bfloat16")
    )
    assert whole.metrics["lm.loss"] != half.metrics["lm.loss"]
    assert half.metrics["lm.loss"] == pytest.approx(whole.metrics["lm.loss"], rel=0.01)


def test_settings_travel_with_the_hash_of_the_file(cycle, monkeypatch):
    monkeypatch.chdir(cycle.parent)
    (objective,) = parse_objectives(["lm(text=cycle.txt,learning_rate=3e-3,steps=4)"])
    assert objective.text == str(cycle)
    assert objective.learning_rate == [3e-3]
    settings = objective.settings()
    assert len(settings["sha256"]) == 64
    cycle.write_text("another text " * 500)
    assert objective_from(settings) == objective, "settings of a record do not change with the file"
    with pytest.raises(HybridgenError, match=r"cycle\.txt has changed since the sweep began"):
        objective.measure(SPEC)
    cycle.unlink()
    with pytest.raises(HybridgenError, match="there is no such file"):
        objective.check(SPEC)


@pytest.mark.parametrize(
    ("size", "held_out", "is_long_enough"),
    [(1290, 0.1, True), (1289, 0.1, False), (1290, 0.95, False), (0, 0.5, False)],
)
def test_texts_must_have_a_row_to_train_on_and_one_to_test_on(tmp_path, size, held_out, is_long_enough):
    file = tmp_path / "short.txt"
    file.write_bytes(b"x" * size)
    objective = LmObjective(text=str(file), held_out=held_out)
    if is_long_enough:
        objective.check(SPEC)
    else:
        with pytest.raises(HybridgenError, match=rf"short.txt: has {size:,} bytes; .* 129 bytes each, so about"):
            objective.check(SPEC)


@pytest.mark.parametrize(("name", "words"), [("/dev/zero", "no regular file"), ("nowhere.txt", "no such file")])
def test_what_is_no_file_is_refused(name, words):
    with pytest.raises(HybridgenError, match=words):
        LmObjective(text=name).check(SPEC)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(HybridgenError, match="Is a directory"):
        LmObjective(text=str(tmp_path)).check(SPEC)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("lm", "lm: text: must be given"),
        ("lm(text='')", "lm: text: write the name of a text file; given ''"),
        ("lm(text=a.txt,held_out=1.0)", "lm: held_out: must be below 1.0; given 1.0"),
        ("lm(text=a.txt,learning_rate=0)", "lm: learning_rate.0: must be above 0.0; given 0"),
    ],
)
def test_faults_of_settings_are_told(written, words):
    with pytest.raises(HybridgenError) as caught:
        parse_objectives([written])
    assert str(caught.value) == f"--objective: {words}"


def test_models_that_cannot_learn_text_are_refused(cycle):
    with pytest.raises(HybridgenError, match="vim-tiny: reads images"):
        LmObjective(text=str(cycle)).check(hg.load_spec(CONFIGS / "vim-tiny.yaml"))


def test_checking_does_not_load_torch(cycle):
    place = str(CONFIGS / "tiny-hybrid.yaml")
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, place, str(cycle)], check=True)
