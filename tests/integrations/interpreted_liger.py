"""Models with Liger's kernels under Triton's interpreter, against the same models with ours.

`test_liger.py` runs this file in a process of its own: whether Triton compiles or interprets is settled when kernels
are imported.
"""

import sys

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

import hybridgen as hg
from hybridgen.integrations import liger
from hybridgen.layers.norms import Norm
from hybridgen.ops.linear_cross_entropy import linear_cross_entropy
from hybridgen.spec.parts import NormSpec
from tests.helpers import liger_cases as cases
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture(autouse=True)
def _what_the_interpreter_lacks(monkeypatch):
    """Numbers with the methods of tensors, as compiled kernels have them, and two functions of CUDA's library."""
    from liger_kernel.ops import cross_entropy, fused_add_rms_norm, geglu, layer_norm, rms_norm

    converted = interpreter._implicit_cvt

    def convert(argument):
        if not isinstance(argument, float):
            return converted(argument)
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    monkeypatch.setattr(interpreter, "_implicit_cvt", convert)
    for module in (rms_norm, fused_add_rms_norm, layer_norm):
        # tl.rsqrt is another function while a kernel is interpreted.
        monkeypatch.setattr(module, "rsqrt", lambda x: tl.rsqrt(x))  # noqa: PLW0108
    for module in (geglu, cross_entropy):
        monkeypatch.setattr(module, "tanh", lambda x: 2 * tl.sigmoid(2 * x) - 1)


def _same(given, expected):
    assert_close(given[0], expected[0])
    assert given[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert_close(given[1][name], gradient, what=name)


@pytest.mark.parametrize("name", cases.STACKS)
def test_models(name):
    model = cases.build(name)
    changed, report = cases.with_liger(model)
    assert tuple(report.replaced.values()) == (*cases.REPLACED[name], 0)
    _same(cases.outcome(changed, "cpu"), cases.outcome(model, "cpu"))


def test_steps_and_padding():
    model = cases.build("partial-rotary").eval()
    changed, _ = cases.with_liger(model)
    mask = cases.left_padding()
    _same(cases.outcome(changed, "cpu", mask=mask), cases.outcome(model, "cpu", mask=mask))
    with torch.no_grad():
        for one in (model, changed):
            # One row and one token: slices of a projection are contiguous, and Liger writes where it reads.
            state = one.init_state(1, 6)
            row = cases.ids()[:1]
            parts = [one(row[:, :4], state), one(row[:, 4:5], state), one(row[:, 5:], state)]
            assert_close(torch.cat(parts, dim=1), model(row))


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("weights", [torch.float32, torch.float16])
@pytest.mark.parametrize("stream", [None, torch.float32, torch.float16])
def test_norms_of_mixed_dtypes(kind, weights, stream):
    """The norm reads the sum unrounded, and the result has the weight's dtype."""
    torch.manual_seed(0)
    norm = Norm(NormSpec(type=kind), 24).to(weights)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    changed, _ = cases.with_liger(norm)
    x = torch.randn(2, 3, 24).half().requires_grad_()
    residual = None if stream is None else (100 * torch.randn(2, 3, 24)).to(stream).requires_grad_()
    given, expected = (one(x, residual, stream or torch.float32) for one in (changed, norm))
    leaves = [x] if residual is None else [x, residual]
    for a, e in zip(given, expected, strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e)
    assert_close(changed(x, residual), norm(x, residual))
    gradients = [torch.randn_like(one) for one in expected]
    results = [torch.autograd.grad(both, [*leaves, *one.parameters()], gradients)
               for both, one in ((given, changed), (expected, norm))]  # fmt: skip
    for a, e in zip(*results, strict=True):
        assert_close(a, e, torch.float16)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "options", [{}, {"logit_scale": 0.3}, {"logit_softcap": 2.0}, {"logit_scale": 1.7, "logit_softcap": 1.5}], ids=str
)
@pytest.mark.parametrize("learns", ["all", "hidden", "head"])
def test_loss(reduction, options, learns):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 12), torch.randn(19, 12), torch.randn(19)
    labels = torch.tensor([3, 18, -1, 0, 7, -1, 7])
    leaves = {"all": [hidden, weight, bias], "hidden": [hidden], "head": [weight, bias]}[learns]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for op in (liger.linear_cross_entropy, linear_cross_entropy):
        loss = op(hidden, weight, labels, bias, ignore_index=-1, reduction=reduction, **options)
        results.append([loss, *torch.autograd.grad(loss, leaves, torch.tensor(0.5))])
        with torch.no_grad():
            assert_close(op(hidden, weight, labels, bias, ignore_index=-1, reduction=reduction, **options), loss)
    for a, e in zip(*results, strict=True):
        assert_close(a, e)


def _hf_model():
    import hybridgen.hf

    spec = hg.ModelSpec.model_validate(
        cases.document(cases.STACKS["hybrid"], logit_scale=0.3, logit_softcap=2.0, bias=True, tie_embeddings=False)
    )
    model = hybridgen.hf.wrap(hg.build(spec))
    cases.scatter(model)
    return model


def _loss(model):
    model.zero_grad()
    loss = model(cases.ids(), labels=cases.ids()).loss
    loss.backward()
    return loss.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def _runs_liger(model):
    return (
        model.linear_cross_entropy is liger.linear_cross_entropy and "forward" in model.backbone.layers[0].norm.__dict__
    )


def test_liger_finds_our_models_and_honours_scale_and_softcap():
    """What Trainer(use_liger_kernel=True) calls."""
    model = _hf_model()
    expected = _loss(model)
    assert "liger_kernel.transformers.monkey_patch" not in sys.modules
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"rope": False, "cross_entropy": False})
    assert _runs_liger(model)
    assert model.backbone.layers[1].mixer.rotate is None
    _same(_loss(model), expected)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_training_with_adapters_and_the_option_of_trainer(tmp_path):
    import peft
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row, "labels": row} for row in cases.ids()]
    losses = []
    for chosen in (False, True):
        torch.manual_seed(0)
        adapters = peft.LoraConfig(target_modules=["fc1", "fc2", "in_proj"], r=2, modules_to_save=["norm_f"])
        model = peft.get_peft_model(_hf_model(), adapters)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, use_cpu=True, use_liger_kernel=chosen, report_to="none", disable_tqdm=True,
            learning_rate=0.1, save_strategy="no", per_device_eval_batch_size=2,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        assert _runs_liger(model.get_base_model()) is chosen
        assert ("forward" in model.get_base_model().backbone.norm_f.modules_to_save["default"].__dict__) is chosen
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_auto_class_of_liger(tmp_path, monkeypatch):
    from liger_kernel.transformers import AutoLigerKernelForCausalLM

    monkeypatch.setattr(liger, "_for_new_models", None)
    model = _hf_model()
    assert not _runs_liger(model)
    model.save_pretrained(tmp_path)
    changed = AutoLigerKernelForCausalLM.from_pretrained(tmp_path, swiglu=False)
    assert _runs_liger(changed)
    assert "forward" not in changed.backbone.layers[1].mlp.__dict__
    _same(_loss(changed), _loss(model))


def test_hooks_of_accelerate_stay():
    """With device_map they stand where a module's own `forward` was."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = cases.build("transformer")
    expected = cases.outcome(model, "cpu")
    calls = []

    class Counting(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    mlp = model.backbone.layers[0].mlp
    add_hook_to_module(mlp, Counting())
    liger.apply(model)
    _same(cases.outcome(model, "cpu"), expected)
    assert calls == [mlp]
    assert mlp._old_forward.__func__ is liger._gated_mlp
