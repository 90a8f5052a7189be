"""Models for a task: whose ends are the task's, whose stack is the user's."""

import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.probing import attention_baseline, mlp_control, spec_for
from hybridgen.probing.models import Autoencoder, build_for, sinusoids
from hybridgen.probing.specs import stack_parameters
from hybridgen.tasks import Compression, InContextRecall, Memorization
from tests.cli.conftest import CONFIGS

TASK = InContextRecall(vocab_size=18, seq_len=16)
HYBRID = {
    "d_model": 32,
    "n_layer": 3,
    "attn_layer_idx": [1],
    "ssm": {"type": "mamba1", "d_state": 8},
    "attn": {"num_heads": 2},
    "attn_mlp_d_intermediate": 64,
}


def _spec(**parts):
    return hg.ModelSpec.model_validate({"backbone": HYBRID, **parts})


def test_a_fragment_is_given_ends():
    spec = spec_for(_spec(), TASK)
    assert spec.backbone == _spec().backbone
    assert (spec.input.type, spec.input.vocab_size, spec.input.padded_vocab_size()) == ("tokens", 18, 18)
    assert (spec.head.type, spec.head.tie_embeddings) == ("lm", False)


def test_the_ends_of_a_language_model_keep_their_settings():
    tokens = {"type": "tokens", "vocab_size": 5000, "embed_scale": 2.0, "memory_tokens": 3}
    spec = spec_for(_spec(input=tokens, head={"type": "lm", "bias": True, "logit_softcap": 30.0}), TASK)
    assert (spec.input.vocab_size, spec.input.embed_scale, spec.input.memory_tokens) == (18, 2.0, 3)
    assert (spec.head.bias, spec.head.logit_softcap, spec.head.tie_embeddings) == (True, 30.0, True)


def test_logits_are_of_the_tasks_vocabulary():
    examples = TASK.sample(range(4))
    model = build_for(_spec(), TASK, seed=3)
    assert model(examples.inputs).shape == (4, 15, 18)
    assert model.training
    again = build_for(_spec(), TASK, seed=3)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_the_autoencoder_sees_the_prompt_only_through_its_last_state():
    task = Compression(vocab_size=7, seq_len=9)
    model = build_for(_spec(), task)
    assert isinstance(model, Autoencoder)
    inputs = task.sample(range(5)).inputs
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits = model(inputs)
    assert logits.shape == (5, 9, 7)
    hidden = model.model(inputs)[:, -1:]
    torch.testing.assert_close(seen[0], hidden + sinusoids(9, 32, hidden.device))
    logits[:, 0].sum().backward()
    assert model.model.backbone.embedding.weight.grad.abs().sum() > 0


def test_sinusoids_are_vaswanis():
    table = sinusoids(5, 6, torch.device("cpu"))
    for position in range(5):
        for pair in range(3):
            angle = torch.tensor(position / 10_000 ** (2 * pair / 6))
            expected = torch.stack([angle.sin(), angle.cos()])
            torch.testing.assert_close(table[position, 2 * pair : 2 * pair + 2], expected)


@pytest.mark.parametrize("name", ["tiny-hybrid", "mamba-130m", "zonos-v0.1-hybrid", "selective-100m"])
def test_baselines_have_the_width_and_about_the_parameters(name):
    spec = hg.load_spec(CONFIGS / f"{name}.yaml")
    own = stack_parameters(spec)
    for other in (attention_baseline(spec), mlp_control(spec)):
        assert (other.backbone.d_model, other.backbone.n_layer) == (spec.backbone.d_model, spec.backbone.n_layer)
        assert abs(stack_parameters(other) / own - 1) < 0.06
    mixers = [layer.mixer and layer.mixer.type for layer in attention_baseline(spec).backbone.layers]
    assert set(mixers) == {"attention"}
    assert all(layer.mixer is None for layer in mlp_control(spec).backbone.layers)


@pytest.mark.parametrize("d_model", [6, 8, 24, 100, 768])
def test_baselines_of_any_width_run(d_model):
    backbone = {"d_model": d_model, "n_layer": 1, "ssm": {"type": "mamba1", "d_state": 4}}
    spec = hg.ModelSpec.model_validate({"backbone": backbone})
    baseline = attention_baseline(spec)
    assert baseline.backbone.n_layer == 2, "one layer of attention recalls nothing"
    for one in (baseline, mlp_control(spec)):
        assert build_for(one, TASK)(TASK.sample([0]).inputs).isfinite().all()


def test_the_control_does_not_mix_tokens():
    model = build_for(mlp_control(_spec()), TASK).eval()
    inputs = TASK.sample(range(2)).inputs
    changed = inputs.clone()
    changed[:, :-1] = (changed[:, :-1] + 1) % 18
    torch.testing.assert_close(model(changed)[:, -1], model(inputs)[:, -1])


def test_refusals_are_worded():
    with pytest.raises(HybridgenError, match="vim-tiny: reads images"):
        spec_for(hg.load_spec(CONFIGS / "vim-tiny.yaml"), TASK)
    both = {"blocks": {"a": {"mixer": {"type": "attention", "num_heads": 2, "causal": False}}}, "pattern": "a a"}
    spec = hg.ModelSpec.model_validate({"name": "both-ways", "backbone": {"d_model": 32, **both}})
    with pytest.raises(HybridgenError, match=r"both-ways: cannot be given the ends of in-context-recall: .*causal"):
        spec_for(spec, TASK)
    with pytest.raises(HybridgenError, match="both-ways: a layer sees later tokens"):
        spec_for(spec, Compression())


def test_a_classifier_of_tokens_is_probed_as_a_language_model():
    tokens = {"type": "tokens", "vocab_size": 50}
    spec = spec_for(_spec(input=tokens, head={"type": "classifier", "num_classes": 3}), Memorization(vocab_size=9))
    assert (spec.head.type, spec.input.vocab_size) == ("lm", 9)
