"""Configurations edited by hand: every slip gets a place, a rule, the value and a fix, from both systems."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

import hybridgen as hg
from hybridgen.interop import mamba_ssm, zonos
from hybridgen.interop.directory import SYSTEMS, import_directory

ATTN = {"num_heads": 4, "causal": True}
TINY = {"d_model": 32, "n_layer": 2}
MAMBA = {**TINY, "vocab_size": 61}
ATTENDS = {"attn_layer_idx": [1], "attn_cfg": ATTN}

# Changes of a configuration, and the place that is blamed, for both systems.
SLIPS = [
    ({"ssm_cfg": None}, "ssm_cfg", "must be a mapping; given null"),
    ({"ssm_cfg": [1]}, "ssm_cfg", "must be a mapping; given the list [1]"),
    ({"ssm_cfg": "Mamba2"}, "ssm_cfg", "must be a mapping; given the text 'Mamba2'"),
    ({"attn_cfg": None}, "attn_cfg", "must be a mapping; given null"),
    ({**ATTENDS, "attn_cfg": 4}, "attn_cfg", "must be a mapping; given 4"),
    ({"ssm_cfg": {"layer": ["a"]}}, "ssm_cfg.layer", "must be one of Mamba1, Mamba2; given the list ['a']"),
    ({"ssm_cfg": {"layer": None}}, "ssm_cfg.layer", "must be one of Mamba1, Mamba2; given null"),
    ({"ssm_cfg": {"layer": {}}}, "ssm_cfg.layer", "must be one of Mamba1, Mamba2; given an empty mapping"),
    ({"ssm_cfg": {"d_state": float("nan")}}, "ssm_cfg.d_state", "must be an integer of at least 1; given .nan"),
    ({"ssm_cfg": {"d_state": [16]}}, "ssm_cfg.d_state", "must be an integer of at least 1; given the list [16]"),
    ({"ssm_cfg": {"dt_min": float("nan")}}, "ssm_cfg.dt_min", "must be a number above 0; given .nan"),
    ({"ssm_cfg": {"expand": float("inf")}}, "ssm_cfg.expand", "must be a number above 0 and at most 1024; given .inf"),
    ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.0, float("nan")]}}, "ssm_cfg.dt_limit", "must be"),
    ({"ssm_cfg": {"layer": "Mamba2", "A_init_range": 3}}, "ssm_cfg.A_init_range", "must be a list of two"),
    ({"ssm_cfg": {"d_stat": 3}}, "ssm_cfg.d_stat", "the upstream system has no such field"),
    ({"ssm_cfg": {3: 3}}, "ssm_cfg.3", "the upstream system has no such field"),
    ({**ATTENDS, "attn_cfg": {}}, "attn_cfg.num_heads", "required field is missing"),
    ({**ATTENDS, "attn_cfg": {**ATTN, "causal": "yes"}}, "attn_cfg.causal", "must be true or false"),
    ({**ATTENDS, "attn_cfg": {**ATTN, "causal": 7}}, "attn_cfg.causal", "must be true or false; given 7"),
    ({**ATTENDS, "attn_cfg": {**ATTN, "softmax_scale": "1"}}, "attn_cfg.softmax_scale", "must be a number"),
    ({**ATTENDS, "attn_cfg": {**ATTN, "num_head_kv": 2}}, "attn_cfg.num_head_kv", "the upstream system"),
    ({"d_model": None}, "d_model", "must be an integer of at least 1; given null"),
    ({"d_model": "32"}, "d_model", "must be an integer of at least 1; given the text '32'"),
    ({"d_model": 32.0}, "d_model", "must be an integer of at least 1; given 32.0"),
    ({"d_model": True}, "d_model", "must be an integer of at least 1; given true"),
    ({"d_model": float("nan")}, "d_model", "must be an integer of at least 1; given .nan"),
    ({"d_model": {}}, "d_model", "must be an integer of at least 1; given an empty mapping"),
    ({"n_layer": 0}, "n_layer", "must be an integer of at least 1; given 0"),
    ({"n_layer": [2]}, "n_layer", "must be an integer of at least 1; given the list [2]"),
    ({"d_intermediate": -1}, "d_intermediate", "must be an integer of at least 0; given -1"),
    ({"attn_layer_idx": None}, "attn_layer_idx", "must be a list, each an integer; given null"),
    ({"attn_layer_idx": 1}, "attn_layer_idx", "must be a list, each an integer; given 1"),
    ({"attn_layer_idx": "1"}, "attn_layer_idx", "must be a list, each an integer; given the text '1'"),
    ({"attn_layer_idx": {"1": 1}}, "attn_layer_idx", "must be a list, each an integer; given the mapping"),
    ({"attn_layer_idx": [0, "1"]}, "attn_layer_idx[1]", "must be an integer; given the text '1'"),
    ({"attn_layer_idx": [[0]]}, "attn_layer_idx[0]", "must be an integer; given the list [0]"),
    ({"attn_layer_idx": [True]}, "attn_layer_idx[0]", "must be an integer; given true"),
    ({"attn_layer_idx": [-1]}, "attn_layer_idx[0]", "upstream numbers layers from 0"),
    ({"rms_norm": None}, "rms_norm", "must be true or false; given null"),
    ({"rms_norm": 1}, "rms_norm", "must be true or false; given 1"),
    ({"residual_in_fp32": "true"}, "residual_in_fp32", "must be true or false; given the text 'true'"),
    ({"n_layr": 2}, "n_layr", "the upstream system has no such field"),
    # Rules between fields, which only the whole document can break.
    ({**ATTENDS, "attn_cfg": {**ATTN, "num_heads": 5}}, "attn_cfg.num_heads", "num_heads must divide d_model = 32"),
    ({"ssm_cfg": {"layer": "Mamba2", "headdim": 48}}, "ssm_cfg.headdim", "headdim must divide d_ssm = 64"),
    ({**ATTENDS, "attn_layer_idx": [1, 7]}, "attn_layer_idx[1]", "layer 7 does not exist"),
]
MAMBA_SLIPS = [
    ({"vocab_size": None}, "vocab_size", "must be an integer of at least 1; given null"),
    ({"fused_add_norm": "no"}, "fused_add_norm", "must be true or false"),
    ({"pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple", "must be an integer of at least 1; given 0"),
    ({"tie_embeddings": None}, "tie_embeddings", "must be true or false; given null"),
]
ZONOS_SLIPS = [
    ({"norm_epsilon": float("nan")}, "norm_epsilon", "must be a number above 0; given .nan"),
    ({"norm_epsilon": "1e-5"}, "norm_epsilon", "must be a number above 0; given the text '1e-5'"),
    ({"attn_mlp_d_intermediate": None}, "attn_mlp_d_intermediate", "must be an integer of at least 0; given null"),
]
WHOLE_SLIPS = [
    ("zonos", {"backbone": 3}, "backbone", "must be a mapping; given 3"),
    ("zonos", {"backbone": [1]}, "backbone", "must be a mapping; given the list [1]"),
    ("zonos", {"backbone": None}, "backbone", "must be a mapping; given null"),
    ("zonos", {"backbone": {"d_model": "x"}}, "backbone.d_model", "must be an integer"),
    ("zonos", {"backbone": {**TINY, "ssm_cfg": None}}, "backbone.ssm_cfg", "must be a mapping; given null"),
    ("zonos", {"backbone": {**TINY, "ssm_cfg": {"expand": []}}}, "backbone.ssm_cfg.expand", "must be"),
    ("zonos", {"backbone": {**TINY, "attn_layer_idx": [-1]}}, "backbone.attn_layer_idx[0]", "upstream numbers"),
    ("zonos", {"backbone": {**TINY, **ATTENDS, "attn_cfg": {"num_heads": 5}}}, "backbone.attn_cfg.num_heads", "must"),
    ("mamba_ssm", {"d_model": "32"}, "d_model", "must be an integer"),
    ("mamba_ssm", {"d_model": 32, "layer": [1]}, "layer", "must be one of Mamba1, Mamba2"),
    ("mamba_ssm", {"d_model": 32, "d_state": None}, "d_state", "must be an integer"),
    ("mamba_ssm", {"d_model": 32, "headdim": 48}, "headdim", "headdim must divide"),
    ("mamba_ssm", {"embed_dim": None, "num_heads": 4}, "embed_dim", "must be an integer"),
    ("mamba_ssm", {"embed_dim": 32, "num_heads": "4"}, "num_heads", "must be an integer"),
    ("mamba_ssm", {"embed_dim": 32, "heads": 4}, "heads", "the upstream system has no such field"),
]
CASES = [
    *[(system, {**base, **change}, place, words) for change, place, words in SLIPS
      for system, base in (("mamba_ssm", MAMBA), ("zonos", {**TINY, "norm_epsilon": 1e-5}))],
    *[("mamba_ssm", {**MAMBA, **change}, place, words) for change, place, words in MAMBA_SLIPS],
    *[("zonos", {**TINY, **change}, place, words) for change, place, words in ZONOS_SLIPS],
    *WHOLE_SLIPS,
]  # fmt: skip


@pytest.mark.parametrize(("system", "config", "place", "words"), CASES)
def test_slips_are_worded(tmp_path, system, config, place, words):
    given = copy.deepcopy(config)
    with pytest.raises(hg.SpecError):
        hg.ModelSpec.model_validate(SYSTEMS[system].spec_document(config))
    assert repr(config) == repr(given)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hg.SpecError) as error:
        import_directory(tmp_path, tmp_path / "out", system)
    fault = error.value.faults[0]
    assert (fault.file, fault.path) == (str(tmp_path / "config.json"), place)
    assert words in fault.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("system", "config", "place", "words"), CASES)
def test_wrong_values_come_with_a_fix(system, config, place, words):
    if words.startswith("must be") or "required" in words:
        with pytest.raises(hg.SpecError) as error:
            SYSTEMS[system].spec_document(config)
        assert all(fault.suggestion for fault in error.value.faults)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("config", [None, 3, [1], "d_model", float("nan")])
def test_a_configuration_that_is_no_mapping(tmp_path, system, config):
    with pytest.raises(hg.SpecError, match=r"^the configuration must be a mapping; given"):
        SYSTEMS[system].spec_document(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hg.CheckpointError, match="must hold a JSON object"):
        import_directory(tmp_path, tmp_path / "out", system)


def test_widths_beyond_every_address(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**MAMBA, "d_model": 10**9, "vocab_size": 10**9}))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(hg.CheckpointError, match="the configuration asks for a weight too large to address"):
        import_directory(tmp_path, tmp_path / "out")


def test_all_slips_of_a_section_are_reported_together():
    with pytest.raises(hg.SpecError) as error:
        mamba_ssm.spec_document({**MAMBA, "n_layr": 2, "d_model": "32", "attn_layer_idx": [None, "x"]})
    assert [fault.path for fault in error.value.faults] == [
        "n_layr", "d_model", "attn_layer_idx[0]", "attn_layer_idx[1]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "near"),
    [("n_layr", "n_layer"), ("hidden_size", "d_model"), ("num_layers", "n_layer"), ("rmsnorm", "rms_norm")],
)
@pytest.mark.parametrize("system", [mamba_ssm, zonos])
def test_unknown_fields_come_with_the_nearest(system, name, near):
    with pytest.raises(hg.SpecError, match=rf"^{name}: .*closest is '{near}'$"):
        system.spec_document({**TINY, "n_layer": 2, "attn_layer_idx": [], name: 2})


OPTIONAL = {
    "d_model": 32, "n_layer": 2, "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_ssm": None, "conv_init": None},
    "attn_layer_idx": [1],
    "attn_cfg": {**ATTN, "num_heads_kv": None, "head_dim": None, "softmax_scale": None, "device": None, "dtype": None},
}  # fmt: skip


@pytest.mark.parametrize(("system", "more"), [(mamba_ssm, {"vocab_size": 61}), (zonos, {})])
@pytest.mark.parametrize("change", [{}, {"attn_layer_idx": [], "attn_cfg": {}}, {"attn_layer_idx": (1,)}])
def test_null_stands_for_the_default_where_upstream_has_it(system, more, change):
    config = {**OPTIONAL, **more, **change}
    given = copy.deepcopy(config)
    document = system.spec_document(config)
    assert config == given
    plain = {**config, "ssm_cfg": {"layer": "Mamba2", "headdim": 16}, "attn_cfg": ATTN}
    spec = hg.ModelSpec.model_validate(document)
    assert spec == hg.ModelSpec.model_validate(system.spec_document(plain))
    document["backbone"]["attn_layer_idx"].append(0)
    document["backbone"]["ssm"]["headdim"] = 8
    assert config == given


SSM = {"layer": "Mamba2", "headdim": 16}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"ssm_cfg": {**SSM, "rmsnorm": False, "norm_before_gate": True}}, {"ssm_cfg": {**SSM, "rmsnorm": False}}),
        ({"attn_cfg": {**ATTN, "rotary_emb_base": 500.0, "rotary_emb_interleaved": True}}, {"attn_cfg": ATTN}),
        ({"attn_cfg": {**ATTN, "rotary_emb_dim": 0, "rotary_emb_base": 500.0}}, {"attn_cfg": ATTN}),
    ],
)
@pytest.mark.parametrize(("system", "base"), [(mamba_ssm, MAMBA), (zonos, TINY)])
def test_what_upstream_never_reads_is_dropped(system, base, change, same):
    config = {**base, **ATTENDS, "ssm_cfg": SSM, **change}
    expected = {**base, **ATTENDS, "ssm_cfg": SSM, **same}
    first, second = (hg.ModelSpec.model_validate(system.spec_document(each)) for each in (config, expected))
    assert first == second


def test_what_upstream_reads_is_kept():
    config = {**MAMBA, "attn_layer_idx": [1], "ssm_cfg": {**SSM, "norm_before_gate": True},
              "attn_cfg": {**ATTN, "rotary_emb_dim": 4, "rotary_emb_base": 500.0}}  # fmt: skip
    ssm, attn = (layer.mixer for layer in hg.ModelSpec.model_validate(mamba_ssm.spec_document(config)).backbone.layers)
    assert ssm.norm_before_gate
    assert attn.rotary_emb_base == 500.0


def test_convolution_in_front_of_attention_that_is_not_causal():
    """Upstream's MHA as it stands: a causal depthwise convolution over q, k and v, then attention to all tokens."""
    spec = hg.ModelSpec.model_validate(mamba_ssm.spec_document({"embed_dim": 64, "num_heads": 4, "d_conv": 4}))
    model = hg.build(spec)
    weights = mamba_ssm.to_upstream(model.state_dict(), spec)
    torch.manual_seed(0)
    x = torch.randn(2, 9, 64)
    qkv = F.linear(x, weights["in_proj.weight"], weights["in_proj.bias"]).transpose(1, 2)
    qkv = F.conv1d(F.pad(qkv, (3, 0)), weights["conv1d.weight"], weights["conv1d.bias"], groups=192).transpose(1, 2)
    q, k, v = (part.unflatten(2, (4, 16)).transpose(1, 2) for part in qkv.split(64, dim=2))
    mixed = ((q @ k.mT * 16**-0.5).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    expected = F.linear(mixed, weights["out_proj.weight"], weights["out_proj.bias"])
    with torch.no_grad():
        torch.testing.assert_close(model.backbone.layers[0].mixer(x), expected, rtol=0, atol=1e-5)
