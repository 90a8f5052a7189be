"""Every shipped model resolves, builds on the meta device, and has the published number of parameters."""

import math
import re
from pathlib import Path

import pytest

from hybridgen import build, load_spec
from hybridgen.spec import ModelSpec

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "configs" / "model").glob("*.yaml"))


TOURS = {"tour", "tour-vision"}


def mamba1_layer(d_model: int) -> int:
    """Norm, in_proj, convolution, x_proj, dt_proj, A_log, D and out_proj of Mamba with its default sizes."""
    inner, rank, state = 2 * d_model, math.ceil(d_model / 16), 16
    conv, x_proj, dt_proj = 5 * inner, (rank + 2 * state) * inner, (rank + 1) * inner
    return d_model + 2 * inner * d_model + conv + x_proj + dt_proj + inner * state + inner + inner * d_model


def mamba2_layer(d_model: int, norm: int, state: int = 128, headdim: int = 64) -> int:
    """Norm, in_proj, convolution, dt_bias, A_log, D, gated norm and out_proj of Mamba-2 with one group."""
    inner = 2 * d_model
    heads, conv = inner // headdim, inner + 2 * state
    in_proj = (2 * inner + 2 * state + heads) * d_model
    return norm + in_proj + 5 * conv + 3 * heads + inner + inner * d_model


def attention(d_model: int, heads: int, heads_kv: int, head_dim: int) -> int:
    """in_proj and out_proj without biases."""
    return (heads + 2 * heads_kv) * head_dim * d_model + heads * head_dim * d_model


def mamba1_lm(d_model: int, n_layer: int) -> int:
    return 50280 * d_model + n_layer * mamba1_layer(d_model) + d_model


def mamba2_lm(d_model: int, n_layer: int) -> int:
    return 50288 * d_model + n_layer * mamba2_layer(d_model, d_model) + d_model


def mamba2attn(d_model: int = 2560, n_layer: int = 64, n_attention: int = 6) -> int:
    qkv = 3 * 30 * 128
    attention_layer = d_model + attention(d_model, 30, 30, 128) + 5 * qkv
    ssm_layers = (n_layer - n_attention) * mamba2_layer(d_model, d_model)
    return 50288 * d_model + ssm_layers + n_attention * attention_layer + d_model


def zonos_attention_layer(d_model: int = 2048) -> int:
    return 2 * 2 * d_model + attention(d_model, 16, 4, 128) + 3 * d_model * 8192


def zonos_hybrid(d_model: int = 2048) -> int:
    return 34 * mamba2_layer(d_model, 2 * d_model) + 12 * zonos_attention_layer() + 2 * d_model


def zonos_transformer(d_model: int = 2048) -> int:
    return 26 * zonos_attention_layer() + 2 * d_model


def llama_like(d_model: int = 2048) -> int:
    layer = 2 * d_model + attention(d_model, 32, 4, 64) + 3 * d_model * 5632
    return 2 * 32000 * d_model + 22 * layer + d_model


def llama_3_8b(d_model: int = 4096) -> int:
    layer = 2 * d_model + attention(d_model, 32, 8, 128) + 3 * d_model * 14336
    return 2 * 128256 * d_model + 32 * layer + d_model


def tiny_hybrid(d_model: int = 64) -> int:
    attention_layer = 2 * d_model + attention(d_model, 4, 2, 16) + 3 * d_model * 256
    return 1000 * d_model + 6 * mamba2_layer(d_model, d_model, state=32, headdim=16) + 2 * attention_layer + d_model


def language_10m(mamba_layers: int, attention_layers: int, intermediate: int, d_model: int = 320) -> int:
    attention_layer = 2 * d_model + attention(d_model, 5, 5, 64) + 3 * d_model * intermediate
    mamba_layer = mamba2_layer(d_model, d_model, state=64)
    return 4096 * d_model + mamba_layers * mamba_layer + attention_layers * attention_layer + d_model


def realformer(d_model: int = 768) -> int:
    """Everything has a bias; of the 24 norms, each behind a branch, the last is the norm of the stack."""
    projections = attention(d_model, 12, 12, 64) + 4 * d_model
    mlp = 2 * d_model * 3072 + 3072 + d_model
    return 30528 * d_model + 12 * (projections + mlp + 2 * 2 * d_model)


def selective_100m(d_model: int = 768) -> int:
    return 8192 * d_model + 12 * (2 * d_model + attention(d_model, 12, 12, 64) + 2 * d_model * 3072) + d_model


def hybrid_selective(d_model: int = 768) -> int:
    attention_layer = 2 * d_model + attention(d_model, 12, 4, 64) + 3 * d_model * 2048
    return 32000 * d_model + 12 * mamba2_layer(d_model, d_model) + 4 * attention_layer + d_model


def vim_layer(d_model: int, state: int = 16) -> int:
    """Norm, in_proj and out_proj, and twice (one direction each) convolution, x_proj, dt_proj, A_log and D."""
    inner, rank = 2 * d_model, math.ceil(d_model / 16)
    direction = 5 * inner + (rank + 2 * state) * inner + (rank + 1) * inner + inner * state + inner
    return d_model + 3 * inner * d_model + 2 * direction


def image_ends(d_model: int, tokens: int, classes: int = 1000, class_token: int = 1) -> int:
    """Patches of 16 x 16 pixels, class token, positions, classifier."""
    return (3 * 16 * 16 + 1) * d_model + (class_token + tokens) * d_model + (d_model + 1) * classes


