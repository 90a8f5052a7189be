"""`hybridgen.hydra`: specs from what plain Hydra composed, documents in its ConfigStore."""

import os
import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hybridgen import SpecError, load_spec
from hybridgen.errors import HybridgenError
from hybridgen.hydra import register, spec_from_cfg
from tests.cli.conftest import CONFIGS, TINY

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _own_store():
    store = ConfigStore.instance()
    held = store.repo
    store.repo = dict(held)
    yield
    store.repo = held


def test_the_real_hydra_is_imported():
    assert Path(hydra.__file__).parent.name == "hydra"
    assert "hybridgen" not in hydra.__file__


def test_a_part_of_a_configuration_may_refer_to_the_whole():
    cfg = OmegaConf.create(
        {
            "width": 64,
            "model": {"backbone": {"d_model": "${width}", "n_layer": 2, "ssm": {"type": "mamba2", "headdim": 16}}},
        }
    )
    assert spec_from_cfg(cfg.model).backbone.d_model == 64


@pytest.mark.parametrize("name", ["tiny-hybrid", "tour", "zonos-v0.1-hybrid", "mamba2attn-2.7b"])
def test_shipped_models_come_out_equal(name):
    path = CONFIGS / f"{name}.yaml"
    assert spec_from_cfg(OmegaConf.load(path)) == load_spec(path)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"backbone": {"d_model": "${nothing}", "n_layer": 2}}, "Interpolation key 'nothing' not found"),
        ({"backbone": {"d_model": "???", "n_layer": 2}}, "Missing mandatory value"),
        ([1, 2], "takes the mapping that describes a model, given list"),
        (None, "given NoneType"),
        (OmegaConf.create([1]), "given ListConfig"),
    ],
)
def test_what_cannot_be_read_is_worded(cfg, words):
    with pytest.raises(HybridgenError) as error:
        spec_from_cfg(cfg)
    assert words in str(error.value)


def test_faults_of_the_model_are_those_of_any_document():
    with pytest.raises(SpecError) as error:
        spec_from_cfg(OmegaConf.create({"backbone": {"d_modell": 64, "n_layer": 2}}))
    assert "d_modell" in str(error.value)


def test_registered_documents_are_choices_of_a_group():
    assert register(TINY) == ["tiny-hybrid"]
    assert register(CONFIGS / "mamba-130m.yaml", group="net", name="m") == ["m"]
    with hydra.initialize(config_path=None, version_base="1.3"):
        cfg = hydra.compose(None, ["+model=tiny-hybrid", "+net=m", "model.backbone.ssm.d_state=64"])
    assert spec_from_cfg(cfg.model) == load_spec(TINY, ["backbone.ssm.d_state=64"])
    assert spec_from_cfg(cfg.net) == load_spec(CONFIGS / "mamba-130m.yaml")


def test_a_folder_is_registered_as_a_whole(tmp_path):
    names = register(CONFIGS)
    assert set(names) == {path.stem for path in CONFIGS.glob("*.yaml")}
    with pytest.raises(HybridgenError, match="keep their own names"):
        register(CONFIGS, name="x")
    with pytest.raises(HybridgenError, match=r"holds no \*\.yaml"):
        register(tmp_path)


def test_the_example_of_the_docs_runs_under_plain_hydra(tmp_path):
    (program,) = (
        block for block in re.findall(r"^```python\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE) if "@hydra" in block
    )
    (tmp_path / "app.py").write_text(program, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(TINY.read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "app.py", "--multirun", "model.backbone.ssm.d_state=32,64"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert re.findall(r"^[0-9a-f]{12} .*$", result.stdout, re.MULTILINE) == [*_expected()]


def _expected():
    from hybridgen import cost
    from hybridgen.sweep import spec_id

    for state in (32, 64):
        spec = load_spec(TINY, [f"backbone.ssm.d_state={state}"])
        yield f"{spec_id(spec)} {cost(spec).metrics()['params']}"
