"""Parameters of published models, from their published sizes, against the same sizes in other libraries' classes."""

from pathlib import Path

import pytest

import hybridgen as hg

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def transformer(vocab_size, d_model, n_layer, d_mlp, attn, tie=False, **backbone):
    """A Transformer in the manner of Llama: no biases but for those in attn, RMS norms, gated MLPs."""
    attn = {"qkv_proj_bias": False, "out_proj_bias": False} | attn
    stack = {"d_model": d_model, "n_layer": n_layer, "attn_layer_idx": "all", "attn": attn}
    stack |= {"attn_mlp_d_intermediate": d_mlp, **backbone}
    tokens = {"type": "tokens", "vocab_size": vocab_size}
    return {"input": tokens, "backbone": stack, "head": {"type": "lm", "tie_embeddings": tie}}


def mamba(vocab_size, d_model, n_layer, tie=True, **ssm):
    """A stack of Mamba layers alone."""
    backbone = {"d_model": d_model, "n_layer": n_layer, "ssm": {"type": "mamba1", **ssm}}
    tokens = {"type": "tokens", "vocab_size": vocab_size}
    return {"input": tokens, "backbone": backbone, "head": {"type": "lm", "tie_embeddings": tie}}


def heads(count, kv, **fields):
    """Fields of attention."""
    return {"num_heads": count, "num_heads_kv": kv, **fields}


# How each count was found: (t) is counted on the meta device on transformers 5.23's class with the same sizes; the
# others name the class that was counted. The names are those of the published models, whose pages were not read.
PUBLISHED = {
    # meta-llama/Llama-2-7b-hf, arXiv 2307.09288 (t)
    "Llama-2-7B": (6_738_415_616, transformer(32000, 4096, 32, 11008, heads(32, 32))),
    # meta-llama/Meta-Llama-3-8B, arXiv 2407.21783 (t)
    "Llama-3-8B": (8_030_261_248, transformer(128256, 4096, 32, 14336, heads(32, 8))),
    # mistralai/Mistral-7B-v0.1, arXiv 2310.06825 (t)
    "Mistral-7B": (7_241_732_096, transformer(32000, 4096, 32, 14336, heads(32, 8, window=4096))),
    # TinyLlama/TinyLlama-1.1B, arXiv 2401.02385 (t)
    "TinyLlama-1.1B": (1_100_048_384, transformer(32000, 2048, 22, 5632, heads(32, 4))),
    # Qwen/Qwen2-0.5B, arXiv 2407.10671: biases on queries, keys and values alone (t)
    "Qwen2-0.5B": (494_032_768, transformer(151936, 896, 24, 4864, heads(14, 2, qkv_proj_bias=True), tie=True)),
    # Qwen/Qwen3-0.6B, arXiv 2505.09388: norms of queries and keys per head (t)
    "Qwen3-0.6B": (
        596_049_920, transformer(151936, 1024, 28, 3072, heads(16, 8, head_dim=128, qk_norm="head"), tie=True)
    ),
    # allenai/OLMo-2-1124-7B, arXiv 2501.00656: norms behind the branches, and of queries and keys over all heads (t)
    "OLMo-2-7B": (
        7_298_617_344, transformer(100352, 4096, 32, 11008, heads(32, 32, qk_norm="full"), norm_placement="post")
    ),
    # HuggingFaceTB/SmolLM-135M (t)
    "SmolLM-135M": (134_515_008, transformer(49152, 576, 30, 1536, heads(9, 3), tie=True)),
    # state-spaces/mamba-130m, arXiv 2312.00752 (t)
    "Mamba-130M": (129_135_360, mamba(50280, 768, 24)),
    # tiiuae/falcon-mamba-7b, arXiv 2410.05355: norms without weights on dt, B and C (t)
    "Falcon-Mamba-7B": (7_272_665_088, mamba(65024, 4096, 64, tie=False, bcdt_norm="weightless")),
    # state-spaces/mamba2-130m, arXiv 2405.21060 (t)
    "Mamba-2-130M": (128_989_632, "mamba2-130m"),
    # state-spaces/mamba2attn-2.7b, arXiv 2405.21060; counted on mamba-ssm's class
    "Mamba-2-Attention-2.7B": (2_697_590_880, "mamba2attn-2.7b"),
    # Zyphra/Zonos-v0.1-hybrid; the backbone, counted on Zyphra's class
    "Zonos-v0.1-hybrid": (1_608_856_448, "zonos-v0.1-hybrid"),
    # hustvl/Vim-tiny-midclstok, arXiv 2401.09417; counted on Vim's class
    "Vim-tiny": (7_148_008, "vim-tiny"),
    # facebook/deit-tiny-patch16-224, arXiv 2012.12877 (t)
    "DeiT-tiny": (5_717_416, "deit-tiny"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    expected, source = PUBLISHED[name]
    spec = hg.load_spec(CONFIGS / f"{source}.yaml") if isinstance(source, str) else hg.ModelSpec.model_validate(source)
    assert hg.cost(spec).total.parameters.total == expected
