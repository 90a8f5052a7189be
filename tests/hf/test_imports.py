"""Who imports what: transformers is never a surprise, and a directory opens without our name as well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hybridgen as hg
from tests.helpers.hub_models import language_model

ROOT = Path(__file__).parents[2]

_BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def python(code, tmp_path, expect=0, **environment):
    """Runs code in a fresh interpreter, with a cache of transformers' own; returns what it wrote."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def test_importing_hybridgen_never_imports_transformers(tmp_path):
    hg.save(language_model(), tmp_path / "model", format="hf")
    code = """
import sys
import hybridgen as hg
for name in hg.__all__:
    getattr(hg, name)
hg.save(hg.load("model"), "again", format="hf")
print([name for name in ("transformers", "accelerate", "peft", "liger_kernel", "kernels") if name in sys.modules])
"""
    assert python(code, tmp_path).strip() == "[]"


def test_a_missing_extra_gives_the_command(tmp_path):
    error = python(_BLOCKER.format(names=["transformers"]) + "import hybridgen.hf", tmp_path, expect=1)
    assert error.strip().endswith(
        "hybridgen.hf needs transformers, which is not installed: pip install 'hybridgen[hf]'"
    )


def test_directories_open_without_the_import_and_save_what_opens_again(tmp_path):
    pytest.importorskip("transformers")
    from hybridgen.hf import wrap

    hg.save(language_model(), tmp_path / "ours", format="hf")
    wrap(language_model()).save_pretrained(tmp_path / "theirs")
    code = """
import os, torch
from transformers import AutoConfig, AutoModelForCausalLM
for name in ("ours", "theirs"):
    try:
        AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError("opened without leave")
for name in ("ours", "theirs"):
    assert type(AutoConfig.from_pretrained(name, trust_remote_code=True)).__module__ == "hybridgen.hf.config"
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__ == "hybridgen.hf.language", type(model)
    model.save_pretrained("again")
    assert [one for one in os.listdir("again") if one.endswith(".py")] == ["modeling_hybridgen.py"]
    again = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    os.rename("again", name + "-again")
"""
    python(code, tmp_path)
    for name in ("ours", "theirs"):
        again, before = tmp_path / f"{name}-again", tmp_path / name
        assert (again / "modeling_hybridgen.py").read_text() == (before / "modeling_hybridgen.py").read_text()
        assert hg.load(again).spec == hg.load(before).spec


def test_without_the_package_the_shim_says_what_to_install(tmp_path):
    pytest.importorskip("transformers")
    hg.save(language_model(), tmp_path / "model", format="hf")
    code = _BLOCKER.format(names=["hybridgen"]) + (
        "from transformers import AutoModelForCausalLM\n"
        "AutoModelForCausalLM.from_pretrained('model', trust_remote_code=True)\n"
    )
    assert "pip install 'hybridgen[hf]'" in python(code, tmp_path, expect=1)


@pytest.mark.parametrize("version", ["4.57.6", "5.20.2", "5.24.0"])
def test_other_versions_of_transformers_are_refused(tmp_path, version):
    code = f"import transformers\ntransformers.__version__ = {version!r}\nimport hybridgen.hf"
    error = python(code, tmp_path, expect=1).strip()
    assert error.endswith(f"works with transformers 5.23, and {version} is installed: pip install 'hybridgen[hf]'")
