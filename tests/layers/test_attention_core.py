"""Attention in blocks of queries equals attention over the whole score matrix."""

import pytest
import torch

from hybridgen.layers.attention_core import Keys, Scoring, attend_causal, attend_everywhere


def dense(q, k, v, seen, scoring):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    weights = (scoring.scale * (q @ k.mT)).exp() * seen
    return (weights / weights.sum(-1, keepdim=True)) @ v


def heads(count, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, length, 8, generator=generator, dtype=torch.float64)


SCORING = Scoring(0.4)


@pytest.mark.parametrize("window", [None, 1, 40, 300, 2000])
@pytest.mark.parametrize("past", [0, 150])
@pytest.mark.parametrize("is_packed", [False, True])
def test_blocks_of_queries_equal_the_dense_matrix(window, past, is_packed):
    length = 600
    q, k, v = heads(4, length, 0), heads(2, past + length, 1), heads(2, past + length, 2)
    query, key = torch.arange(past, past + length)[:, None], torch.arange(past + length)
    starts = torch.stack([query[:, 0] // 170 * 170, query[:, 0] // 257 * 257]) if is_packed else None
    seen = (key <= query) & (key > query - (window or 10**6))
    seen = seen if starts is None else (seen & (key >= starts[..., None]))[:, None]
    got = attend_causal(q, Keys(k, v), past, starts, window, SCORING)
    torch.testing.assert_close(got, dense(q, k, v, seen, SCORING))


def test_everywhere_equals_the_dense_matrix():
    q, k, v = heads(4, 600, 0), heads(2, 600, 1), heads(2, 600, 2)
    got = attend_everywhere(q, Keys(k, v), None, SCORING)
    torch.testing.assert_close(got, dense(q, k, v, torch.ones(600, 600), SCORING))
    starts = (torch.arange(600) // 170 * 170).expand(2, 600)
    same = (starts[0][:, None] == starts[0]).double()
    torch.testing.assert_close(attend_everywhere(q, Keys(k, v), starts, SCORING), dense(q, k, v, same, SCORING))


def test_keys_of_a_turned_ring_are_seen_by_their_slots():
    k, v, q = heads(2, 10, 1), heads(2, 10, 2), heads(4, 1, 0)
    turned = Keys(k.roll(3, dims=2), v.roll(3, dims=2), first=20, turn=3)
    assert turned.slots().tolist() == [27, 28, 29, *range(20, 27)]
    starts = torch.tensor([[24], [20]])
    got = attend_causal(q, turned, 29, starts, 10, SCORING)
    torch.testing.assert_close(got[:1], attend_causal(q[:1], Keys(k[:1, :, 4:], v[:1, :, 4:]), 5, None, None, SCORING))
    torch.testing.assert_close(got[1:], attend_causal(q[1:], Keys(k[1:], v[1:]), 9, None, None, SCORING))
