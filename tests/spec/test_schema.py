import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.spec import ModelSpec
from hybridgen.spec.document import HEADS, INPUTS, MIXERS, SUGAR, MlpSection
from hybridgen.spec.load import load_document
from hybridgen.spec.parts import MlpSpec
from hybridgen.spec.schema import grammar, json_schema
from tests.spec.documents import IMAGE, LONG, SHORT, changed, documents, flags
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


@st.composite
def other_spellings(draw):
    """A document in short form, and the same one with some fields of its mixers as sugar, in sections of other names"""
    document = draw(documents().filter(lambda document: "n_layer" in document["backbone"]))
    backbone = document["backbone"]
    respelled = {key: value for key, value in backbone.items() if key not in ("ssm", "attn")}
    for section in ("ssm", "attn"):
        fields = dict(backbone[section])
        for key in list(fields):
            if f"{section}_{key}" in SUGAR and draw(flags):
                respelled[f"{section}_{key}"] = fields.pop(key)
        respelled[draw(st.sampled_from([section, f"{section}_cfg"]))] = fields
    return document, {**document, "backbone": respelled}


@given(other_spellings())
@settings(max_examples=60, deadline=None)
def test_every_spelling_is_accepted(pair):
    document, respelled = pair
    assert ModelSpec.model_validate(respelled) == ModelSpec.model_validate(document)
    assert accepts(respelled)


def places(part, path=()):
    """The path of everything inside a document."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield (*path, key), value
        yield from places(value, (*path, key))


def spoiled(document, path, key, value):
    """A copy of a document that holds a value under another key of the same mapping or list."""
    document = copy.deepcopy(document)
    part = document
    for step in path[:-1]:
        part = part[step]
    if key != path[-1]:
        del part[path[-1]]
    part[key] = value
    return document


@given(documents(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_misspelled_key_is_refused_anywhere(document, data):
    keys = [
        (path, value) for path, value in places(document) if isinstance(path[-1], str) and path[-2:-1] != ("blocks",)
    ]
    path, value = data.draw(st.sampled_from(keys))
    assert not accepts(spoiled(document, path, f"{path[-1]}_", value))


@given(documents(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_wrong_value_is_refused_anywhere(document, data):
    """A number below all ranges (only the mean of a colour has none), and values of another type."""
    kinds = {bool: (3, "x", []), int: (-0.5, "x", True, {}), float: (-0.5, "x", True, {}), dict: (3, "x", [])}
    values = [(path, value) for path, value in places(document) if type(value) in kinds and "mean" not in path]
    path, value = data.draw(st.sampled_from(values))
    assert not accepts(spoiled(document, path, path[-1], data.draw(st.sampled_from(kinds[type(value)]))))


@given(documents(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_reference_is_accepted_for_any_value_but_a_type(document, data):
    values = [path for path, _ in places(document) if isinstance(path[-1], str) and path[-1] != "type"]
    path = data.draw(st.sampled_from([path for path in values if path[-2:-1] != ("blocks",)]))
    assert accepts(spoiled(document, path, path[-1], "${backbone.d_model}"))


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
        changed(SHORT, ssm_type="mamba2", ssm={"headdim": 8}),
        changed(SHORT, ssm_cfg={"headdim": 8}),
        changed(SHORT, ssm={"dt_rank": 8}),
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
        changed(SHORT, ssm={"headdim": 8}),
        changed(SHORT, ssm=..., ssm_cfg={"headdim": 8}),
        {**MAMBA_130M, "ssm_cfg": {"headdim": 8}},
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


def choices(schema):
    """The alternatives of a field without the reference."""
    return [option for option in schema.get("anyOf", [schema]) if option.get("$ref") != "#/$defs/Reference"]


@pytest.mark.parametrize("schema", list(fields()))
def test_every_number_has_a_range_which_its_description_names(schema):
    numbers = [option for option in choices(schema) if option.get("type") in ("integer", "number")]
    for option in numbers:
        assert {"minimum", "exclusiveMinimum"} & (option.keys() | schema.keys())
    assert ("Takes a" in schema["description"]) >= bool(numbers)


@pytest.mark.parametrize("schema", list(fields()))
def test_every_default_fits_its_field_and_is_named(schema):
    if "default" not in schema:
        return
    field = jsonschema.Draft202012Validator({**schema, "$defs": SCHEMA["$defs"]})
    assert field.is_valid(schema["default"])
    assert "efault " in schema["description"] or isinstance(schema["default"], dict)


@pytest.mark.parametrize("spec", [*MIXERS.values(), *INPUTS.values(), *HEADS.values(), MlpSpec])
def test_every_default_is_in_the_schema(spec):
    sections = {"MlpSpec": "MlpSection", "AttentionSpec": "AttentionSection"}
    properties = grammar()[sections.get(spec.__name__, spec.__name__)]["properties"]
    defaults = {name: info.default for name, info in spec.model_fields.items() if not info.is_required()}
    as_json = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    as_json |= {"dt_limit": [0.0, None]} if "dt_limit" in as_json else {}  # JSON has no infinity
    assert {name: rule["default"] for name, rule in properties.items() if "default" in rule} == as_json


def test_defaults_ranges_and_choices_reach_the_schema():
    properties = SCHEMA["$defs"]["Mamba1Spec"]["properties"]
    assert properties["d_state"]["default"] == 16
    assert properties["d_state"]["description"].endswith(". Takes an integer of at least 1; default 16.")
    assert {"type": "integer", "minimum": 1, "maximum": 1_000_000_000} in properties["d_state"]["anyOf"]
    assert properties["expand"]["anyOf"][0]["exclusiveMinimum"] == 0
    assert "swish" in properties["gate_activation"]["anyOf"][0]["enum"]


def test_a_choice_comes_before_other_values_and_a_reference_is_last():
    # editors report the first alternative of a value that fits none
    for field in ("input", "head"):
        first, *_, last = SCHEMA["$defs"]["ModelDocument"]["properties"][field]["anyOf"]
        assert {"enum", "const"} & first.keys()
        assert last == {"$ref": "#/$defs/Reference"}


def test_every_definition_but_the_reference_has_the_title_of_its_section():
    titles = {name: definition.get("title") for name, definition in SCHEMA["$defs"].items()}
    assert [name for name, title in titles.items() if title is None] == ["Reference"]
    assert titles["Mamba2Section"] == titles["Mamba2Spec"] == titles["PartialMamba2Spec"] == "Mixer mamba2"


def test_a_backbone_with_blocks_has_no_field_of_the_short_form():
    long = SCHEMA["$defs"]["LongBackboneDocument"]["properties"]
    short = SCHEMA["$defs"]["BackboneDocument"]["properties"]
    assert {"blocks", "pattern", "norm", "overrides"} < long.keys() < short.keys()
    assert not {"ssm", "ssm_cfg", "attn_window", "ssm_d_state", "attn_layer_idx"} & long.keys()


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
