"""x-transformers' arguments in both directions, and what is refused of them; values are compared in tests/parity."""

import inspect
import json
from importlib.metadata import version

import pytest
import torch

import hybridgen as hg
from hybridgen.interop import x_transformers_arguments as arguments
from hybridgen.interop import x_transformers_options as options
from hybridgen.interop.x_transformers import from_upstream, spec_document, to_upstream, upstream_config

LAYERS = {"dim": 32, "depth": 3, "heads": 4, "attn_dim_head": 8, "rotary_pos_emb": True}
TINY = {"num_tokens": 29, "max_seq_len": 16, "attn_layers": LAYERS}


def with_layers(**changes):
    return {**TINY, "attn_layers": {**LAYERS, **changes}}


def resolve(config):
    return hg.ModelSpec.model_validate(spec_document(config))


def changed(path, value, config=TINY):
    """The spec of a configuration with one field changed, given by its path."""
    document = resolve(config).document()
    place = document
    *way, name = path.split(".")
    for step in way:
        place = place[step]
    place[name] = value
    return hg.ModelSpec.model_validate(document)


def test_names_and_defaults_are_those_of_the_package():
    package = pytest.importorskip("x_transformers.x_transformers")
    if not version("x-transformers").startswith("2.31."):
        pytest.skip("another version may have further arguments")

    def parameters(kind, prefix="", without=()):
        found = inspect.signature(kind.__init__).parameters.items()
        return {
            prefix + name: parameter.default for name, parameter in found if name not in ("self", "kwargs", *without)
        }

    # What AttentionLayers itself hands to every layer cannot be given with a prefix.
    handed = (
        "heads", "causal", "dim", "qkv_receive_diff_residuals", "learned_value_residual_mix", "rotate_num_heads",
        "output_proj_depth", "dim_context",
    )  # fmt: skip
    wrapper = parameters(package.TransformerWrapper)
    decoder = {
        **parameters(package.AttentionLayers),
        **parameters(package.Attention, "attn_", handed),
        **parameters(package.FeedForward, "ff_", ("dim", "output_proj_depth")),
        "causal": True,
        "attn_dim_context": None,
    }
    kinds = {
        "wrapper": (wrapper, (arguments.WrapperFields,), arguments.WRAPPER_DEFAULTS, set()),
        "decoder": (
            decoder, (arguments.StackFields, arguments.LayerFields), arguments.DECODER_DEFAULTS, arguments.NEUTRAL
        ),
    }  # fmt: skip
    for theirs, fields, rest, neutral in kinds.values():
        read = {name: field for kind in fields for name, field in kind.model_fields.items()}
        assert read.keys() | rest.keys() | set(neutral) == theirs.keys()
        assert not read.keys() & rest.keys()
        assert rest == {name: theirs[name] for name in rest}
        optional = {name: field.default for name, field in read.items() if not field.is_required()}
        assert optional == {name: theirs[name] for name in optional}


def test_every_argument_is_said_to_be_a_field_or_why_not():
    """Names and defaults are compared with the package above; so none of its arguments goes unmentioned."""
    kinds = (arguments.WrapperFields, arguments.StackFields, arguments.LayerFields)
    assert [name for kind in kinds for name in kind.model_fields if name not in options.OURS] == []
    assert options.OURS.keys() == {name for kind in kinds for name in kind.model_fields}
    assert options.REASONS.keys() == arguments.WRAPPER_DEFAULTS.keys() | arguments.DECODER_DEFAULTS.keys()
    assert len(options.REASONS) == sum(len(names.split()) for _, names in options._REASONS)


def test_defaults_spelled_out_change_nothing():
    spelled = {**TINY, **arguments.WRAPPER_DEFAULTS, "attn_layers": {**arguments.DECODER_DEFAULTS, **LAYERS}}
    assert resolve(spelled) == resolve(TINY)
    neutral = dict.fromkeys(arguments.NEUTRAL, True)
    assert resolve(with_layers(**neutral)) == resolve(TINY)


