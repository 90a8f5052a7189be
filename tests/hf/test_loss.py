"""The loss of the language model: that of all logits, without their table."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hybridgen.hf import wrap
from tests.helpers.hub_models import ids, language_model

HEADS = {
    "plain": {"type": "lm"},
    "everything": {
        "type": "lm", "tie_embeddings": False, "bias": True, "logit_scale": 0.3, "logit_softcap": 2.0,
    },
}  # fmt: skip


def tokens_and_labels():
    tokens = ids(3, 14)
    labels = tokens.clone()
    labels[0, :5] = -100
    labels[1, 9:] = -100
    return tokens, labels


def from_logits(logits, labels, items=None, ignore_index=-100):
    """The loss by its definition."""
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    loss = functional.cross_entropy(
        flat, targets, ignore_index=ignore_index, reduction="mean" if items is None else "sum"
    )
    return loss if items is None else loss / items


@pytest.fixture(params=HEADS)
def pair(request):
    """A model of ours, and one of transformers with the same starting weights and no common ones."""
    plain = language_model(head=HEADS[request.param])
    if plain.lm_head.bias is not None:
        plain.lm_head.bias.data.normal_(generator=torch.Generator().manual_seed(1))
    model = wrap(language_model(head=HEADS[request.param]))
    model.load_state_dict(plain.state_dict())
    return plain, model


@pytest.mark.parametrize("items", [None, 7, torch.tensor(7)])
def test_loss_and_gradients_are_those_of_all_logits(pair, items):
    plain, model = pair
    tokens, labels = tokens_and_labels()
    expected = from_logits(plain.train()(tokens), labels, items)
    expected.backward()
    outputs = model.train()(tokens, labels=labels, num_items_in_batch=items)
    outputs.loss.backward()
    assert outputs.logits is None
    torch.testing.assert_close(outputs.loss, expected)
    for (name, value), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_other_ways_to_give_labels(pair):
    _, model = pair
    model.eval()
    tokens, labels = tokens_and_labels()
    loss = model(tokens, labels=labels).loss
    shifted = functional.pad(labels, (0, 1), value=-100)[:, 1:]
    assert torch.equal(model(tokens, shift_labels=shifted).loss, loss)
    assert torch.equal(model(tokens, labels=tokens, shift_labels=shifted).loss, loss)
    other = torch.where(labels == -100, 0, labels)
    torch.testing.assert_close(
        model(tokens, labels=other, ignore_index=0).loss, from_logits(model(tokens).logits, other, ignore_index=0)
    )
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(tokens), labels=labels).loss, loss)
    assert model(tokens, labels=labels, return_dict=False)[0] == loss


def test_when_there_are_logits(pair):
    _, model = pair
    tokens, labels = tokens_and_labels()
    assert model.train()(tokens).logits.shape == (3, 14, 56)
    assert model(tokens, labels=labels).logits is None
    assert model(tokens, labels=labels, skip_logits=False).logits.shape == (3, 14, 56)
    assert model.eval()(tokens, labels=labels).logits.shape == (3, 14, 56)
    assert model(tokens, labels=labels, skip_logits=True).logits is None
    assert model(tokens, skip_logits=True).logits is not None
    kept = model(tokens, labels=labels, logits_to_keep=2)
    assert kept.logits.shape == (3, 2, 56)
    assert torch.equal(kept.loss, model(tokens, labels=labels).loss)


def test_a_loss_function_of_the_callers_gets_logits(pair):
    _, model = pair
    tokens, labels = tokens_and_labels()
    called = {}

    def loss_function(logits, labels, vocab_size, **options):
        called.update(options, vocab_size=vocab_size, shape=logits.shape, labels=labels)
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    expected = model.train()(tokens, labels=labels).loss
    model.loss_function = loss_function
    torch.testing.assert_close(model(tokens, labels=labels, num_items_in_batch=3).loss, expected)
    assert called.pop("labels") is labels
    assert called == {"vocab_size": 56, "num_items_in_batch": 3, "shape": (3, 14, 56)}


def test_the_end_of_a_packed_sequence_does_not_predict_the_next_one(pair):
    _, model = pair
    tokens = tokens_and_labels()[0][:1, :11]
    parts = [model(part, labels=part, num_items_in_batch=9).loss for part in tokens.split([4, 5, 2], dim=1)]
    marks = {
        "seq_idx": torch.tensor([[0] * 4 + [1] * 5 + [2] * 2]),
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1]]),
    }
    for name, value in marks.items():
        packed = model(tokens, labels=tokens, num_items_in_batch=9, **{name: value}).loss
        torch.testing.assert_close(packed, sum(parts), msg=name)


class Doubled(nn.Module):
    """A head that somebody wrapped."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, x):
        return 2 * self.inner(x)


def _replaced(model):
    model.lm_head = Doubled(model.lm_head)


def _hooked(model):
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)


def _plain_linear(model):
    head = nn.Linear(32, 60, bias=False)
    model.lm_head = head


@pytest.mark.parametrize("change", [_replaced, _hooked, _plain_linear])
def test_changed_heads_are_obeyed(change):
    model = wrap(language_model(head=HEADS["everything"])).train()
    tokens, labels = tokens_and_labels()
    before = model(tokens, labels=labels).loss
    change(model)
    loss = model(tokens, labels=labels).loss
    logits = model(tokens).logits
    torch.testing.assert_close(loss, from_logits(logits, labels))
    assert not torch.equal(loss, before)


def test_the_loss_is_float32_and_finite_in_bfloat16():
    model = wrap(language_model(dtype="bfloat16")).train()
    tokens, labels = tokens_and_labels()
    loss = model(tokens, labels=labels).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, from_logits(model(tokens).logits.float(), labels), rtol=1e-2, atol=1e-2)
    loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_autocast_gives_a_loss_near_that_of_float32():
    model = wrap(language_model()).train()
    tokens, labels = tokens_and_labels()
    expected = model(tokens, labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, labels=labels).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)


def test_a_model_can_be_told_to_return_logits_in_training(pair):
    _, model = pair
    tokens, labels = tokens_and_labels()
    model.train().skip_logits = False
    assert model(tokens, labels=labels).logits is not None
    assert model(tokens, labels=labels, skip_logits=True).logits is None
