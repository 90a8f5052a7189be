"""Latency: which calls are timed, on a clock of the tests' own, and what is made of their times."""

import pytest
import torch

from hybridgen.errors import HybridgenError
from hybridgen.model.backbone import Backbone
from hybridgen.model.model import HybridModel
from hybridgen.objectives import latency
from hybridgen.objectives.latency import LatencyObjective
from tests.objectives.models import DECODES, DOCUMENTS, IMAGE_TOKENS, spec_of


class Work:
    """A clock that only work moves: a pass takes 1 ms for each token of a row, making a state takes a day.

    Attributes:
        now: The time in seconds.
        calls: Of each pass, how many tokens of a row it read, and whether it had a state.
        slow: Extra seconds for each pass of several tokens, in turn.
        modes: Of the passes: training, inference mode, rows, dtype of what came out.
    """

    def __init__(self, monkeypatch):
        self.now, self.calls, self.slow, self.modes = 0.0, [], [], set()
        forward, init_state = Backbone.forward, HybridModel.init_state

        def timed_forward(backbone, x, states, span):
            length = x.shape[1]
            self.now += length / 1e3 + (self.slow.pop(0) if self.slow and length > 1 else 0.0)
            self.calls.append((length, states is not None))
            out = forward(backbone, x, states, span)
            self.modes.add((backbone.training, torch.is_inference_mode_enabled(), len(x), out.dtype))
            return out

        def timed_init_state(*arguments, **options):
            self.now += 86_400.0
            return init_state(*arguments, **options)

        monkeypatch.setattr(Backbone, "forward", timed_forward)
        monkeypatch.setattr(HybridModel, "init_state", timed_init_state)
        monkeypatch.setattr(latency, "_clock", lambda: self.now)


@pytest.fixture
def work(monkeypatch):
    return Work(monkeypatch)


@pytest.mark.parametrize("name", DECODES)
def test_models_that_decode_read_a_prompt_and_then_token_by_token(work, name):
    one = LatencyObjective(seq_len=24, batch_size=3, decode_steps=5, warmup=2, repeats=3)
    found = one.measure(spec_of(name))
    prompt = 26 if name == "memory tokens" else 24
    assert work.calls == [(prompt, True), *[(1, True)] * 5] * (2 + 3)
    assert work.modes == {(False, True, 3, torch.float32)}
    assert found.metrics == pytest.approx(
        {
            "prefill_ms": prompt,
            "prefill_tokens_per_s": 3 * 24 / (prompt / 1e3),
            "decode_ms": 1,
            "decode_tokens_per_s": 3 * 1e3,
        }
    )
    assert found.details["seq_len"] == 24


@pytest.mark.parametrize(("name", "tokens"), [("classifier", 24), ("bidirectional", 24), ("images", IMAGE_TOKENS)])
def test_models_that_cannot_decode_only_read(work, name, tokens):
    one = LatencyObjective(seq_len=None if name == "images" else 24, batch_size=2, warmup=1, repeats=2)
    found = one.measure(spec_of(name))
    assert work.calls == [(tokens, False)] * 3
    assert found.metrics == pytest.approx({"prefill_ms": tokens, "prefill_tokens_per_s": 2e3})
    assert (found.details["decodes"], found.details["seq_len"]) == (False, tokens)


def test_no_steps_are_prefill_alone(work):
    found = LatencyObjective(seq_len=8, decode_steps=0, warmup=0, repeats=1).measure(spec_of("tokens"))
    assert work.calls == [(8, True)]
    assert list(found.metrics) == ["prefill_ms", "prefill_tokens_per_s"]


def test_medians_of_repeats_without_the_warm_up(work):
    """A slow repeat does not move them, and the first calls do not count."""
    work.slow = [1000.0, 1000.0, 0.0, 9.0, 0.2, 0.1, 0.3]
    found = LatencyObjective(seq_len=100, decode_steps=2, warmup=2, repeats=5).measure(spec_of("tokens"))
    assert found.metrics["prefill_ms"] == pytest.approx(300)
    assert found.metrics["decode_ms"] == pytest.approx(1)
    spread = found.details["prefill_ms"]
    assert spread["repeats"] == pytest.approx([100, 9100, 300, 200, 400])
    assert [spread[name] for name in ("q1", "median", "q3")] == pytest.approx([200, 300, 400])


def test_one_repeat_is_its_own_spread(work):
    spread = LatencyObjective(seq_len=10, repeats=1).measure(spec_of("tokens")).details["prefill_ms"]
    assert spread.pop("repeats") == pytest.approx([10])
    assert spread == pytest.approx({"q1": 10, "median": 10, "q3": 10})


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in DOCUMENTS), ("tokens", "bfloat16"), ("images", "float16")]
)
def test_real_times_agree_with_each_other(name, dtype):
    """On a real clock: rates are tokens by times, and quartiles stand in order."""
    one = LatencyObjective(seq_len=None if name == "images" else 40, batch_size=2, decode_steps=2, dtype=dtype)
    found = one.measure(spec_of(name))
    length = IMAGE_TOKENS if name == "images" else 40
    for phase, tokens in (("prefill", 2 * length), ("decode", 2)):
        assert (f"{phase}_ms" in found.metrics) == (phase == "prefill" or name in DECODES)
        if f"{phase}_ms" in found.metrics:
            spread = found.details[f"{phase}_ms"]
            rate = found.metrics[f"{phase}_tokens_per_s"] * found.metrics[f"{phase}_ms"] / 1e3
            assert rate == pytest.approx(tokens)
            assert 0 < min(spread["repeats"]) <= spread["q1"] <= spread["median"] <= spread["q3"]
            assert spread["median"] == found.metrics[f"{phase}_ms"]


def test_without_a_length_prompts_have_512_tokens():
    assert [LatencyObjective().length(spec_of(name)) for name in ("tokens", "images")] == [512, IMAGE_TOKENS]


def test_what_the_times_depend_on_is_said():
    details = LatencyObjective(seq_len=4, repeats=1).measure(spec_of("hidden")).details
    assert details["threads"] == torch.get_num_threads()
    assert details["torch"] == torch.__version__
    assert details["device"]


def test_more_tokens_per_second_are_better():
    names = ("prefill_ms", "prefill_tokens_per_s", "decode_ms", "decode_tokens_per_s")
    assert [LatencyObjective.goal(name) for name in names] == ["min", "max", "min", "max"]


def test_images_have_a_length_of_their_own():
    LatencyObjective(seq_len=IMAGE_TOKENS).check(spec_of("images"))
    LatencyObjective(seq_len=18).check(spec_of("tokens"))
    wrong = LatencyObjective(seq_len=18)
    for method in (wrong.check, wrong.measure):
        with pytest.raises(HybridgenError, match="latency: seq_len: this model reads images of 17 tokens"):
            method(spec_of("images"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_told():
    with pytest.raises(HybridgenError, match="device 'cuda' is not there"):
        LatencyObjective(device="cuda").measure(spec_of("tokens"))