def test_what_a_configuration_means():
    spec = resolve(with_layers(attn_max_attend_past=6, attn_selective=[True, False, True], ff_mult=2.5))
    backbone = spec.backbone
    assert backbone.pattern == "layer layer_2 layer"
    assert [layer.mixer.selective for layer in backbone.layers] == [True, False, True]
    mixer, mlp = backbone.layers[0].mixer, backbone.layers[0].mlp
    assert (mixer.window, mixer.rotary_emb_dim, mixer.rotary_emb_interleaved) == (7, 4, True)
    assert (mlp.hidden(), mlp.gated, mlp.gate_activation, mlp.bias) == (80, False, "gelu", True)
    assert (backbone.norm.type, backbone.norm.bias, backbone.norm.unit_offset) == ("layer", False, True)
    assert spec.input.padded_vocab_size() == 29


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_tokens": 3, "max_seq_len": 2}, "^attn_layers: required field is missing"),
        ({**TINY, "num_token": 3}, "^num_token: .*closest is 'num_tokens'"),
        ({**TINY, "attn_layers": 3}, "^attn_layers: must be a mapping"),
        (with_layers(attn_selectve=True), r"^attn_layers.attn_selectve: .*closest is 'attn_selective'"),
        (with_layers(attn_heads=4), r"^attn_layers.attn_heads: the upstream system has no such field"),
        (with_layers(attn_selective=1), r"^attn_layers.attn_selective: must be true or false; given 1"),
        (with_layers(attn_selective=[True, False]), r"one value per layer, 3; given the list \[true, false\]"),
        (with_layers(attn_selective=[True, False, 3]), r"^attn_layers.attn_selective: must be true or false; given 3"),
        (with_layers(attn_dim_head=[8, 8, 8]), r"^attn_layers.attn_dim_head: must be an integer"),
        (with_layers(attn_kv_heads=3), r"^attn_layers.attn_kv_heads: must divide heads = 4; given 3"),
        (with_layers(attn_kv_heads=2, attn_one_kv_head=True), "cannot be given together with attn_one_kv_head"),
        (with_layers(rotary_emb_dim=10), r"^attn_layers.rotary_emb_dim: must be even, at least 4 and at most"),
        (with_layers(rotary_emb_dim=5), r"^attn_layers.rotary_emb_dim: must be even"),
        (with_layers(attn_dim_head=4), r"^attn_layers.rotary_emb_dim: .* it comes to 2"),
        (with_layers(pre_norm=False, sandwich_norm=True), r"^attn_layers.sandwich_norm: needs pre_norm: true"),
        (with_layers(depth=0), r"^attn_layers.depth: must be an integer of at least 1"),
        (with_layers(ff_mult="4"), r"^attn_layers.ff_mult"),
        (with_layers(alibi_pos_bias=True, alibi_num_heads=5), "alibi_num_heads: must be at most 4; given 5"),
        (
            with_layers(alibi_pos_bias=True, rel_pos_kwargs={"slopes": [-1]}),
            "slopes: must be a list of at most",
        ),
        (with_layers(alibi_pos_bias=True, rel_pos_kwargs={"slopes": [1] * 5}), "slopes: must be a list of at most"),
        (with_layers(add_value_residual=True, attn_kv_heads=2), "add_value_residual: needs as many key-value heads"),
        (with_layers(attn_gate_values_headwise=True), "needs attn_gate_values: true"),
    ],
)
def test_faulty_configs_are_worded(config, words):
    with pytest.raises(hg.SpecError, match=words):
        resolve(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (with_layers(rotary_pos_emb=False), r"use_abs_pos_emb: true \(absolute positions"),
        (with_layers(disable_abs_pos_emb=False), r"use_abs_pos_emb: true \(absolute positions"),
        (with_layers(attn_qk_norm=True), "attn_layers.attn_qk_norm: true"),
        (
            with_layers(attn_qk_rmsnorm=True, attn_hard=True),
            r"attn_qk_rmsnorm: true \(queries and keys are .*\)\n  attn_layers.attn_hard: true \(attention is",
        ),
        (with_layers(alibi_pos_bias=True, rel_pos_kwargs={"log_distance": True}), "rel_pos_kwargs.log_distance"),
        (with_layers(use_simple_rmsnorm=True), "use_simple_rmsnorm: true"),
        (with_layers(causal=False), r"causal: false \(a Decoder is causal\)"),
        (with_layers(cross_attn_selective=False), "cross_attn_selective: false"),
        (with_layers(heads=1), "attn_layers.heads: 1"),
        (with_layers(attn_project_out=False), "attn_layers.attn_project_out: false"),
        (with_layers(attn_sparse_topk=[1, None, 2]), r"attn_sparse_topk: the list \[1, null, 2\]"),
        (with_layers(ff_sublayer_dropout=0.1), "ff_sublayer_dropout: 0.1"),
        ({**TINY, "memory_tokens_interspersed_every": 2}, "memory_tokens_interspersed_every: 2"),
        ({**TINY, "emb_dim": 8}, "emb_dim: 8"),
        ({**TINY, "logits_dim": 8}, "logits_dim: 8"),
    ],
)
def test_what_our_models_lack_is_refused(config, words):
    with pytest.raises(hg.UnsupportedError, match=words):
        resolve(config)


