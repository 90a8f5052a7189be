"""transformers' own models: its logits and gradients from its files, and its files back."""

import json
from collections import ChainMap

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from hybridgen.interop import huggingface
from hybridgen.interop.directory import export_directory, import_directory
from hybridgen.interop.huggingface_types import MODEL_TYPES
from hybridgen.interop.spec_differences import differences
from hybridgen.interop.upstream_source import detect_system

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("quiet_transformers")

SSM = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MAMBA2 = SSM | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16}
DECODER = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "initializer_range": 0.05,
}  # fmt: skip
BAMBA = DECODER | {
    "mamba_n_heads": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 16, "max_position_embeddings": 64,
}  # fmt: skip
JAMBA = DECODER | {"num_experts": 1, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 8}
NEMOTRON = {
    "vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2,
    "chunk_size": 16,
}  # fmt: skip
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
CASES = {
    "mamba": ("mamba", SSM),
    "mamba_wide": (
        "mamba",
        SSM | {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False, "intermediate_size": 48,
               "time_step_rank": 3, "layer_norm_epsilon": 1e-4, "residual_in_fp32": False},
    ),
    "falcon_mamba": ("falcon_mamba", SSM | {"expand": 16, "intermediate_size": 64}),
    "mamba2": ("mamba2", MAMBA2),
    "mamba2_limit": (
        "mamba2", MAMBA2 | {"use_bias": True, "tie_word_embeddings": True, "time_step_limit": [0.05, 0.4]}
    ),
    "llama": ("llama", DECODER),
    "llama_bias": (
        "llama",
        DECODER | {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True,
                   "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "hidden_act": "gelu"},
    ),
    "mistral": ("mistral", DECODER | {"tie_word_embeddings": True, "sliding_window": 5, "rms_norm_eps": 1e-3}),
    "mistral_full": ("mistral", DECODER | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", DECODER | {"rope_parameters": {"rope_theta": 1e6}}),
    "qwen2_window": ("qwen2", DECODER | WINDOWS | {"tie_word_embeddings": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", DECODER | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_window": (
        "qwen3",
        DECODER | WINDOWS | {"attention_bias": True,
                             "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "bamba": ("bamba", BAMBA | {"num_hidden_layers": 4, "attn_layer_indices": [1, 2]}),
    "bamba_bias": (
        "bamba",
        BAMBA | {"attn_layer_indices": [0], "tie_word_embeddings": True, "mamba_proj_bias": True,
                 "attention_bias": True, "mlp_bias": True,
                 "head_dim": 16, "time_step_limit": [0.05, 0.4],
                 "rope_parameters": {"rope_theta": 1e5, "partial_rotary_factor": 0.25}},
    ),
    "bamba_without_attention": ("bamba", BAMBA),
    "jamba": ("jamba", JAMBA | {"num_hidden_layers": 5, "tie_word_embeddings": True}),
    "nemotron_h": (
        "nemotron_h", NEMOTRON | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]}
    ),
    "nemotron_h_bias": (
        "nemotron_h",
        NEMOTRON | {"layers_block_type": ["mlp", "linear_attention"], "use_bias": True, "mlp_bias": True,
                    "mlp_hidden_act": "silu", "mamba_num_heads": 6, "time_step_min": 0.3},
    ),
    "jamba_without_attention": ("jamba", JAMBA | {"attn_layer_offset": 4, "attn_layer_period": 5}),
}  # fmt: skip


def upstream(case, seed=0):
    """A tiny model of transformers, all of whose weights are away from their starting values."""
    name, config = CASES[case]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def directory(path, case, seed=0):
    model = upstream(case, seed)
    model.save_pretrained(path / "theirs")
    return model


def tokens():
    return torch.randint(0, 50, (2, 19), generator=torch.Generator().manual_seed(1))


def close(ours, theirs, atol=2e-5):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("case", CASES)
def test_model_comes_in_with_its_logits_and_goes_out_bit_for_bit(tmp_path, case):
    theirs, ids = directory(tmp_path, case), tokens()
    done = import_directory(tmp_path / "theirs", tmp_path / "ours")
    assert (done.system, done.other) == ("huggingface", ())
    assert done.parameters == theirs.num_parameters()
    ours = hg.load(tmp_path / "ours", verify=True).eval()
    with torch.no_grad():
        close(ours(ids), theirs(ids, use_cache=False).logits)

    export_directory(tmp_path / "ours", tmp_path / "back", "huggingface")
    assert (tmp_path / "back/config.json").read_bytes() == (tmp_path / "theirs/config.json").read_bytes()
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    # Without what was kept of the original, the configuration is made from the spec.
    export_directory(ours, tmp_path / "made", "huggingface")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not any(report.values())
    assert again.config.model_type == ("llama" if case == "mistral_full" else theirs.config.model_type)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids, use_cache=False).logits, theirs(ids, use_cache=False).logits)
    config = json.loads((tmp_path / "made/config.json").read_text())
    assert hg.ModelSpec.model_validate(huggingface.spec_document(config)) == done.spec


@pytest.mark.parametrize("case", ["mamba2", "falcon_mamba", "qwen3_window"])
def test_gradients_are_upstreams(tmp_path, case):
    theirs, ids = directory(tmp_path, case), tokens()
    import_directory(tmp_path / "theirs", tmp_path / "ours")
    ours = hg.load(tmp_path / "ours")
    for model in (lambda: ours(ids), lambda: theirs(ids, use_cache=False).logits):
        torch.nn.functional.cross_entropy(model()[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    found = huggingface.to_upstream({name: p.grad for name, p in ours.named_parameters()}, ours.spec)
    needed = {name: p.grad for name, p in theirs.named_parameters()}
    assert found.keys() == needed.keys()
    for name, gradient in needed.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_defaults_are_upstreams(name):
    needed = {"jamba": {"num_experts": 1}, "nemotron_h": {"hybrid_override_pattern": "M-M*"}}.get(name, {})
    full = json.loads(transformers.AutoConfig.for_model(name, **needed).to_json_string(use_diff=False))
    ours, theirs = (
        hg.ModelSpec.model_validate(huggingface.spec_document(each)) for each in ({"model_type": name, **needed}, full)
    )
    assert differences(ours, theirs) == differences(theirs, ours) == []


def test_spelling_of_older_versions_is_read():
    new = {"model_type": "llama", **DECODER, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    needed = huggingface.spec_document(new)
    del new["rope_parameters"]
    for old in (
        {"rope_theta": 500, "rope_scaling": None, "torch_dtype": "bfloat16", "pretraining_tp": 1},
        {"rope_theta": 10, "rope_scaling": {"type": "default", "rope_theta": 500.0}, "head_dim": None},
        {"rope_theta": 10, "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    ):
        assert huggingface.spec_document(new | old) == needed
    # transformers' own reading of the old names is the same.
    config = transformers.LlamaConfig(**DECODER, rope_theta=500.0, rope_scaling=None)
    assert huggingface.spec_document(json.loads(config.to_json_string())) == needed


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("gpt2", {}, ["model_type is the text 'gpt2'; it must be one of mamba, "]),
        ("llama", DECODER | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
         ["rope_scaling.rope_type: the text 'llama3'", "rope_scaling.factor: 8.0"]),
        ("llama", DECODER | {"hidden_act": "quick_gelu", "sliding_window": 8, "quantization_config": {"bits": 4}},
         ["hidden_act: the text 'quick_gelu'", "sliding_window: 8", "quantization_config: the mapping {bits: 4}"]),
        ("llama", DECODER | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
         ["rope_parameters.partial_rotary_factor: 0.5"]),
        ("mistral", DECODER | {"architectures": ["MistralForSequenceClassification"]}, ["MistralForSequenceClassif"]),
        ("qwen2", DECODER | {"layer_types": ["chunked_attention", "sliding_attention", "full_attention"]},
         ["layer_types: the text 'chunked_attention'", "sliding_attention, without use_sliding_window: true"]),
        ("mamba", SSM | {"hidden_act": "gelu"}, ["hidden_act: the text 'gelu' (can be silu, swish)"]),
        ("mamba2", MAMBA2 | {"layer_norm_epsilon": 1e-6}, ["layer_norm_epsilon: 1e-06 (can be 1e-05)"]),
        ("falcon_mamba", SSM | {"mixer_rms_eps": 1e-5}, ["mixer_rms_eps: 1e-05 (can be 1e-06)"]),
        ("bamba", BAMBA | {"attn_layer_indices": [0, 1, 2]}, ["no SSM layer at all"]),
        ("jamba", JAMBA | {"num_experts": 16}, ["num_experts: 16 (can be 1)"]),
        ("nemotron_h", NEMOTRON, ["layers_block_type: the text 'moe'"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_everything_listed(name, config, words):
    with pytest.raises(hg.UnsupportedError) as caught:
        huggingface.spec_document({"model_type": name, **config})
    assert all(each in str(caught.value) for each in words)
    assert len(str(caught.value).splitlines()) == (1 if name == "gpt2" else 1 + len(words))


@pytest.mark.parametrize(
    ("name", "config", "place"),
    [
        ("llama", {"hidden_size": "32"}, "hidden_size"),
        ("llama", {"attention_bias": 1}, "attention_bias"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"head_dim": 7}, "head_dim"),
        ("llama", {"rope_parameters": {"rope_theta": -1.0}}, "rope_parameters.rope_theta"),
        ("llama", {"rope_theta": True}, "rope_theta"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("mamba", {"time_step_rank": "x"}, "time_step_rank"),
        ("mamba2", {"num_heads": 3}, "num_heads"),
        ("mamba2", {"n_groups": 3}, "n_groups"),
        ("mamba2", {"time_step_limit": [0.5, 0.1]}, "time_step_limit"),
        ("bamba", {"mamba_n_heads": 7}, "mamba_n_heads"),
        ("bamba", {"mamba_d_head": "half"}, "mamba_d_head"),
        ("jamba", {"mamba_dt_rank": "x"}, "mamba_dt_rank"),
        ("nemotron_h", {"layers_block_type": []}, "layers_block_type"),
    ],
)
def test_a_wrong_value_is_reported_at_its_place(tmp_path, name, config, place):
    usual = {"mamba": SSM, "mamba2": MAMBA2, "bamba": BAMBA, "jamba": JAMBA, "nemotron_h": NEMOTRON}.get(name, DECODER)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name, **usual, **config}))
    with pytest.raises(hg.SpecError) as caught:
        import_directory(tmp_path, tmp_path / "out")
    assert {(fault.file, fault.path) for fault in caught.value.faults} == {(str(tmp_path / "config.json"), place)}


def test_pattern_of_letters_is_read():
    kinds = ["linear_attention", "mlp", "full_attention"]
    written = [
        {"hybrid_override_pattern": "M-*"},
        {"layers_block_type": kinds},
        {"layers_block_type": ["mamba", "mlp", "attention"]},
    ]
    first, *others = [huggingface.spec_document({"model_type": "nemotron_h", **NEMOTRON, **each}) for each in written]
    assert all(other == first for other in others)


def test_files_of_older_versions_come_in(tmp_path):
    for case in ("mamba", "llama_bias"):
        theirs = directory(tmp_path / case, case)
        file = tmp_path / case / "theirs/model.safetensors"
        weights = load_file(file)
        if case == "mamba":
            weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
        else:
            weights |= {"lm_head.weight": weights["model.embed_tokens.weight"].clone(),
                        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}  # fmt: skip
        save_file(weights, file)
        import_directory(tmp_path / case / "theirs", tmp_path / case / "ours")
        with torch.no_grad():
            close(hg.load(tmp_path / case / "ours")(tokens()), theirs(tokens()).logits)


def test_weights_that_do_not_fit_are_named(tmp_path):
    directory(tmp_path, "qwen3")
    file = tmp_path / "theirs/model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.1.mlp.up.weight"] = torch.zeros(48, 32)
    weights["model.norm.weight"] = torch.zeros(31)
    save_file(weights, file)
    with pytest.raises(hg.CheckpointError) as caught:
        import_directory(tmp_path / "theirs", tmp_path / "ours")
    for words in ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up.weight", "model.norm.weight"):
        assert words in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_parts_of_several_types_are_refused():
    spec = hg.ModelSpec.model_validate(huggingface.spec_document({"model_type": "llama", **DECODER}))
    weights = huggingface.to_upstream(hg.build(spec).state_dict(), spec)
    weights["model.layers.0.self_attn.k_proj.weight"] = weights["model.layers.0.self_attn.k_proj.weight"].half()
    with pytest.raises(hg.CheckpointError, match=r"k_proj\.weight.* are of several types; convert them to one"):
        huggingface.from_upstream(weights, spec)


def test_shards_in_half_precision_come_back_bit_for_bit(tmp_path):
    upstream("bamba").to(torch.bfloat16).save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    import_directory(tmp_path / "theirs", tmp_path / "ours")
    export_directory(tmp_path / "ours", tmp_path / "back", "huggingface")
    shards = [load_file(file) for file in (tmp_path / "theirs").glob("*.safetensors")]
    before, after = dict(ChainMap(*shards)), load_file(tmp_path / "back/model.safetensors")
    assert len(shards) > 1
    assert all(t.dtype == torch.bfloat16 and torch.equal(after[name], t) for name, t in before.items())
    assert before.keys() == after.keys()


ATTENTION = {"type": "attention", "num_heads": 4, "rotary_emb_dim": 8, "qkv_proj_bias": False, "out_proj_bias": False}
MLP = {"d_intermediate": 48, "multiple_of": 1}


def document(mixer, mlp=MLP, pattern="layer*2", other=None, **backbone):
    blocks = {"layer": {"mixer": mixer, "mlp": mlp}} | ({"other": other} if other else {})
    stack = {"d_model": 32, "residual_in_fp32": False, "blocks": blocks, "pattern": pattern}
    return {"input": {"type": "tokens", "vocab_size": 50}, "backbone": stack | backbone, "head": {"type": "lm"}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (document(ATTENTION | {"sink": True, "qk_norm": "full", "rotary_emb_interleaved": True}),
         ["layer 0: mixer.sink: true", "layer 0: mixer.qk_norm: 'full'",
          "layer 0: mixer.rotary_emb_interleaved: true"]),
        (document(ATTENTION, norm={"type": "layer", "eps": 1e-6}, residual_in_fp32=True),
         ["backbone.norm.type: 'layer'", "backbone.norm.bias: true", "backbone.residual_in_fp32: true"]),
        (document({"type": "attention", "num_heads": 4, "qkv_proj_bias": False, "out_proj_bias": False}),
         ["layer 0: mixer.rotary_emb_dim: 0"]),
        (document(ATTENTION | {"num_heads": 5, "head_dim": 8}), ["mixer.num_heads: 5"]),
        (document(ATTENTION | {"window": 8}, pattern="layer other", other={"mixer": ATTENTION, "mlp": MLP}),
         ["layer 1: mixer.window: null"]),
        (document(ATTENTION, MLP | {"gate_activation": "mish", "gated": False}), ["mlp.gate_activation: 'mish'"]),
        (document(ATTENTION, MLP | {"gated": False}), ["layer 0: mlp.gated: false"]),
        (document({"type": "mamba1"}, pattern="layer other", other={"mixer": {"type": "mamba2"}, "mlp": MLP}),
         ["backbone: layers without a mixer, or with SSMs of both kinds"]),
        (document({"type": "mamba2", "headdim": 8}, None, norm={"type": "rms", "eps": 1e-6}),
         ["backbone.norm.eps: 1e-06"]),
        (document({"type": "mamba2", "headdim": 8, "d_ssm": 32}, None), ["mixer.expand: 2, mixer.d_ssm: 32"]),
        (document({"type": "mamba1", "bcdt_norm": "learned"}, None), ["layer 0: mixer.bcdt_norm: 'learned'"]),
        (document(ATTENTION) | {"input": {"type": "hidden"}, "head": {"type": "none"}}, ["input.type", "head.type"]),
        (document({"type": "mamba2", "headdim": 8, "dt_limit": [0.01, None]}, None, "layer other",
                  {"mixer": None, "mlp": MLP | {"gated": False}}), ["tie_word_embeddings: true (can be False)"]),
        (document(ATTENTION) | {"head": {"type": "lm", "logit_scale": 2.0}}, ["head.logit_scale: 2.0"]),
    ],
)  # fmt: skip
def test_models_that_no_type_expresses_are_refused_with_everything_listed(given, words):
    with pytest.raises(hg.UnsupportedError) as caught:
        huggingface.upstream_config(hg.ModelSpec.model_validate(given))
    found = str(caught.value).splitlines()[1:]
    assert len(found) == len(words)
    assert all(any(line.strip().startswith(each) for line in found) for each in words), found


def test_built_models_of_ours_open_upstream(tmp_path):
    mamba1, mamba2 = {"type": "mamba1", "expand": 1.5, "bcdt_norm": "weightless"}, {"type": "mamba2", "headdim": 8}
    shared = {"norm": {"type": "rms", "eps": 1e-6}}
    for index, given in enumerate((
        document(mamba1, None, residual_in_fp32=True),
        document({**mamba2, "expand": 0.75}, None, "layer other", {"mixer": None, "mlp": MLP | {"gated": False}}),
        document(mamba2, MLP, "layer*2 other", {"mixer": ATTENTION | {"rotary_emb_dim": 6}, "mlp": MLP}),
        document(ATTENTION | {"num_heads_kv": 1, "qk_norm": "head", "window": 4}, **shared),
    )):  # fmt: skip
        if index == 1:
            given["backbone"]["blocks"]["layer"]["mixer"]["dt_limit"] = [0.01, None]
            given["head"]["tie_embeddings"] = False
        model = hg.build(hg.ModelSpec.model_validate(given)).eval()
        export_directory(model, tmp_path / str(index), "huggingface")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / str(index)).eval()
        with torch.no_grad():
            close(model(tokens()), theirs(tokens(), use_cache=False).logits)


def test_one_of_them_is_told_from_others(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "d_model": 8}))
    assert detect_system(tmp_path) == "huggingface"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(hg.CheckpointError, match=r"\(gpt2\); what can be imported is the model types mamba, mamba2"):
        import_directory(tmp_path, tmp_path / "out")
