"""Files: what lies at a path ends in a document or in a worded fault; all faults of a run come together, in order."""

import os
import socket
import subprocess
import sys

import pytest

import hybridgen
from hybridgen.errors import SpecError
from hybridgen.spec.load import load_document, load_spec, load_text
from hybridgen.spec.places import Place

GOOD = """\
name: tiny
input: {type: tokens, vocab_size: 100}
backbone:
  d_model: 64
  n_layer: 2
  ssm: {type: mamba2, headdim: 16, d_state: 16}
head: lm
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def fault_of(path, *overrides):
    with pytest.raises(SpecError) as error:
        load_document(path, overrides)
    return str(error.value)


def test_a_file_becomes_plain_data_with_places(folder):
    document = load_document("good.yaml", ["backbone.d_model=32"])
    assert document.data["backbone"]["d_model"] == 32
    assert document.locate(("backbone", "n_layer")) == Place("good.yaml", 5, 12, "  n_layer: 2")
    assert document.locate(("backbone", "d_model")).file == "override 1: backbone.d_model=32"
    assert load_document(folder / "good.yaml").locate(("name",)).file == str(folder / "good.yaml")


def test_no_omegaconf_object_and_no_other_type_leaves(folder):
    text = GOOD + 'extra: [1, 1.5, null, true, "x", 2020-01-01, {a: ${name}}, [{}]]\n'.replace("${name}", '"${name}"')
    stack, seen = [load_text(text, overrides=["more={a: [1, 2.5, null, x]}"]).data], set()
    while stack:
        item = stack.pop()
        seen.add(type(item))
        stack.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
    assert seen == {dict, list, str, int, float, bool, type(None)}


def test_utf8_with_a_byte_order_mark(folder):
    (folder / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: \xc3\xbc\n")
    assert load_document("bom.yaml").data == {"name": "ü"}


class TestWhatIsNoDocument:
    @pytest.mark.parametrize(
        ("path", "fault"),
        [
            ("god.yaml", "god.yaml: there is no such file; did you mean good.yaml?"),
            ("good.yml", "good.yml: there is no such file; did you mean good.yaml?"),
            ("good", "good: there is no such file; did you mean good.yaml?"),
            ("xyzxyz", "xyzxyz: there is no such file; check its name and the current folder"),
            ("no/such.yaml", "no/such.yaml: there is no such file; the folder no does not exist"),
            ("good.yaml/x", "good.yaml/x: there is no such file; the folder good.yaml does not exist"),
            (".", ".: this is a folder, not a file; name a file in it, such as ./good.yaml"),
            ("/dev/zero", "/dev/zero: this is not a regular file; give the model's YAML file"),
            ("a\0b", "a\\0b: the file cannot be read: embedded null byte"),
            ("n" * 5000, "n" * 5000 + ": the file cannot be read: file name too long"),
        ],
    )
    def test_paths(self, folder, path, fault):
        assert fault_of(path) == fault

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"", "f.yaml: the file is empty; a model needs at least a `backbone:`"),
            (b" \n\n", "f.yaml: the file is empty; a model needs at least a `backbone:`"),
            (b"\x80\x02ctorch\n\0", "f.yaml: this is binary data, not text; give the model's YAML file"),
            (b"name: x\0", "f.yaml: this is binary data, not text; give the model's YAML file"),
            (b"\xff\xfea\0", "f.yaml: the file is UTF-16 text, it has to be UTF-8; save it as UTF-8"),
            (
                b"a: 1\nname: caf\xe9 x\n",
                "f.yaml:2:10: the byte 0xE9 is not UTF-8 text; save the file as UTF-8\n"
                "  2 | name: caf\ufffd x\n               ^",
            ),
            (b"a: \x07", "f.yaml:1:4: the character U+0007 is not allowed in YAML; remove it\n  1 | a: ?\n         ^"),
            (b"a: 1\n" * 300_000, "f.yaml: the file has 1,500,000 bytes, a model file has at most 1,048,576; "
             "give the model's YAML file, not its weights or data"),
        ],
    )  # fmt: skip
    def test_contents(self, folder, content, fault):
        (folder / "f.yaml").write_bytes(content)
        assert fault_of("f.yaml") == fault

    def test_a_file_of_100_megabytes_is_refused_unread(self, folder):
        with open("big.yaml", "wb") as file:
            file.truncate(100_000_000)
        assert fault_of("big.yaml").startswith("big.yaml: the file has 100,000,000 bytes, a model file has at most")

    def test_a_socket(self, folder):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
            assert fault_of("s") == "s: this is not a regular file; give the model's YAML file"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, folder):
        (folder / "good.yaml").chmod(0)
        assert fault_of("good.yaml") == "good.yaml: the file may not be read; allow it with `chmod u+r good.yaml`"


class TestLoadSpec:
    def faults(self, text, *overrides):
        with open("bad.yaml", "w") as file:
            file.write(text)
        with pytest.raises(SpecError) as error:
            load_spec("bad.yaml", overrides)
        return [(fault.line, fault.path) for fault in error.value.faults], str(error.value)

    def test_a_good_file(self, folder):
        spec = load_spec("good.yaml", ["backbone.n_layer=3"])
        assert isinstance(spec, hybridgen.ModelSpec)
        assert len(spec.backbone.layers) == 3
        assert hybridgen.load_spec is load_spec

    def test_faults_of_reading_and_of_checking_come_together_in_order(self, folder):
        text = GOOD.replace("n_layer: 2", "n_layer: ${nope}\n  d_modl: 3\n  d_model: 4").replace("100", "!x 100")
        places, _ = self.faults(text, "x y", "backbone.n_layr=1", "+name=b")
        assert places == [
            (2, "input.vocab_size"),
            (5, "backbone.n_layer"),
            (6, "backbone.d_modl"),
            (7, "backbone.d_model"),
            (None, ""),
            (None, "backbone.n_layr"),
            (None, "name"),
        ]

    def test_a_value_that_could_not_be_read_is_reported_once(self, folder):
        places, _ = self.faults(GOOD.replace("d_model: 64", "d_model: ???").replace("n_layer: 2", "n_layer: ${x}"))
        assert places == [(4, "backbone.d_model"), (5, "backbone.n_layer")]

    def test_a_wrong_key_of_a_value_that_could_not_be_read_is_still_reported(self, folder):
        places, text = self.faults(GOOD + "nam: ???\n")
        assert places == [(8, "nam"), (8, "nam")]
        assert "unknown field" in text
        assert "a value is missing" in text

    def test_targets_are_unknown_fields_and_nothing_is_built(self, folder):
        places, text = self.faults(GOOD + "_target_: os.abort\n", "backbone._target_=os.abort")
        assert places == [(8, "_target_"), (None, "backbone._target_")]
        assert text.count("unknown field") == 2


def test_checking_a_plain_file_imports_neither_torch_nor_hydra(folder):
    code = (
        "import sys, hybridgen; hybridgen.load_spec('good.yaml')\n"
        "heavy = {'torch', 'numpy', 'hydra', 'transformers', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
