"""How likely a language model of transformers finds texts: as lm_eval's `HFLM` reckons it, and by `HFLM` itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from language_text import Question
from torch import Tensor

WINDOW = 256
"""Tokens that a model reads at a time."""


class Scorer:
    """Scores texts with a model and a tokenizer of transformers."""

    def __init__(self, model: Any, tokenizer: Any, batch: int = 16) -> None:
        self.model, self.tokenizer, self.batch = model.eval(), tokenizer, batch

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation given its context, in nats, and whether greedy decoding says it."""
        sequences = []
        for context, continuation in pairs:
            whole, given = self._ids(context + continuation), len(self._ids(context))
            sequences.append((whole, len(whole) - given))
        return self._scored(sequences)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihood of each text in nats: every token once, in windows of WINDOW tokens, the first given END."""
        sequences, owners = [], []
        for number, text in enumerate(texts):
            ids = [self.tokenizer.eos_token_id, *self._ids(text)]
            for start in range(0, len(ids) - 1, WINDOW):
                end = min(start + WINDOW, len(ids) - 1)
                sequences.append((ids[max(0, end - WINDOW) : end + 1], end - start))
                owners.append(number)
        sums = [0.0] * len(texts)
        for number, (score, _) in zip(owners, self._scored(sequences), strict=True):
            sums[number] += score
        return sums

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def _scored(self, sequences: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Scores the last n tokens of each (token ids, n), and tells whether greedy decoding says them."""
        found: dict[int, tuple[float, bool]] = {}
        longest_first = sorted(range(len(sequences)), key=lambda number: -len(sequences[number][0]))
        for start in range(0, len(longest_first), self.batch):
            numbers = longest_first[start : start + self.batch]
            given = [torch.tensor(sequences[number][0][:-1]) for number in numbers]
            ids, mask = (
                torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
                for some in (given, [torch.ones_like(row) for row in given])
            )
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            for row, number in enumerate(numbers):
                tokens, wanted = sequences[number]
                last = len(tokens) - 1
                found[number] = _continuation(logits[row, last - wanted : last], torch.tensor(tokens[-wanted:]))
        return [found[number] for number in range(len(sequences))]


def _continuation(logits: Tensor, tokens: Tensor) -> tuple[float, bool]:
    scores = logits.log_softmax(dim=-1).gather(1, tokens[:, None])
    return float(scores.sum()), bool((logits.argmax(dim=-1) == tokens).all())


def pairs_of(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Context and continuation of every choice of every question."""
    return [(question.context, choice) for question in questions for choice in question.choices]


def accuracy(questions: Sequence[Question], scores: Sequence[float]) -> dict[str, float]:
    """Share of right answers, as lm_eval names it: `acc` by log-likelihood, `acc_norm` by that per character."""
    right, right_normed, start = 0, 0, 0
    for question in questions:
        own = scores[start : start + len(question.choices)]
        normed = [score / len(choice) for score, choice in zip(own, question.choices, strict=True)]
        right += own.index(max(own)) == question.answer
        right_normed += normed.index(max(normed)) == question.answer
        start += len(own)
    return {"acc": right / len(questions), "acc_norm": right_normed / len(questions)}


def harness(directory: Path, texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[list[float], list[float]]:
    """What lm_eval finds with the model in a directory: rolling log-likelihoods, and those of continuations."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=16, max_length=WINDOW)
    rolling = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    single = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = model.loglikelihood(single, disable_tqdm=True)
    return model.loglikelihood_rolling(rolling, disable_tqdm=True), [score for score, _ in found]