BLOCK = "backbone.blocks.layer"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{BLOCK}.mixer.protect_bos", False, "layer 0: mixer.protect_bos: False"),
        (f"{BLOCK}.mixer.selection_head", 1, "layer 0: mixer.selection_head: 1"),
        (f"{BLOCK}.mixer.selection_from", "previous", "layer 0: mixer.selection_from: 'previous'"),
        (f"{BLOCK}.mixer.qk_norm", "head", "mixer.qk_norm: 'head'"),
        (f"{BLOCK}.mixer.softmax_scale", 1.0, "mixer.softmax_scale: 1.0"),
        (f"{BLOCK}.mixer.rotary_emb_interleaved", False, "mixer.rotary_emb_interleaved: False"),
        (f"{BLOCK}.mixer.rotary_emb_dim", 2, "mixer.rotary_emb_dim: 2"),
        (f"{BLOCK}.mixer.qkv_proj_bias", True, "mixer.qkv_proj_bias: True"),
        (f"{BLOCK}.mixer", {"type": "mamba1"}, "mixer.type: 'mamba1'"),
        (f"{BLOCK}.mixer", None, "layer 0: no mixer"),
        (f"{BLOCK}.mlp.gate_activation", "tanh", "mlp.gate_activation: 'tanh'"),
        (f"{BLOCK}.mlp.out_bias", False, "mlp.out_bias: False"),
        (f"{BLOCK}.mlp", {"d_intermediate": 8, "gated": True}, r"mlp.bias: False \(the first map"),
        ("backbone.norm.eps", 1e-6, "backbone.norm.eps: 1e-06"),
        ("backbone.norm.bias", True, "backbone.norm: a bias"),
        ("backbone.norm_placement", "post", "backbone.norm_placement: 'post'"),
        ("backbone.residual_in_fp32", True, "backbone.residual_in_fp32"),
        ("input.embed_scale", 2.0, "input.embed_scale: 2.0"),
        ("head.bias", True, "head.bias"),
        ("head.logit_scale", 2.0, "head.logit_scale: 2.0"),
        ("head.logit_softcap", 2.0, "head.logit_softcap: 2.0"),
        ("head", {"type": "none"}, "head.type: 'none'"),
    ],
)
def test_what_upstream_lacks_is_listed(path, value, words):
    config = with_layers(attn_selective=True)
    with pytest.raises(hg.UnsupportedError, match=f"x-transformers cannot express(.|\n)*{words}"):
        upstream_config(changed(path, value, config))


def test_layers_that_upstream_cannot_tell_apart_are_listed():
    document = resolve(with_layers(attn_selective=[True, False, False])).document()
    document["backbone"]["blocks"]["layer"]["mixer"] |= {"head_dim": 16, "rotary_emb_base": 500.0}
    document["backbone"]["blocks"]["layer"]["mixer"]["alibi"] = True
    document["backbone"]["blocks"]["layer_2"]["mlp"] = None
    with pytest.raises(hg.UnsupportedError) as error:
        upstream_config(hg.ModelSpec.model_validate(document))
    for words in (
        "with and without an MLP",
        "differ in mixer.head_dim",
        "differ in mixer.alibi",
        "differ in mixer.rotary_emb_base",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("dim", [4, 6, 8, 24])
@pytest.mark.parametrize("factor", [0.25, 1.1, 3.7, 8.0])
def test_rescaled_bases_come_back(dim, factor):
    spec = resolve(with_layers(attn_dim_head=24, rotary_emb_dim=dim, rotary_base_rescale_factor=factor))
    assert resolve(upstream_config(spec)) == spec


@pytest.mark.parametrize("hidden", [1, 7, 33, 64, 85, 128, 1021])
def test_any_width_of_an_mlp_can_be_written(hidden):
    spec = changed(f"{BLOCK}.mlp.d_intermediate", hidden)
    config = json.loads(json.dumps(upstream_config(spec)))
    assert int(32 * config["attn_layers"].get("ff_mult", 4)) == hidden
    assert resolve(config) == spec


def test_frequencies_of_another_configuration_are_refused():
    spec = resolve(TINY)
    weights = to_upstream(hg.build(spec).state_dict(), spec)
    name = "attn_layers.rotary_pos_emb.inv_freq"
    with pytest.raises(hg.CheckpointError, match=f"{name} does not hold the frequencies"):
        from_upstream({**weights, name: weights[name] * 2}, spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_any_type_come_and_go(dtype):
    spec = resolve(with_layers(attn_kv_heads=2, ff_glu=True, attn_head_learned_sink=True))
    ours = hg.build(spec, dtype=dtype).state_dict()
    theirs = to_upstream(ours, spec)
    assert {tensor.dtype for tensor in theirs.values()} == {dtype}
    again = from_upstream(theirs, spec)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_weights_of_whole_numbers_are_refused():
    spec = resolve(TINY)
    weights = to_upstream(hg.build(spec).state_dict(), spec)
    with pytest.raises(hg.CheckpointError, match=r"token_emb.emb.weight is of torch.int64"):
        from_upstream({**weights, "token_emb.emb.weight": weights["token_emb.emb.weight"].long()}, spec)
