"""What the README shows is what happens."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.cli.units import human_bytes, human_count

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
HYBRIDGEN = [sys.executable, "-m", "hybridgen.cli"]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    (text,) = _blocks("yaml")
    path.write_text(text, encoding="utf-8")
    return path


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HYBRIDGEN, *arguments], capture_output=True, text=True, check=False)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_python_examples_run(config: Path) -> None:
    own, transformers = _blocks("python")
    names: dict[str, object] = {}
    exec(compile(own, "README.md", "exec"), names)
    assert tuple(names["logits"].shape) == (1, 3, 1000)
    assert tuple(names["ids"].shape) == (1, 11)
    (command,) = [line for block in _blocks("sh") for line in block.splitlines() if "--format hf" in line]
    assert _run(*shlex.split(command, comments=True)[1:]).returncode == 0
    exec(compile(transformers, "README.md", "exec"), names)
    assert tuple(names["ids"].shape) == (1, 11)


def test_commands_run(config: Path) -> None:
    blocks = [block for block in _blocks("sh") if "config.yaml" in block]
    assert len(blocks) == 3
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "hybridgen"
        result = _run(*arguments)
        assert result.returncode == 0, result.stderr


def test_error_example_is_the_real_output(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    text = text.replace("num_heads_kv: 2", "num_heads_kv: 3").replace("headdim", "headdimm")
    config.write_text(text, encoding="utf-8")
    result = _run("check", "config.yaml")
    (shown,) = _blocks("text")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == shown


def test_costs_are_those_of_built_models() -> None:
    rows = [
        row.strip("| ").split(" | ") for row in README.splitlines() if re.match(r"\| `[a-z0-9.-]+` \| [\d,]+ \|", row)
    ]
    assert [row[0].strip("`") for row in rows] == ["zonos-v0.1-hybrid", "mamba2attn-2.7b", "llama-3-8b", "vim-tiny"]
    for name, parameters, prefill, decode, kv, other, crossover in rows:
        spec = hg.load_spec(ROOT / "configs" / "model" / f"{name.strip('`')}.yaml")
        cost = hg.cost(spec)
        values = cost.metrics()
        model = hg.build(spec, device="meta", dtype="bfloat16")
        assert parameters == f"{sum(each.numel() for each in model.parameters()):,}"
        assert prefill == human_count(values["prefill_flops"])
        if not cost.has_state:
            assert (decode, kv, other, crossover) == ("-", "-", "-", "-")
            continue
        state = [layer for layer in model.init_state(1, 4096).layers if layer is not None]
        nbytes = sum(tensor.nbytes for layer in state for tensor in layer.tensors().values())
        kv_bytes = sum(layer.k.nbytes + layer.v.nbytes for layer in state if hasattr(layer, "k"))
        assert decode == human_count(values["decode_flops"])
        assert (kv, other) == (human_bytes(kv_bytes), human_bytes(nbytes - kv_bytes))
        assert crossover == ("-" if cost.crossover is None else f"{cost.crossover:,} tokens")


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]
