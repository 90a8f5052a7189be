"""What an editor with yaml-language-server shows of a document: faults, completion and hover, as shipped.

The server is a program for node: `npm install yaml-language-server@1.25.0` into the folder that HYBRIDGEN_NODE_MODULES
names. Without it these tests are skipped, unless HYBRIDGEN_REQUIRE_TOOLS=1.
"""

import itertools
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridgen.spec.activations import ACTIVATION_NAMES
from hybridgen.spec.document import BACKBONE_KEYS, MIXERS
from tests.helpers.language_server import LanguageServer

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "configs" / "model").glob("*.yaml"))
BACKBONE = "backbone:\n  d_model: 64\n  n_layer: 8\n"
STACK = "backbone:\n  d_model: 64\n"


def server_program() -> list[str]:
    """How to start the server; skips the test, or fails it where the tools are required, if that is not possible."""
    modules = Path(os.environ.get("HYBRIDGEN_NODE_MODULES") or ROOT / "tests" / "editor" / "node_modules")
    program, node = modules / "yaml-language-server" / "bin" / "yaml-language-server", shutil.which("node")
    if node is not None and program.is_file():
        return [node, str(program), "--stdio"]
    missing = "needs node on the path" if node is None else f"needs yaml-language-server in {modules}"
    if os.environ.get("HYBRIDGEN_REQUIRE_TOOLS") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


