"""Learned tokens before each row: the same in any split of a row, whatever padding stands before it."""

import pytest
import torch

import hybridgen as hg

VOCAB, MEMORY = 24, 3
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
BLOCKS = {
    "m": {"mixer": {"type": "mamba2", "headdim": 8, "d_state": 4}},
    "a": {"mixer": {"type": "attention", "num_heads": 2, "rotary_emb_dim": 4}, "mlp": {"d_intermediate": 8}},
    "w": {"mixer": {"type": "attention", "num_heads": 2, "window": 4, "alibi": True, "selective": True}},
}


def build(memory: int = MEMORY, **backbone):
    document = {
        "input": {"type": "tokens", "vocab_size": VOCAB, "memory_tokens": memory},
        "backbone": {"d_model": 16, "blocks": BLOCKS, "pattern": "m a w", **backbone},
        "head": "lm",
    }
    return hg.build(hg.ModelSpec.model_validate(document), dtype="float64")


def ids(length, batch=2, seed=0):
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    built = build()
    with torch.no_grad():
        built.backbone.memory_tokens.mul_(50)
    return built


def test_they_are_learned_embeddings_before_the_row(model):
    x = ids(9)
    table = model.backbone.embedding.weight
    before = model.backbone.memory_tokens.expand(2, -1, -1)
    expected = model.lm_head(model.backbone(torch.cat((before, table[x]), dim=1)))[:, MEMORY:]
    torch.testing.assert_close(model(x), expected)
    assert not torch.allclose(model(x), build(0)(x))
    (grad,) = torch.autograd.grad(model(x).square().sum(), model.backbone.memory_tokens)
    assert (grad.abs().sum(dim=1) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("residual_attn", [None, True])
def test_pieces_equal_the_whole(residual_attn):
    model, x = build(residual_attn=residual_attn), ids(20)
    whole = model(x)
    for sizes in ([0, 1, *[1] * 19], [20], [7, 0, 3, 10], [1, 19]):
        state = model.init_state(2, 20)
        pieces = [model(part, state=state) for part in x.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **TIGHT)
        assert state.length == 20 + MEMORY
        with pytest.raises(hg.ShapeError, match="do not fit"):
            model(x[:, :1], state=state)
        state.reset()
        torch.testing.assert_close(model(x, state=state), whole, **TIGHT)


@torch.no_grad()
def test_the_last_tokens_alone(model):
    x = ids(9)
    torch.testing.assert_close(model(x, num_last_tokens=2), model(x)[:, -2:])
    assert model(ids(0)).shape == (2, 0, VOCAB)


@torch.no_grad()
@pytest.mark.parametrize("left", [True, False])
def test_padding_changes_nothing(model, left):
    lengths, width = (5, 9, 1), 9
    x, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.bool)
    rows = [ids(length, batch=1, seed=length) for length in lengths]
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        place = slice(width - length, width) if left else slice(0, length)
        x[i, place], mask[i, place] = row[0], True
    out = model(x, mask=mask)
    for i, row in enumerate(rows):
        torch.testing.assert_close(out[i][mask[i]], model(row)[0], **TIGHT)
    if not left:
        return
    state, more = model.init_state(3, width + 4), ids(4, batch=3, seed=8)
    torch.testing.assert_close(model(x, state=state, mask=mask)[mask], out[mask])
    stepped = torch.cat([model(more[:, :1], state=state), model(more[:, 1:], state=state)], dim=1)
    for i, row in enumerate(rows):
        torch.testing.assert_close(stepped[i], model(torch.cat((row, more[i : i + 1]), dim=1))[0, -4:], **TIGHT)


@torch.no_grad()
def test_generation_reads_them(model):
    x = ids(4)
    found = hg.generate(model, x, 5, temperature=0)
    for step in range(4, 9):
        assert torch.equal(found[:, step], model(found[:, :step])[:, -1].argmax(dim=-1))


def test_what_cannot_be_is_worded(model):
    mask = torch.tensor([[False, False], [False, True]])
    with pytest.raises(hg.ShapeError, match="must hold a real token of every row"):
        model(ids(2), state=model.init_state(2, 9), mask=mask)
    with pytest.raises(hg.ShapeError, match="takes no seq_idx"):
        model(ids(2), seq_idx=torch.zeros(2, 2, dtype=torch.long))


@torch.no_grad()
def test_they_are_saved(model, tmp_path):
    hg.save(model, tmp_path / "out")
    again = hg.load(tmp_path / "out", dtype="float64")
    assert torch.equal(again(ids(5)), model(ids(5)))
