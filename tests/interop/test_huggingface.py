"""transformers' own models: its logits and gradients from its files, and its files back."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from hybridgen.interop import huggingface
from hybridgen.interop.directory import export_directory, import_directory
from hybridgen.interop.huggingface_types import MODEL_TYPES
from hybridgen.interop.upstream_source import detect_system

transformers = pytest.importorskip("transformers")

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
    "mistral": ("mistral", DECODER | {"sliding_window": 5, "rms_norm_eps": 1e-3}),
    "mistral_full": ("mistral", DECODER | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", DECODER | {"rope_parameters": {"rope_theta": 1e6}}),
    "qwen2_window": ("qwen2", DECODER | WINDOWS | {"max_window_layers": 1}),
    "qwen3": ("qwen3", DECODER | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_window": (
        "qwen3",
        DECODER | WINDOWS | {"attention_bias": True,
                             "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "bamba": ("bamba", BAMBA | {"num_hidden_layers": 4, "attn_layer_indices": [1, 2]}),
    "bamba_bias": (
        "bamba",
        BAMBA | {"attn_layer_indices": [0], "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True,
                 "head_dim": 16, "time_step_limit": [0.05, 0.4],
                 "rope_parameters": {"rope_theta": 1e5, "partial_rotary_factor": 0.25}},
    ),
    "bamba_without_attention": ("bamba", BAMBA),
    "jamba": ("jamba", JAMBA | {"num_hidden_layers": 5}),
    "nemotron_h": ("nemotron_h", NEMOTRON | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]}),
    "nemotron_h_bias": (
        "nemotron_h",
        NEMOTRON | {"layers_block_type": ["mlp", "linear_attention"], "use_bias": True, "mlp_bias": True,
                    "mlp_hidden_act": "silu", "mamba_num_heads": 6, "time_step_min": 0.3},
    ),
    "jamba_without_attention": ("jamba", JAMBA | {"attn_layer_offset": 4, "attn_layer_period": 5}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    """transformers logs that it has no CUDA kernels, which is the point here."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    transformers.logging.set_verbosity(level)


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
