"""Training on tasks, and whole probes."""

import json
import math
import multiprocessing
import os
import time
from dataclasses import asdict, replace

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.probing import PRESETS, Training, attention_baseline, mlp_control, probe, train_on_task
from hybridgen.probing.running import _Job, _results
from hybridgen.probing.training import _batches
from hybridgen.tasks import InContextRecall, SelectiveCopying, StateTracking

SMALL = {"d_model": 16, "n_layer": 2, "ssm": {"type": "mamba1", "d_state": 4}, "d_intermediate": 0}
SPEC = hg.ModelSpec.model_validate({"name": "small", "backbone": SMALL})
HYBRID = hg.ModelSpec.model_validate(
    {
        "name": "hybrid",
        "backbone": {
            "d_model": 64,
            "n_layer": 2,
            "attn_layer_idx": [1],
            "ssm": {"type": "mamba1", "d_state": 16},
            "d_intermediate": 128,
            "attn": {"num_heads": 4, "rotary_emb_dim": 16},
            "attn_mlp_d_intermediate": 128,
        },
    }
)
TASK = InContextRecall(vocab_size=8, seq_len=8)
SHORT = Training(steps=6, batch_size=4, warmup=2, evaluate_every=4, test_examples=10)


@pytest.fixture(autouse=True)
def one_thread():
    """As a probe's own processes; several threads on cores that are busy wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_is_reproducible_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = train_on_task(SPEC, TASK, SHORT, seed=1)
    assert torch.equal(torch.rand(1), expected)
    second = train_on_task(SPEC, TASK, SHORT, seed=1)
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert train_on_task(SPEC, TASK, SHORT, seed=2).loss != first.loss
    assert [step for step, _ in first.curve] == [4, 6]
    assert (first.steps, first.task, first.seed) == (6, "in-context-recall", 1)


def test_the_schedule_warms_up_and_ends_at_zero():
    training = Training(steps=100, warmup=10)
    assert training.rate_factor(0) == pytest.approx(0.1)
    assert training.rate_factor(9) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.09)))
    assert training.rate_factor(50) == pytest.approx(0.5)
    assert training.rate_factor(99) < 0.001


def test_a_training_set_is_read_whole_in_every_epoch():
    training = replace(SHORT, steps=10, train_examples=20)
    batches = [batch.tolist() for batch in _batches(training, seed=0)]
    assert [len(batch) for batch in batches] == [4] * 10
    epochs = [sorted(index for batch in half for index in batch) for half in (batches[:5], batches[5:])]
    assert epochs == [list(range(20))] * 2
    assert batches[:5] != batches[5:]
    fresh = [index for batch in _batches(SHORT, seed=0) for index in batch.tolist()]
    assert fresh == list(range(24))


def test_the_loss_is_of_the_answers_or_of_every_token(monkeypatch):
    """The first loss of fresh weights is near log(vocab) either way; what counts is which positions it has."""
    counted = []
    original = torch.nn.functional.cross_entropy

    def spy(logits, targets, **options):
        if options.get("ignore_index") == -100:
            counted.append(int((targets != -100).sum()))
        return original(logits, targets, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy)
    examples = TASK.sample(range(4), "train", seed=0)
    train_on_task(SPEC, TASK, replace(SHORT, steps=1, loss="masked"))
    train_on_task(SPEC, TASK, replace(SHORT, steps=1, loss="lm"))
    assert counted == [int(examples.mask.sum()), 4 * 7]


def test_a_run_that_diverges_is_reported():
    run = train_on_task(SPEC, TASK, replace(SHORT, steps=50, warmup=0), learning_rate=1e30)
    assert run.has_diverged
    assert run.steps < 50
    assert run.loss is None
    json.dumps(asdict(run), allow_nan=False)


def test_a_solved_run_ends_early_and_says_when():
    run = train_on_task(SPEC, TASK, replace(SHORT, threshold=0.001, stop_at=0.0))
    assert (run.steps, run.threshold_step) == (4, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps: must be a whole number, 1 or more; given 0"),
        ({"train_examples": 0}, "train_examples: must be a whole number, 1 or more; given 0"),
        ({"learning_rates": ()}, "learning_rates: must be numbers above 0"),
        ({"learning_rates": (math.inf,)}, "learning_rates: must be numbers above 0"),
        ({"loss": "mse"}, "loss: must be masked or lm; given 'mse'"),
        ({"threshold": 0.0}, "threshold: must be above 0"),
    ],
)
def test_settings_of_training_are_checked(change, words):
    with pytest.raises(HybridgenError, match=words):
        replace(SHORT, **change)


def test_a_probe_holds_every_task_model_and_seed():
    seen = []
    names = ("parity", "compression", "length-extrapolation")
    result = probe(SPEC, "smoke", names, seeds=2, steps=2, progress=lambda *one: seen.append(one[:2]))
    assert seen == [(done, 18) for done in range(1, 19)]
    places = [(one.task, one.role, [run.seed for run in one.runs]) for one in result.results]
    assert places == [(name, role, [0, 1]) for name in names for role in ("model", "attention", "mlp")]
    assert list(result.of("length-extrapolation").evaluations) == ["1x", "2x", "4x"]
    assert result.of("length-extrapolation").accuracy == result.of("length-extrapolation").evaluations["4x"]
    assert result.of("parity").chance == 0.5
    assert result.warnings[0].startswith("smoke only shows that everything runs")
    assert not any("differ in parameters" in warning for warning in result.warnings)
    json.dumps(result.to_dict())


def test_stacks_that_cannot_be_matched_are_told():
    """One small layer: the baseline has two, each larger than that."""
    backbone = {"d_model": 16, "n_layer": 1, "ssm": {"type": "mamba1", "d_state": 1, "expand": 1}}
    result = probe(hg.ModelSpec.model_validate({"backbone": backbone}), "smoke", ["parity"], steps=1)
    words = f"the stacks differ in parameters by more than 10 %: model {result.parameters['model']:,}, attention "
    assert any(warning.startswith(words) for warning in result.warnings)
    assert any(warning.startswith("one seed") for warning in result.warnings)


def test_processes_give_the_same_results():
    alone = probe(SPEC, "smoke", ["parity"], seeds=2, learning_rates=[1e-3, 3e-3])
    together = probe(SPEC, "smoke", ["parity"], seeds=2, learning_rates=[1e-3, 3e-3], jobs=2)

    def plain(result):
        found = [replace(run, seconds=0) for one in result.results for run in one.runs]
        return [replace(run, loss=round(run.loss or 0, 4)) for run in found]

    assert plain(alone) == plain(together)


class Deadly(InContextRecall):
    """A task whose process dies, as one that the system kills for its memory."""

    def draw(self, draws, split):
        os._exit(1)


class Wrong(InContextRecall):
    """A task that fails at once with 8 tokens, and takes a minute for each batch with more."""

    def draw(self, draws, split):
        if self.vocab_size == 8:
            raise HybridgenError("wrong")
        time.sleep(60)
        return super().draw(draws, split)


def test_runs_end_with_a_probe_that_does_not_go_on():
    """As after Ctrl-C, the processes are ended in the middle of their runs."""
    wrong, long = (
        _Job(SPEC.document(), Wrong(vocab_size=size, seq_len=8), SHORT, "wrong", "model", 1e-3, 0, "cpu")
        for size in (8, 10)
    )
    started = time.perf_counter()
    with pytest.raises(HybridgenError, match="wrong"):
        list(_results([long, wrong], jobs=2))
    assert time.perf_counter() - started < 45
    assert not multiprocessing.active_children()


def test_a_process_that_dies_ends_the_probe_with_words():
    job = _Job(SPEC.document(), Deadly(vocab_size=8, seq_len=8), SHORT, "deadly", "model", 1e-3, 0, "cpu")
    with pytest.raises(HybridgenError, match="a process of the probe died, perhaps for lack of memory; give --jobs 1"):
        list(_results([job, job], jobs=2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "large"}, "preset: must be one of smoke, tiny, mad; given 'large'"),
        ({"tasks": ["recall"]}, "task: must be one of in-context-recall, .*; given 'recall'"),
        ({"seeds": 0}, "seeds: must be a whole number, 1 or more; given 0"),
        ({"steps": 0}, "steps: must be a whole number"),
        ({"jobs": 0}, "jobs: must be a whole number, 1 or more; given 0"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
        ({"loss": "all"}, "loss: must be masked or lm"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(HybridgenError, match=words):
        probe(SPEC, **{"preset": "smoke"} | arguments)


def test_presets_have_a_training_for_every_task_and_the_published_sizes():
    for preset in PRESETS.values():
        assert list(preset.tasks) == list(preset.training)
    mad = PRESETS["mad"]
    sizes = {name: (task.vocab_size, task.seq_len) for name, task in mad.tasks.items()}
    assert sizes["in-context-recall"] == sizes["fuzzy-recall"] == (16, 128)
    assert sizes["noisy-recall"] == (32, 128)
    assert sizes["selective-copying"] == (16, 256)
    assert sizes["compression"] == (16, 32)
    assert sizes["memorization"] == (256, 32)
    training = mad.training["in-context-recall"]
    assert training.steps * training.batch_size == 200 * training.train_examples == 200 * 12_800
    training = mad.training["memorization"]
    assert training.steps * training.batch_size == 200 * training.train_examples == 200 * 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "least", "most"),
    [
        ("in-context-recall", 300, 0.97, 0.2),
        ("noisy-recall", 300, 0.95, 0.2),
        ("memorization", 300, 0.97, 0.05),
        ("length-extrapolation", 500, 0.9, 0.2),
    ],
)
def test_a_hybrid_solves_what_the_control_cannot(name, steps, least, most):
    """One layer of Mamba and one of attention, at the sizes of `tiny`; the control is at chance after 100 steps."""
    task, training = PRESETS["tiny"].tasks[name], replace(PRESETS["tiny"].training[name], steps=steps)
    assert train_on_task(HYBRID, task, training).accuracy > least
    control = train_on_task(mlp_control(HYBRID), task, replace(training, steps=100)).accuracy
    assert control < most
    assert abs(control - task.chance) < 0.05


@pytest.mark.slow
def test_attention_copies_and_the_control_cannot():
    task = SelectiveCopying(vocab_size=6, seq_len=16, tokens=3)
    training = replace(PRESETS["tiny"].training["selective-copying"], steps=500)
    assert train_on_task(attention_baseline(HYBRID), task, training).accuracy > 0.9
    assert train_on_task(mlp_control(HYBRID), task, replace(training, steps=100)).accuracy < 0.35


@pytest.mark.slow
def test_a_state_space_model_tracks_parity_and_the_control_cannot():
    training = replace(PRESETS["tiny"].training["parity"], steps=200)
    assert train_on_task(HYBRID, StateTracking(group="parity", seq_len=8), training).accuracy > 0.9
    control = train_on_task(mlp_control(HYBRID), StateTracking(group="parity", seq_len=8), replace(training, steps=100))
    assert control.accuracy < 0.6