class Web:
    """The way to the network that the server is given: a proxy that hangs up at once, and counts who called."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            self._socket.accept()[0].close()
            self.calls += 1


@pytest.fixture(scope="module")
def web() -> Web:
    return Web()


@pytest.fixture(scope="module")
def server(web: Web) -> Iterator[LanguageServer]:
    yaml = {"validate": True, "completion": True, "hover": True, "schemaStore": {"enable": False}}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), web.address)
    settings = {"yaml": yaml, "http": {"proxy": web.address, "proxyStrictSSL": False}}
    with LanguageServer(server_program(), ROOT, settings, proxies) as server:
        yield server


_NUMBERS = itertools.count()


def unsaved() -> Path:
    """A new path beside the shipped configs, at which no file is."""
    return ROOT / "configs" / "model" / f"unsaved-{next(_NUMBERS)}.yaml"


class Editor:
    """An editor, in which a document is opened whose text holds the cursor, as `|`.

    It would be saved beside the shipped configs, so that its first line finds the shipped schema.
    """

    def __init__(self, server: LanguageServer) -> None:
        self._server = server

    def _open(self, text: str) -> tuple[Path, int, int, list[dict[str, Any]]]:
        path = unsaved()
        text = f"# yaml-language-server: $schema=../hybridgen.schema.json\n{text}"
        before, _, after = text.partition("|")
        faults = self._server.open(path, before + after)
        return path, before.count("\n"), len(before) - before.rfind("\n") - 1, faults

    def faults(self, text: str) -> list[tuple[int, str]]:
        """The lines of the faults, from 1 without the line of the schema, and their messages."""
        *_, faults = self._open(text)
        return sorted((fault["range"]["start"]["line"], fault["message"]) for fault in faults)

    def offers(self, text: str) -> dict[str, str]:
        """The names that are offered at the cursor, and what is said of them."""
        path, line, character, _ = self._open(text)
        items = self._server.completions(path, line, character)
        return {item["label"]: _text(item.get("documentation", "")) for item in items}

    def hover(self, text: str) -> str:
        """What is shown for the word at the cursor, as plain text."""
        path, line, character, _ = self._open(text)
        shown = self._server.hover(path, line, character)
        return shown.replace("\\", "")


def _text(documentation: Any) -> str:
    return str(documentation["value"] if isinstance(documentation, dict) else documentation)


@pytest.fixture
def editor(server: LanguageServer) -> Editor:
    return Editor(server)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shipped_models_have_no_faults(server: LanguageServer, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert server.open(path, text) == []
    # by its own first line the server has found the schema
    spoiled = text.replace("d_model", "d_modl")
    assert spoiled != text
    line = 1 + next(i for i, content in enumerate(spoiled.splitlines()) if "d_modl:" in content.partition("#")[0])
    faults = server.open(path.with_name(f"{path.stem}-spoiled.yaml"), spoiled)
    assert (line, "Property d_modl is not allowed.") in {
        (1 + f["range"]["start"]["line"], f["message"]) for f in faults
    }


def test_schema_beside_the_document_is_found_by_its_relative_path(server: LanguageServer, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text((ROOT / "configs" / "hybridgen.schema.json").read_text(encoding="utf-8"))
    faults = server.open(tmp_path / "a.yaml", "# yaml-language-server: $schema=mine.json\nbackbone: {d_modl: 3}\n")
    assert [fault["message"] for fault in faults if "d_modl" in fault["message"]]
    assert server.open(tmp_path / "b.yaml", "backbone: {d_modl: 3}\n") == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (BACKBONE + "  attn_windw: 3\n", 4, "attn_windw is not allowed"),
        (BACKBONE + "  ssm: {type: mamba2}\n  attn:\n    num_heads: 4\n    windw: 3\n", 7, "windw is not allowed"),
        (BACKBONE + "  ssm:\n    type: mamba2\n    dt_rank: 3\n", 6, "dt_rank is not allowed"),
        (BACKBONE + "  ssm:\n    headdim: 8\n", 5, "headdim is not allowed"),
        (BACKBONE + "  ssm:\n    type: mamba3\n", 5, '"mamba1" | "mamba2"'),
        (BACKBONE + "  ssm:\n    expand: 0\n", 5, "exclusive minimum of 0"),
        (BACKBONE + "  drop_path: 1.5\n", 4, "exclusive maximum of 1"),
        (BACKBONE + '  drop_path: "0"\n', 4, 'Expected "number"'),
        (BACKBONE + "  norm_placement: middle\n", 4, '"pre", "post", "sandwich", "residual"'),
        (BACKBONE + "  overrides:\n  - layers: [1]\n    mixer: {type: attention, windw: 3}\n", 6, "windw is not"),
        (BACKBONE + "head: lmm\n", 4, '"none", "lm", "codebooks"'),
        (BACKBONE + "head:\n  type: lmm\n", 5, '"none" | "lm" | "classifier" | "codebooks"'),
        (STACK + "  pattern: m\n  blocks:\n    m: {mixer: {type: mamba2, dt_rank: 3}}\n", 5, "dt_rank is not"),
        (STACK + "  pattern: m\n  attn_window: 3\n  blocks: {m: {mixer: {type: mamba2}}}\n", 4, "attn_window is not"),
        ("d_model: 8\nn_layer: 2\nvocab_size: 5\nssm_cfgs: {}\n", 4, "ssm_cfgs is not allowed"),
        ("defaults: [base]\nbackbone:\n  d_modl: 3\n", 3, "d_modl is not allowed"),
    ],
)
def test_a_fault_is_shown_in_its_line(editor: Editor, text: str, line: int, words: str) -> None:
    [(found, message)] = editor.faults(text)
    assert found == line
    assert words in message


@pytest.mark.parametrize(
    ("text", "field"), [(STACK, "n_layer"), (STACK + "  pattern: m\n", "blocks"), ("name: a\n", "backbone")]
)
def test_a_missing_field_is_shown(editor: Editor, text: str, field: str) -> None:
    assert f'Missing property "{field}".' in [message for _, message in editor.faults(text)]


def test_documents_in_every_form_have_no_faults(editor: Editor) -> None:
    for text in (
        "backbone: ${stack}\n",
        BACKBONE + "  ssm_type: mamba2\n  ssm: {headdim: 8, d_state: '${backbone.d_model}'}\n",
        BACKBONE + "  ssm_cfg: {layer: Mamba2, headdim: 8}\n  attn_cfg: {num_heads: 4}\n  rms_norm: true\n",
        "d_model: 8\nn_layer: 2\nvocab_size: 5\nssm_cfg: {layer: Mamba2, headdim: 8}\n",
        "defaults: [base]\nbackbone:\n  ssm: {headdim: 8}\n",
    ):
        assert editor.faults(text) == []


def test_completion_at_the_top_and_in_the_backbone(editor: Editor) -> None:
    assert {"name", "input", "backbone", "head", "defaults"} < editor.offers("|").keys()
    assert editor.offers(BACKBONE + "|\n").keys() == {"name", "input", "head", "defaults"}
    offers = editor.offers(BACKBONE + "  |\n")
    assert offers.keys() == set(BACKBONE_KEYS) - {"d_model", "n_layer"}
    assert offers["norm_placement"].startswith("Norm before each branch (pre)")
    assert "Sliding window" in offers["attn_window"]


def test_completion_in_long_form_offers_no_field_of_the_short_form(editor: Editor) -> None:
    offers = editor.offers(STACK + "  blocks: {m: {mixer: {type: mamba1}}}\n  |\n")
    assert {"pattern", "norm", "overrides"} < offers.keys()
    assert not [name for name in offers if name.startswith(("attn", "ssm"))]
    mixer = STACK + "  pattern: m\n  blocks:\n    m:\n      mixer:\n        type: attention\n        |\n"
    assert editor.offers(mixer).keys() >= {"num_heads", "window", "qk_norm"}
    assert not {"d_state", "headdim"} & editor.offers(mixer).keys()


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("section", ["ssm", "ssm_cfg"])
def test_completion_in_ssm_offers_the_fields_of_its_type_alone(editor: Editor, section: str, kind: str) -> None:
    offers = editor.offers(BACKBONE + f"  {section}:\n    type: {kind}\n    |\n")
    assert offers.keys() - {"layer"} == MIXERS[kind].model_fields.keys() - {"type"}
    default = 16 if kind == "mamba1" else 128
    assert offers["d_state"].endswith(f"Takes an integer of at least 1; default {default}.")


def test_completion_in_ssm_without_a_type_offers_type_and_the_fields_of_mamba1(editor: Editor) -> None:
    offers = editor.offers(BACKBONE + "  ssm:\n    |\n")
    assert offers.keys() - {"layer"} == MIXERS["mamba1"].model_fields.keys()
    both = editor.offers(BACKBONE + "  ssm_type: mamba2\n  ssm:\n    |\n")
    assert both.keys() > {"dt_rank", "headdim"}


def test_completion_in_attn(editor: Editor) -> None:
    offers = editor.offers(BACKBONE + "  attn:\n    num_heads: 4\n    |\n")
    assert offers.keys() - {"sim_head"} == MIXERS["attention"].model_fields.keys() - {"num_heads"}
    assert offers["rotary_emb_dim"].startswith("Channels of each head that are rotated by position")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("  ssm:\n    type: mamba2\n    gate_activation: |\n", {*ACTIVATION_NAMES, "swish"}),
        ("  ssm:\n    type: |\n", {"mamba1", "mamba2"}),
        ("  norm: {type: |}\n", {"rms", "layer"}),
        ("  attn_layer_idx: |\n", {"all", "none"}),
        ("input:\n  type: |\n", {"hidden", "tokens", "codebooks", "patches"}),
        ("head: |\n", {"none", "lm", "codebooks"}),
    ],
)
def test_completion_of_values(editor: Editor, text: str, values: set[str]) -> None:
    assert editor.offers(BACKBONE + text).keys() == values


def test_completion_after_the_type_of_an_input(editor: Editor) -> None:
    offers = editor.offers(BACKBONE + "input:\n  type: patches\n  |\n")
    assert {"image_size", "patch_size", "cls_token"} < offers.keys()
    assert not {"vocab_size", "n_codebooks"} & offers.keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "  norm_pla|cement: pre\n",
            ["#### Backbone", "Norm before each branch (pre)", "* `sandwich`", "Default pre."],
        ),
        ("  attn_win|dow: 3\n", ["same as attn.window", "Takes an integer of at least 1 or null."]),
        ("  s|sm: {type: mamba2}\n", ["Short form: mixer of the SSM layers"]),
        ("  ssm: {d_st|ate: 4}\n", ["#### Mixer mamba1", "State size N", "at least 1; default 16."]),
        ("  ssm: {type: mamba2, d_st|ate: 4}\n", ["#### Mixer mamba2", "State size N", "at least 1; default 128."]),
        ("  attn: {num_heads: 4, dro|pout: 0.1}\n", ["#### Mixer attention", "a number of at least 0 and below 1"]),
        ("  n|orm: {type: rms}\n", ["#### Norm"]),
        ("input: {type: tokens, vocab_s|ize: 5}\n", ["#### Input tokens", "Takes an integer of at least 1."]),
    ],
)
def test_hover_shows_the_description_and_the_range(editor: Editor, text: str, words: list[str]) -> None:
    shown = editor.hover(BACKBONE + text)
    assert [each for each in words if each not in shown] == []
    assert " || " not in shown
    assert "hybridgen.schema.json" in shown


def test_nothing_is_fetched_from_the_network(server: LanguageServer, editor: Editor, web: Web) -> None:
    assert editor.faults(BACKBONE) == []
    assert editor.offers("|")
    assert web.calls == 0
    # it would be seen: a schema that is on the web is asked for
    server.open(unsaved(), "# yaml-language-server: $schema=http://schemas.invalid/a.json\nname: a\n")
    assert web.calls > 0
