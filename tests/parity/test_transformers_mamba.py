"""Our Mamba and Mamba-2 language models against those of the transformers library: a second oracle."""

import pytest
import torch

import hybridgen as hg
from hybridgen.interop import mamba_ssm
from tests.helpers.golden import ATOL, GRADIENT_RTOL

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("quiet_transformers")


def mamba1(seed):
    config = transformers.MambaConfig(
        vocab_size=64, hidden_size=32, state_size=8, num_hidden_layers=3, conv_kernel=4, expand=2, time_step_rank=2,
        layer_norm_epsilon=1e-5, residual_in_fp32=True, tie_word_embeddings=True, pad_token_id=0, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    ours = {"d_model": 32, "n_layer": 3, "vocab_size": 64, "ssm_cfg": {"d_state": 8}}
    return _perturbed(transformers.MambaForCausalLM(config), seed), ours


def mamba2(seed):
    config = transformers.Mamba2Config(
        vocab_size=64, hidden_size=32, state_size=16, num_hidden_layers=3, conv_kernel=4, expand=2, head_dim=16,
        num_heads=4, n_groups=2, chunk_size=16, layer_norm_epsilon=1e-5, residual_in_fp32=True, rms_norm=True,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=0, eos_token_id=0, use_bias=True,
    )  # fmt: skip
    mixer = {"layer": "Mamba2", "d_state": 16, "headdim": 16, "ngroups": 2, "chunk_size": 16, "bias": True}
    return _perturbed(transformers.Mamba2ForCausalLM(config), seed), {
        "d_model": 32, "n_layer": 3, "vocab_size": 64, "ssm_cfg": mixer
    }  # fmt: skip


def _perturbed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def load(theirs, config):
    spec = hg.ModelSpec.model_validate(mamba_ssm.spec_document(config))
    renamed = {name.replace("embeddings", "embedding"): value for name, value in theirs.state_dict().items()}
    model = hg.build(spec)
    model.load_state_dict(mamba_ssm.from_upstream(renamed, spec), strict=True)
    return model


@pytest.mark.parametrize("family", [mamba1, mamba2])
@pytest.mark.parametrize("length", [1, 7, 33])
def test_logits_and_gradients_match(family, length):
    theirs, config = family(seed=length)
    ours = load(theirs, config)
    ids = torch.randint(64, (2, length), generator=torch.Generator().manual_seed(length))
    expected = theirs(ids, use_cache=False).logits
    found = ours(ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)
    expected.square().sum().backward()
    found.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        grad = ours.get_parameter(name.replace("embeddings", "embedding")).grad
        assert (grad - parameter.grad).abs().max() <= GRADIENT_RTOL * parameter.grad.abs().max(), name


@pytest.mark.parametrize("family", [mamba1, mamba2])
def test_greedy_continuations_match(family):
    theirs, config = family(seed=1)
    ours = load(theirs, config)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                               eos_token_id=None)  # fmt: skip
    found = hg.generate(ours, ids, max_new_tokens=12, temperature=0)
    assert found.tolist() == expected.tolist()
