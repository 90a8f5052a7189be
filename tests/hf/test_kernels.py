"""`use_kernels=True`: what the package `kernels` replaces in our models, and that the rest is left alone."""

from types import MethodType

import pytest
import torch
from torch import nn

import hybridgen as hg
from hybridgen.hf import wrap
from hybridgen.layers.norms import Norm, QueryKeyNorm
from tests.helpers.hub_models import BLOCKS, ids, language_model

CALLS: list[tuple[int, ...]] = []


class FakeRmsNorm(nn.Module):
    """A kernel as they lie on the Hub: nothing but `forward`, which reads the attributes of the layer it replaces."""

    def forward(self, hidden_states):
        CALLS.append(tuple(hidden_states.shape))
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


class FakeRepository:
    """Hands out the fake, as `kernels.LayerRepository` hands out what it has fetched."""

    layer_name = "FakeRmsNorm"

    def load(self):
        return FakeRmsNorm


def model(**backbone):
    blocks = {"x": {"mixer": BLOCKS["A"]["mixer"], "mlp": {"d_intermediate": 48}}, "n": BLOCKS["N"]}
    return wrap(language_model(backbone={"d_model": 32, "blocks": blocks, "pattern": "x n x", **backbone})).eval()


def kernelized(one):
    """The model after what `set_use_kernels(True)` does to it, for a device that the fake kernel is for."""
    pytest.importorskip("kernels")
    from kernels import Mode, kernelize, use_kernel_mapping

    source = FakeRepository()
    with use_kernel_mapping({"RMSNorm": {"mps": {Mode.INFERENCE: source, Mode.TRAINING: source}}}):
        return kernelize(one, mode=Mode.INFERENCE, device="mps")


def test_norms_of_queries_and_keys_are_replaced_and_the_rest_is_not():
    one = model()
    expected = one(ids()).logits
    kernelized(one)
    replaced = {name for name, module in one.named_modules() if isinstance(module.__dict__.get("forward"), MethodType)}
    assert replaced == {f"backbone.layers.{layer}.mixer.{norm}" for layer in (0, 2) for norm in ("q_norm", "k_norm")}
    CALLS.clear()
    torch.testing.assert_close(one(ids()).logits, expected)
    assert len(CALLS) == 4
    torch.testing.assert_close(one.generate(ids(), max_new_tokens=3, do_sample=False)[:, :12], ids())


def test_norms_that_compute_something_else_are_left_alone():
    one = model(norm={"type": "rms", "unit_offset": True})
    kernelized(one)
    assert not [name for name, module in one.named_modules() if "forward" in module.__dict__]


def test_norms_around_layers_are_of_another_class():
    one = model()
    kinds = {name.rsplit(".", 1)[-1]: type(module) for name, module in one.named_modules() if isinstance(module, Norm)}
    assert kinds == {"norm": Norm, "norm2": Norm, "norm_f": Norm, "q_norm": QueryKeyNorm, "k_norm": QueryKeyNorm}


def test_use_kernels_leaves_a_model_in_one_piece(tmp_path):
    """Nothing is there to replace on this device, or no fitting version of the package: then it says so."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.import_utils import is_kernels_available

    plain = language_model()
    hg.save(plain, tmp_path, format="hf")
    if is_kernels_available():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, use_kernels=True)
        torch.testing.assert_close(loaded(ids()).logits, plain.eval()(ids()))
        loaded.train()(ids(), labels=ids()).loss.backward()
    else:
        with pytest.raises(ValueError, match="Kernels are not available"):
            AutoModelForCausalLM.from_pretrained(tmp_path, use_kernels=True)


def test_the_norm_is_what_it_was():
    norm = QueryKeyNorm(hg.ModelSpec.model_validate({
        "backbone": {"d_model": 8, "n_layer": 1, "ssm": {"d_state": 8}}, "input": {"type": "hidden"},
        "head": {"type": "none"},
    }).backbone.norm, 8)  # fmt: skip
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 8)
    torch.testing.assert_close(norm(x), nn.functional.rms_norm(x, (8,), norm.weight, norm.eps))
    assert norm.variance_epsilon == norm.eps
