"""Every golden case: upstream's weights in, upstream's outputs and gradients out, and the weights back bit by bit."""

import pytest
import torch

from hybridgen.errors import CheckpointError, UnsupportedError
from tests.helpers.golden import NAMES, WITH_STEPS, load_case, run, run_prefill_and_steps

WITH_GRADIENTS = [name for name in NAMES if load_case(name).gradients]

BACKENDS = pytest.mark.usefixtures("each_backend")


def test_all_cases_are_here():
    assert len(NAMES) == 28
    assert len(WITH_GRADIENTS) == 27


@BACKENDS
@pytest.mark.parametrize("name", NAMES)
def test_output_matches(name):
    case = load_case(name)
    with torch.no_grad():
        torch.testing.assert_close(run(case, case.model(), case.input), case.output, rtol=0, atol=case.atol)


@BACKENDS
@pytest.mark.parametrize("name", WITH_STEPS)
def test_prefill_and_steps_match(name):
    case = load_case(name)
    with torch.no_grad():
        output = run_prefill_and_steps(case, case.model())
    torch.testing.assert_close(output, case.output_prefill_step, rtol=0, atol=case.atol)


@BACKENDS
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_match(name):
    case = load_case(name)
    model = case.model()
    x = case.input.clone().requires_grad_(case.input.is_floating_point())
    run(case, model, x).backward(case.grad_output)
    spec = case.spec()
    ours = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    if case.is_mixer:
        ours = {name: grad for name, grad in ours.items() if ".mixer." in name}
    found = case.system.to_upstream(ours | _absent(model, ours), spec)
    for key, expected in case.gradients.items():
        grad = x.grad if key == "input" else found[key]
        scale = expected.abs().max()
        assert (grad - expected).abs().max() <= case.gradient_rtol * scale, key


def _absent(model, grads):
    """Norms that a mixer case does not run get the weight of one that `to_upstream` asks for."""
    return {name: torch.ones_like(p) for name, p in model.named_parameters() if name not in grads}


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_bit_by_bit(name):
    case = load_case(name)
    back = case.system.to_upstream(case.model().state_dict(), case.spec())
    assert back.keys() == case.parameters.keys()
    assert all(torch.equal(back[key], value) for key, value in case.parameters.items())
    assert all(back[key].dtype == value.dtype for key, value in case.parameters.items())


@pytest.mark.parametrize("name", NAMES)
def test_config_comes_back(name):
    case = load_case(name)
    spec = case.spec()
    if "gate_activation" in case.config:  # of Vim, whose kernels have SiLU built in
        with pytest.raises(UnsupportedError, match=f"mixer.gate_activation: '{case.config['gate_activation']}'"):
            case.system.upstream_config(spec)
        return
    config = case.system.upstream_config(spec)
    assert type(spec).model_validate(case.system.spec_document(config)) == spec
    # The length that x-transformers is told is in none of our specs.
    explicit = {key: value for key, value in case.config.items() if key in config and key != "max_seq_len"}
    assert explicit == {key: config[key] for key in explicit}


@pytest.mark.parametrize("name", NAMES)
def test_dropped_key_is_named(name):
    case = load_case(name)
    for key in case.parameters:
        if key == "lm_head.weight":  # tied: may be absent
            continue
        with pytest.raises(CheckpointError, match=r"missing") as error:
            case.model({k: v for k, v in case.parameters.items() if k != key})
        assert key in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_misspelt_key_is_named_with_its_nearest_spelling(name):
    case = load_case(name)
    for key in case.parameters:
        if key == "lm_head.weight":
            continue
        wrong = key.replace("weight", "wieght") if "weight" in key else key + "s"
        with pytest.raises(CheckpointError, match=r"1 missing") as error:
            case.model({wrong if k == key else k: v for k, v in case.parameters.items()})
        line = next(line for line in str(error.value).splitlines() if f"{wrong} (" in line)
        assert line.partition("closest missing name is ")[2].endswith(key)


@pytest.mark.parametrize("name", NAMES)
def test_swapped_keys_are_refused_or_show(name):
    """Two weights of one shape exchanged load strictly, but never give the same output.

    Vim's two directions are so alike that exchanging their decays changes less than the tolerance: there the right
    weights must be much nearer than the exchanged ones.
    """
    case = load_case(name)
    shows = 10 * case.atol
    if name.startswith("vim/"):
        with torch.no_grad():
            shows = 5 * (run(case, case.model(), case.input) - case.output).abs().max()
    names = [key for key in case.parameters if key != "lm_head.weight"]
    pairs = [(a, b) for a, b in zip(names, names[1:] + names[:1], strict=True) if a != b]
    for a, b in pairs:
        exchanged = {**case.parameters, a: case.parameters[b], b: case.parameters[a]}
        exchanged.pop("lm_head.weight", None)
        if case.parameters[a].shape != case.parameters[b].shape:
            with pytest.raises(CheckpointError, match="of the wrong shape"):
                case.model(exchanged)
            continue
        with torch.no_grad():
            difference = (run(case, case.model(exchanged), case.input) - case.output).abs().max()
        assert difference > shows, (a, b)
