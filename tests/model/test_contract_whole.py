"""What mixers that see later tokens must obey: nothing leaks between sequences, and a state is refused with words."""

import pytest
import torch

import hybridgen as hg
from tests.helpers.mixer_cases import D_MODEL, WHOLE_CASES, WHOLE_MIXERS, make
from tests.helpers.naive_scans import NAIVE_SCANS, row_paths

pytestmark = pytest.mark.usefixtures("each_backend")
CASE = pytest.mark.parametrize("case", WHOLE_CASES)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def tokens(length: int, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("length", [1, 2, 5, 67])
@pytest.mark.parametrize("case", WHOLE_MIXERS)
def test_mixer_matches_the_formulas(case, length):
    mixer = make(case, "float64").backbone.layers[0].mixer
    x = tokens(length, batch=1).requires_grad_()
    naive = NAIVE_SCANS[mixer.spec.type](mixer, x[0], row_paths(mixer, length))
    torch.testing.assert_close(mixer(x)[0], naive, **TIGHT)
    weights, cotangent = [x, *mixer.parameters()], tokens(length, batch=1, seed=8)
    expected = torch.autograd.grad(naive, weights, cotangent[0])
    got = torch.autograd.grad(mixer(x), weights, cotangent)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@CASE
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(case):
    model = make(case, "float64")
    layout = ((0, 7), (3, 30), (29, 30), (10, 11))
    x = torch.full((4, 30, D_MODEL), 1e3, dtype=torch.float64)
    mask = torch.zeros(4, 30, dtype=torch.bool)
    for i, (begin, end) in enumerate(layout):
        x[i, begin:end] = tokens(end - begin, batch=1, seed=i)[0]
        mask[i, begin:end] = True
    y = model(x, mask=mask)
    for i, (begin, end) in enumerate(layout):
        torch.testing.assert_close(y[i : i + 1, begin:end], model(x[i : i + 1, begin:end]), **TIGHT)


@CASE
def test_packed_rows_equal_their_sequences_apart(case):
    model = make(case, "float64")
    layout = ((5, 1, 40, 4), (30, 2, 2, 16))
    x, cotangent = tokens(50).requires_grad_(), tokens(50, seed=3)
    seq_idx = torch.stack([torch.repeat_interleave(torch.arange(4), torch.tensor(row)) for row in layout])
    apart = torch.cat(
        [torch.cat([model(part) for part in x[i : i + 1].split(row, dim=1)], dim=1) for i, row in enumerate(layout)]
    )
    packed = model(x, seq_idx=seq_idx)
    torch.testing.assert_close(packed, apart, **TIGHT)
    weights = [x, *model.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(packed, weights, cotangent), torch.autograd.grad(apart, weights, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@CASE
@torch.no_grad()
def test_a_later_token_changes_earlier_outputs(case):
    model = make(case, "float64")
    x = tokens(20)
    changed = x.clone()
    changed[:, -1] += 10
    assert ((model(changed) - model(x)).abs().amax(dim=(0, 2)) > 1e-6).all()


@CASE
@torch.no_grad()
def test_no_tokens(case):
    assert make(case, "float64")(tokens(0)).shape == (2, 0, D_MODEL)


@CASE
@torch.no_grad()
def test_bfloat16_stays_near_float32(case):
    """Tolerance: rounding of weights and activations to 8 bits, 3 % of the output's spread on average."""
    model, small = make(case, "float32"), make(case, "bfloat16")
    small.load_state_dict({n: v.to(small.get_parameter(n).dtype) for n, v in model.state_dict().items()})
    model.load_state_dict({name: value.float() for name, value in small.state_dict().items()})
    x = tokens(40, dtype=torch.bfloat16)
    expected, got = model(x.float()), small(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().mean() < 0.03 * expected.std()


@CASE
def test_a_state_is_refused_with_words(case):
    with pytest.raises(hg.UnsupportedError, match=r"no decoding state: every later token changes its earlier outputs"):
        make(case).init_state(1, 8)


@pytest.mark.parametrize("case", WHOLE_MIXERS)
def test_a_call_with_a_state_is_refused(case):
    mixer = make(case).backbone.layers[0].mixer
    state = make("mamba1").backbone.layers[0].mixer.init_state(2, 8, torch.float32, torch.device("cpu"))
    with pytest.raises(hg.UnsupportedError, match="call the model on whole sequences, without a state"):
        mixer(tokens(4, dtype=torch.float32), state)
