import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings

from hybridgen.spec import ModelSpec
from hybridgen.spec.document import MIXERS, MlpSection
from hybridgen.spec.load import load_document
from hybridgen.spec.parts import MlpSpec
from hybridgen.spec.schema import json_schema
from tests.spec.documents import IMAGE, LONG, SHORT, changed, documents
from tests.spec.test_sugar import MAMBA2ATTN, MAMBA_130M, ZONOS_HYBRID

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/model/*.yaml"))


def accepts(document):
    # through JSON, as an editor sees it; the infinity of dt_limit is a number there too
    return VALIDATOR.is_valid(json.loads(json.dumps(document)))


def test_the_schema_itself_is_valid_and_says_what_it_is():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "hybridgen model"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@given(documents())
@settings(max_examples=60, deadline=None)
def test_every_valid_document_is_accepted(document):
    assert accepts(document)
    assert accepts(ModelSpec.model_validate(document).document())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_accepted(path):
    assert accepts(load_document(str(path)).data)


@pytest.mark.parametrize(
    "document", [MAMBA_130M, MAMBA2ATTN, {"backbone": ZONOS_HYBRID}], ids=["flat", "hybrid", "zonos"]
)
def test_upstream_configurations_are_accepted(document):
    assert accepts(document)


@pytest.mark.parametrize(
    "document",
    [
        changed(SHORT, attn_window=5, ssm_type="mamba2", ssm=..., norm_epsilon=1e-5, rms_norm=True),
        changed(SHORT, mlp={"activation": "swish"}, attn={}, attn_num_heads=8),
        changed(SHORT, overrides=[{"layers": "3::4", "attn": {"window": 5}, "mlp": None}]),
        changed(SHORT, overrides=[{"layers": [-1], "mixer": {"type": "mamba1"}, "mlp": {"hidden_features": 4}}]),
        changed(SHORT, attn_selective=True, attn_sim_head=1, overrides=[{"layers": [3], "attn": {"sim_head": 2}}]),
        changed(LONG, n_layer=18),
        changed(LONG, pattern=["m", "a"]),
        {**SHORT, "defaults": ["base", {"override": "x"}, "_self_"]},
        changed(SHORT, d_model="${width}", attn="${attention}"),
        IMAGE,
        {**IMAGE, "input": {"type": "patches", "image_size": [224, 160], "mean": [0, 0.5, 1], "std": None}},
        changed(IMAGE, ssm={"scan": "vmamba", "scan_share": ["conv"]}, bidirectional="layers"),
        changed(IMAGE, ssm={"scan": ["zigzag", "column_reverse"], "scan_share": []}, drop_path=0),
        changed(IMAGE, ssm_bidirectional="v1", ssm_scan=None),
    ],
)
def test_every_form_is_accepted(document):
    assert accepts(document)


@pytest.mark.parametrize(
    "document",
    [
        {"defaults": ["base"]},
        {"defaults": ["base"], "input": {"embed_scale": 2.0}, "head": {"bias": True}},
        {"defaults": ["base"], "backbone": {"ssm": {"d_state": 8}, "blocks": {"m": {"mlp": {"bias": True}}}}},
        {"defaults": ["mamba"], "vocab_size": 5},
        {"defaults": ["vim"], "input": {"dropout": 0.1, "image_size": [64, 96]}, "backbone": {"ssm": {"scan": "vim"}}},
    ],
)
def test_a_document_with_defaults_requires_nothing(document):
    assert accepts(document)
    assert not accepts({key: value for key, value in document.items() if key != "defaults"})


@pytest.mark.parametrize("fields", [{"extra": 1}, {"backbone": {"d_modl": 1}}, {"backbone": {"d_model": "x"}}])
def test_a_document_with_defaults_has_no_other_fields(fields):
    assert not accepts({"defaults": ["base"], **fields})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"backbone": {}},
        {**SHORT, "extra": 1},
        {**SHORT, "name": "a b"},
        {**SHORT, "input": "tokns"},
        {**SHORT, "input": {"type": "tokens"}},
        {**SHORT, "head": {"type": "lm", "tie": True}},
        {**MAMBA_130M, "vocb_size": 1},
        changed(SHORT, d_model="512"),
        changed(SHORT, d_model=True),
        changed(SHORT, d_model=0),
        changed(SHORT, d_model=...),
        changed(SHORT, n_layer=...),
        changed(SHORT, n_layer=20_000),
        changed(SHORT, d_stat=1),
        changed(SHORT, attn_windw=1),
        changed(SHORT, attn_layer_idx="1,3"),
        changed(SHORT, attn_layer_idx=3),
        changed(SHORT, attn_layer_idx=[1, 1]),
        changed(SHORT, attn={"num_heads": 8, "windw": 3}),
        changed(SHORT, ssm={"type": "mamba3"}),
        changed(SHORT, ssm={"type": "mamba2", "dt_rank": 3}),
        changed(SHORT, ssm={"gate_activation": "sillu"}),
        changed(SHORT, ssm={"expand": 0}),
        changed(SHORT, norm_placement="middle"),
        changed(SHORT, norm={"eps": 0}),
        changed(SHORT, blocks=LONG["backbone"]["blocks"], pattern="m"),
        changed(SHORT, bidirectional="v2"),
        changed(SHORT, ssm={"bidirectional": "layers"}),
        changed(SHORT, ssm={"scan": "vimm"}),
        changed(SHORT, ssm={"scan": ["row", "colum"]}),
        changed(SHORT, ssm={"scan": ["row", "row"]}),
        changed(SHORT, ssm={"scan": []}),
        changed(SHORT, ssm={"scan_share": ["cov"]}),
        changed(SHORT, drop_path=1.0),
        {**IMAGE, "input": {"type": "patches"}},
        {**IMAGE, "input": {"type": "patches", "image_size": [224]}},
        {**IMAGE, "input": {"type": "patches", "image_size": [224, 1.5]}},
        {**IMAGE, "input": {"type": "patches", "image_size": 224, "mean": []}},
        {**IMAGE, "head": {"type": "classifier"}},
        {**IMAGE, "head": {"type": "classifier", "num_classes": 10, "pool": "cls_token"}},
        changed(SHORT, overrides={"layers": [1]}),
        changed(SHORT, overrides=[{"attn": {"window": 1}}]),
        changed(SHORT, overrides=[{"layers": [1], "atn": {"window": 1}}]),
        changed(LONG, pattern=...),
        changed(LONG, blocks=...),
        changed(LONG, blocks={}),
        changed(LONG, attn_window=3),
        changed(LONG, blocks={"m": {"mixer": {"type": "attention"}}}),
        changed(LONG, blocks={"m": {"mixer": {"type": "mamba1"}, "mlp": {"gated": True}}}),
        changed(LONG, blocks={"m": {"type": "mamba1"}}),
    ],
)
def test_spoiled_documents_are_refused(document):
    assert not accepts(document)


def fields():
    for name, definition in SCHEMA["$defs"].items():
        for field, schema in definition.get("properties", {}).items():
            yield pytest.param(schema, id=f"{name}.{field}")


@pytest.mark.parametrize("schema", list(fields()))
def test_every_field_is_described(schema):
    assert len(schema["description"]) > 5


def test_defaults_ranges_and_choices_reach_the_schema():
    properties = SCHEMA["$defs"]["Mamba1Spec"]["properties"]
    assert properties["d_state"]["default"] == 16
    assert {"type": "integer", "minimum": 1, "maximum": 1_000_000_000} in properties["d_state"]["anyOf"]
    assert properties["expand"]["anyOf"][0]["exclusiveMinimum"] == 0
    assert "swish" in properties["gate_activation"]["anyOf"][0]["enum"]


def test_every_mixer_has_a_section_for_partial_fields():
    for spec in MIXERS.values():
        name = spec.__name__.replace("Spec", "Section")
        section = SCHEMA["$defs"][name]
        assert "required" not in section
        assert set(section["properties"]) - {"layer", "sim_head"} == set(spec.model_fields)
    assert set(MlpSection.model_fields) == {*MlpSpec.model_fields, "hidden_features", "activation"}


def test_the_schema_is_not_shared():
    first = json_schema()
    before = copy.deepcopy(first)
    first["$defs"].clear()
    assert json_schema() == before
