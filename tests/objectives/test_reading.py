"""Objectives as they are written on a command line, and what is said of those that are at fault."""

import json
import subprocess
import sys

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.objectives import KINDS, objective_from, parse_objectives


def parsed(*texts):
    return {one.key: one for one in parse_objectives(texts)}


def test_several_in_one_text_and_several_texts_are_the_same():
    together = parse_objectives(["cost,latency(seq_len=64,dtype=bfloat16),peak_memory"])
    assert together == parse_objectives(["cost", " latency( seq_len = 64 , dtype = bfloat16 ) ,peak_memory"])
    assert [one.key for one in together] == ["cost", "latency", "peak_memory"]


def test_brackets_may_be_empty():
    assert parse_objectives(["cost()"]) == parse_objectives(["cost"])


def test_values_are_yaml():
    found = parsed("latency(seq_len=128,dtype='float16'),peak_memory(train=false,device=\"cuda:1\")")
    assert (found["latency"].seq_len, found["latency"].dtype) == (128, "float16")
    assert (found["peak_memory"].train, found["peak_memory"].device) == (False, "cuda:1")


@pytest.mark.parametrize(("written", "length"), [("4k", 4096), ("1M", 2**20), ("4096", 4096), ("'2k'", 2048)])
@pytest.mark.parametrize("kind", ["cost", "latency", "peak_memory"])
def test_lengths_may_have_a_unit(kind, written, length):
    (one,) = parse_objectives([f"{kind}(seq_len={written})"])
    assert one.seq_len == length


def test_colons_and_brackets_may_stand_in_the_path_of_a_file(tmp_path):
    file = tmp_path / "a:b (1).py"
    (one,) = parse_objectives([f"python:{file}:norm"])
    assert (one.file, one.function) == (file, "norm")


@pytest.mark.parametrize(
    "text", ["cost(seq_len=4k)", "latency(repeats=3)", "peak_memory(train=false)", "python:a.py:f"]
)
def test_settings_make_the_same_objective_again(text):
    (one,) = parse_objectives([text])
    assert objective_from(json.loads(json.dumps(one.settings()))) == one


SHAPE = "write NAME or NAME(setting=value,...); given "
FAULTS = {
    "": SHAPE + "''",
    "cost,": SHAPE + "''",
    "cost cost": SHAPE + "'cost cost'",
    "latncy": "there is no 'latncy'; did you mean latency?",
    "Cost": "there is no 'Cost'; did you mean cost?",
    "zzz(a=1)": f"there is no 'zzz'; there are {', '.join(KINDS)}",
    "cost,latency,cost": "cost stands there twice; write it once, with all its settings",
    "latency(seqlen=4)": "latency has no setting 'seqlen'; did you mean seq_len?",
    "cost(x=1)": "cost has no setting 'x'; it takes seq_len, batch_size, dtype",
    "cost(4096)": "cost: settings are name=value with commas between; given '4096'",
    "cost(seq_len=1,)": "cost: settings are name=value with commas between; given ''",
    "cost(seq_len=1,seq_len=2)": "cost: seq_len stands there twice",
    "cost(": "brackets or quotes do not match in 'cost('",
    "cost)": "brackets or quotes do not match in 'cost)'",
    "cost(dtype='float32)": 'brackets or quotes do not match in "cost(dtype=\'float32)"',
    "cost(seq_len=long)": "cost: seq_len: must be a whole number; given 'long'",
    "cost(seq_len=2026-13-45)": "cost: seq_len: must be a whole number; given '2026-13-45'",
    "cost(seq_len=0)": "cost: seq_len: must be 1 or more; given 0",
    "cost(seq_len=true)": "cost: seq_len: must be a whole number; given True",
    "cost(batch_size=2.5)": "cost: batch_size: must be a whole number; given 2.5",
    "cost(batch_size=)": "cost: batch_size: must be a whole number; given None",
    "latency(repeats=1001)": "latency: repeats: must be 1000 or less; given 1001",
    "latency(decode_steps=-1)": "latency: decode_steps: must be 0 or more; given -1",
    "latency(dtype=fp8)": "latency: dtype: must be 'float32', 'float16', 'bfloat16' or 'float64'; given 'fp8'",
    "latency(device=gpu)": "latency: device: must be cpu, cuda, or cuda:1 for one of several; given 'gpu'",
    "latency(device=1)": "latency: device: must be text; given 1",
    "peak_memory(train=3)": "peak_memory: train: must be true or false; given 3",
    "python": "write python:FILE.py:function; given 'python'",
    "python:norms.py": "python: place: must be FILE.py:function; given 'norms.py'",
    "python::norm": "python: place: must be FILE.py:function; given ':norm'",
    "python:a.py:norm(x)": "python: place: must be FILE.py:function; given 'a.py:norm(x)'",
    "python:a.py:f,python:a.py:f": "python:a.py:f stands there twice; write it once, with all its settings",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_told_with_what_to_do(text):
    with pytest.raises(HybridgenError) as error:
        parse_objectives([text])
    assert str(error.value) == f"--objective: {FAULTS[text]}"


def test_every_fault_of_an_objective_is_told():
    with pytest.raises(HybridgenError) as error:
        parse_objectives(["latency(seq_len=0,dtype=fp8,colour=red)"])
    said = str(error.value)
    assert said.count("\n") == 2
    assert all(line.startswith("--objective: latency") for line in said.split("\n"))
    assert all(name in said for name in ("seq_len", "dtype", "colour"))


def test_functions_of_one_name_are_refused(tmp_path):
    """Their numbers would have the same name."""
    with pytest.raises(HybridgenError, match=r"both have the function f, .* rename one"):
        parse_objectives([f"python:{tmp_path}/a.py:f", f"python:{tmp_path}/b.py:f"])
    assert len(parse_objectives([f"python:{tmp_path}/a.py:f,python:{tmp_path}/a.py:g"])) == 2


def test_torch_is_not_loaded(tmp_path):
    """By reading, checking and saying the settings; the process that supervises a sweep does no more."""
    file = tmp_path / "norms.py"
    file.write_text("import torch\n\ndef norm(spec):\n    return 1\n")
    program = f"""if True:
        import sys
        import hybridgen as hg
        from hybridgen.objectives import KINDS, objective_from, parse_objectives
        spec = hg.ModelSpec.model_validate({{"backbone": {{"d_model": 32, "n_layer": 1}}}})
        for one in parse_objectives(["cost,latency,peak_memory,python:{file}:norm"]):
            one.check(spec)
            objective_from(one.settings())
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)
