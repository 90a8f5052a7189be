"""What an objective found becomes plain data, or an error with words."""

import json
import math
from typing import ClassVar

import numpy as np
import pytest

from hybridgen.objectives import KINDS, Measurement, Objective
from hybridgen.runs.measuring import measure
from hybridgen.spec import load_spec
from tests.runs.sweeping import ROOT

DOCUMENT = load_spec(ROOT / "configs/model/tiny-hybrid.yaml").document()


@pytest.fixture
def measured(monkeypatch):
    """Runs an objective that returns a value, or raises it."""

    def run(found):
        class Test(Objective):
            kind: ClassVar[str] = "test"

            def measure(self, spec):
                if isinstance(found, BaseException):
                    raise found
                return found

        monkeypatch.setitem(KINDS, "test", Test)
        return measure({"kind": "test"}, DOCUMENT)

    return run


def test_numbers_and_details_become_plain(measured):
    found = Measurement(
        {"whole": np.int64(3), "part": np.float32(0.5), "none": math.nan, "endless": -math.inf, "name\udcff": True},
        {"curve": [(1, np.float64(math.inf)), (2, 0.5)], "texts": {1: "ü\udcff", "deep": {"yes": True, "no": None}}},
    )
    answer = measured(found)
    assert answer.error is None
    assert json.loads(json.dumps(answer.metrics)) == {
        "whole": 3, "part": 0.5, "none": None, "endless": None, "name\\udcff": 1,
    }  # fmt: skip
    assert json.loads(json.dumps(answer.details)) == {
        "curve": [[1, None], [2, 0.5]],
        "texts": {"1": "ü\\udcff", "deep": {"yes": True, "no": None}},
    }
    assert type(answer.metrics["whole"]) is int


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (3.0, "the objective must return a Measurement; it returned float"),
        (Measurement({"loss": "low"}), "metric 'loss' must be a number; given 'low'"),
        (Measurement({"loss": None}), "metric 'loss' must be a number; given None"),
        (Measurement({3: 3.0}), "metric 3 must be a number; given 3.0"),
        (Measurement([("loss", 3.0)]), "the metrics and the details of a Measurement are two dicts"),
        (
            Measurement({}, {"runs": [{"curve": np.zeros(3)}]}),
            "details.runs[0].curve must be plain data, that is texts, numbers, lists and dicts; given a ndarray",
        ),
    ],
)
def test_what_cannot_be_kept_is_an_error(measured, found, words):
    answer = measured(found)
    assert answer.error == words
    assert answer.failure.kind == "raised"
    assert answer.is_foreseen
    assert not answer.metrics


def test_errors_have_one_line_and_a_traceback_of_the_objective_alone(measured):
    answer = measured(ValueError("first\nsecond \udcff"))
    assert answer.error == "ValueError: first"
    assert answer.failure.traceback.endswith("ValueError: first\nsecond \\udcff\n")
    assert "in measure\n    raise found" in answer.traceback
    assert "runs/measuring.py" not in answer.traceback
    assert not answer.is_foreseen
    assert measured(KeyError()).error == "KeyError"


def test_details_that_contain_themselves_are_an_error(measured):
    details = {}
    details["again"] = details
    assert measured(Measurement({}, details)).error.startswith("RecursionError")


def test_exits_are_not_errors(measured):
    with pytest.raises(SystemExit):
        measured(SystemExit(3))
    with pytest.raises(KeyboardInterrupt):
        measured(KeyboardInterrupt())