def vim(d_model: int, tokens: int = 197) -> int:
    return image_ends(d_model, tokens) + 24 * vim_layer(d_model) + d_model


def vit_layer(d_model: int = 192) -> int:
    """Two layer norms, attention and an MLP of four times the width, all with biases."""
    return 4 * d_model + 4 * (d_model + 1) * d_model + 2 * d_model * 4 * d_model + 5 * d_model


def deit_tiny(d_model: int = 192) -> int:
    return image_ends(d_model, 197) + 12 * vit_layer() + 2 * d_model


def vim_hybrid_tiny(d_model: int = 192) -> int:
    # RMS norms have no bias, which is in vit_layer.
    attending = 4 * (vit_layer() - 2 * d_model)
    return image_ends(d_model, 196, class_token=0) + 12 * vim_layer(d_model) + attending + d_model


PARAMETERS = {
    "vim-tiny": vim(192),
    "vim-tiny-gelu": vim(192),
    "vim-tiny-stride8": vim(192, 27 * 27 + 1),
    "vim-small": vim(384),
    "vim-small-stride8": vim(384, 27 * 27 + 1),
    "vim-base": vim(768),
    "deit-tiny": deit_tiny(),
    "vim-hybrid-tiny": vim_hybrid_tiny(),
    "vim-digits": 247_114,
    "zonos-v0.1-hybrid": zonos_hybrid(),
    "zonos-v0.1-transformer": zonos_transformer(),
    "mamba-130m": mamba1_lm(768, 24),
    "mamba-370m": mamba1_lm(1024, 48),
    "mamba-790m": mamba1_lm(1536, 48),
    "mamba-1.4b": mamba1_lm(2048, 48),
    "mamba-2.8b": mamba1_lm(2560, 64),
    "mamba2-130m": mamba2_lm(768, 24),
    "mamba2-370m": mamba2_lm(1024, 48),
    "mamba2-780m": mamba2_lm(1536, 48),
    "mamba2-1.3b": mamba2_lm(2048, 48),
    "mamba2-2.7b": mamba2_lm(2560, 64),
    "mamba2attn-2.7b": mamba2attn(),
    "llama-like-1b": llama_like(),
    "llama-3-8b": llama_3_8b(),
    "tiny-hybrid": tiny_hybrid(),
    "language-10m-hybrid": language_10m(9, 3, 496),
    "language-10m-transformer": language_10m(0, 7, 856),
    "language-10m-mamba2": language_10m(13, 0, 0),
    "realformer-base": realformer(),
    "selective-100m": selective_100m(),
    "hybrid-selective": hybrid_selective(),
}
# Counted on the upstream classes themselves, timm's among them, and on published checkpoints (TinyLlama, Llama 3).
PUBLISHED = {
    "vim-tiny": 7_148_008,
    "vim-tiny-stride8": 7_250_344,
    "vim-small": 25_796_584,
    "vim-small-stride8": 26_001_256,
    "vim-base": 97_598_440,
    "deit-tiny": 5_717_416,
    "zonos-v0.1-hybrid": 1_608_856_448,
    "zonos-v0.1-transformer": 1_581_469_696,
    "mamba-130m": 129_135_360,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-130m": 128_989_632,
    "mamba2-2.7b": 2_702_599_680,
    "mamba2attn-2.7b": 2_697_590_880,
    "llama-like-1b": 1_100_048_384,
    "llama-3-8b": 8_030_261_248,
}


def _stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", MODELS, ids=_stem)
def test_parameter_count_is_the_published_one(path: Path) -> None:
    model = build(load_spec(path), device="meta")
    count = sum(parameter.numel() for parameter in model.parameters())
    if path.stem not in TOURS:
        assert count == PARAMETERS[path.stem]
    assert count == PUBLISHED.get(path.stem, count)


def test_every_model_but_the_tours_has_its_count() -> None:
    assert {path.stem for path in MODELS} - TOURS == set(PARAMETERS)


@pytest.mark.parametrize("path", MODELS, ids=_stem)
def test_name_is_that_of_the_file(path: Path) -> None:
    assert load_spec(path).name == path.stem


@pytest.mark.parametrize("path", MODELS, ids=_stem)
def test_resolved_form_resolves_to_itself(path: Path) -> None:
    document = load_spec(path).document()
    assert ModelSpec.model_validate(document).document() == document


@pytest.mark.parametrize("path", MODELS, ids=_stem)
def test_file_opens_with_its_schema_and_a_comment(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert schema is not None
    assert (path.parent / schema[1]).resolve() == ROOT / "configs" / "hybridgen.schema.json"
    assert second.startswith("# ")
    assert second.endswith(".")


def test_no_yaml_is_left_out() -> None:
    """Sweeps are no models, so no schema fits them; tests/sweep/test_shipped_sweeps.py has their tests."""
    everything = {path.relative_to(ROOT / "configs").parts[0] for path in (ROOT / "configs").rglob("*.yaml")}
    assert everything == {"model", "sweep"}


def test_zonos_tracks_differ_in_the_layout_of_their_rotary_embedding() -> None:
    hybrid, transformer = (
        load_spec(ROOT / f"configs/model/zonos-v0.1-{track}.yaml") for track in ("hybrid", "transformer")
    )
    assert not hybrid.backbone.layers[0].mixer.rotary_emb_interleaved
    assert transformer.backbone.layers[0].mixer.rotary_emb_interleaved
