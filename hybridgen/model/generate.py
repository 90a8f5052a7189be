"""Generation: one prefill, then one token at a time, nothing computed twice."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybridgen.errors import HybridgenError, UnsupportedError
from hybridgen.model.model import HybridModel
from hybridgen.model.state import DecodingState, check_mask
from hybridgen.spec.ends import CodebooksHeadSpec, CodebooksInputSpec, LmHeadSpec, TokensInputSpec


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked from its logits.

    Attributes:
        temperature: The logits are divided by it; 0 takes the most likely token.
        top_k: Only the k most likely tokens stay; 0 is all.
        top_p: Only the smallest set of most likely tokens whose probabilities reach p stays; 1 is all.
        min_p: Only tokens at least min_p times as likely as the most likely one stay; 0 is all.
        repetition_penalty: Logits of tokens seen in the row are divided by it when positive and multiplied when
            negative (arXiv 1909.05858); 1 is none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        rules = [
            (self.temperature >= 0, f"temperature must be 0 (greedy) or more; given {self.temperature}"),
            (self.top_k >= 0, f"top_k must be 0 (all) or more; given {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p must be above 0 and at most 1; given {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p must be between 0 and 1; given {self.min_p}"),
            (
                1e-6 <= self.repetition_penalty <= 1e12,
                f"repetition_penalty must be between 1e-6 and 1e12; given {self.repetition_penalty}",
            ),
        ]
        broken = [message for holds, message in rules if not holds]
        if broken:
            raise HybridgenError("\n".join(broken))

    def pick(
        self,
        logits: Float[Tensor, "*batch V"],
        seen: Bool[Tensor, "*batch V"] | None,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "*batch"]:
        """Picks one token per row.

        Args:
            logits: Scores of the next token.
            seen: Tokens that stand in the row already; only read with a repetition penalty.
            generator: Source of randomness; None is torch's global one.
        """
        logits = logits.float()
        if self.repetition_penalty != 1.0 and seen is not None:
            penalty = self.repetition_penalty
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        # With the largest logit at zero no temperature, however small, makes an infinity of it.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / self.temperature
        probabilities = self._truncate(logits).softmax(dim=-1)
        return torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(probabilities.shape[:-1])

    def _truncate(self, logits: Tensor) -> Tensor:
        removed = float("-inf")
        if self.top_k and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, removed)
        if self.top_p < 1:
            ordered, index = logits.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(dim=-1)
            # A token stays while the tokens before it have not reached p; so the first always stays.
            beyond = probabilities.cumsum(dim=-1) - probabilities >= self.top_p
            beyond[..., 0] = False
            logits = torch.full_like(logits, removed).scatter(-1, index, ordered.masked_fill(beyond, removed))
        if self.min_p:
            probabilities = logits.softmax(dim=-1)
            rare = probabilities < self.min_p * probabilities.amax(dim=-1, keepdim=True)
            logits = logits.masked_fill(rare, removed)
        return logits


@dataclass
class _Run:
    """One generation under way."""

    model: HybridModel
    sampling: Sampling
    generator: torch.Generator | None
    usable: int
    seen: Tensor | None = field(default=None)

    def note(self, ids: Tensor, real: Tensor | None = None) -> None:
        """Remembers which tokens stand in each row, for the repetition penalty."""
        if self.sampling.repetition_penalty == 1.0:
            return
        if self.seen is None:
            self.seen = torch.zeros(ids.shape[0], *ids.shape[2:], self.usable, dtype=torch.bool, device=ids.device)
        per_row = ids.movedim(1, -1)
        counts = per_row < self.usable
        if real is not None:
            counts &= real if ids.ndim == 2 else real[:, None]
        times = torch.zeros(self.seen.shape, dtype=torch.int32, device=ids.device)
        self.seen |= times.scatter_add(-1, per_row.clamp(max=self.usable - 1), counts.to(torch.int32)) > 0

    def next(self, logits: Tensor) -> Tensor:
        """Picks the token after the last one; rows of a padded vocabulary are never picked."""
        last = logits[:, -1, ..., : self.usable]
        if last.device.type == "cpu" and bool(last.isnan().any()):
            raise HybridgenError("the model's logits are not numbers (NaN); its weights, or their dtype, are damaged")
        return self.sampling.pick(last, self.seen, self.generator)


@torch.no_grad()
def generate(
    model: HybridModel,
    ids: Int[Tensor, "B T *codebooks"],
    max_new_tokens: int = 64,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | Collection[int] | None = None,
    seed: int | None = None,
    mask: Shaped[Tensor, "B T"] | None = None,
    on_token: Callable[[Tensor], None] | None = None,
) -> Int[Tensor, "B N *codebooks"]:
    """Continues token ids (or codes) with a model that has a head.

    Args:
        model: A model with an `lm` or `codebooks` head.
        ids: Prompt of at least one token, (B, T), or codes (B, T, n_codebooks).
        max_new_tokens: Tokens to add at most.
        temperature: See `Sampling`; 0 is greedy.
        top_k: See `Sampling`.
        top_p: See `Sampling`.
        min_p: See `Sampling`.
        repetition_penalty: See `Sampling`.
        eos_token_id: A row stops after this token (or one of these) and is filled up with it; not for codes.
        seed: Makes sampling repeatable on a device; None draws from torch's global generator.
        mask: False for the padding on the left of shorter prompts.
        on_token: Called with each new column of tokens, (B,) or (B, n_codebooks), as soon as it is known.

    Returns:
        The prompt and the new tokens, up to max_new_tokens of them.

    Raises:
        UnsupportedError: If the model has no head to sample from, or is not causal.
        HybridgenError: For settings out of range, or an empty prompt.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    _check_call(model, ids, max_new_tokens, seed)
    ends = _end_tokens(model, eos_token_id)
    mask = None if mask is None else check_mask(mask)
    generator = None if seed is None else torch.Generator(device=ids.device).manual_seed(seed)
    run = _Run(model, sampling, generator, _usable_vocabulary(model))
    run.note(ids, mask)
    state = _make_state(model, ids.shape[0], ids.shape[1] + max_new_tokens)
    done = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
    columns, end_ids = [ids], torch.tensor(ends, device=ids.device)
    step, padding = ids, mask
    for _ in range(max_new_tokens):
        token = run.next(model(step, state=state, mask=padding, num_last_tokens=1))
        if ends:
            token = torch.where(done, ends[0], token)
            done |= torch.isin(token, end_ids)
        step, padding = token[:, None], None
        run.note(step)
        columns.append(step)
        if on_token is not None:
            on_token(token)
        if ends and bool(done.all()):
            break
    return torch.cat(columns, dim=1)


def _check_call(model: HybridModel, ids: Tensor, max_new_tokens: int, seed: int | None) -> None:
    if not isinstance(ids, Tensor):
        raise HybridgenError(f"the prompt must be a tensor of ids; given {type(ids).__name__}")
    if ids.ndim < 2 or ids.shape[1] == 0:
        raise HybridgenError(
            f"the prompt must be ids of shape (B, T) with at least one token; given {tuple(ids.shape)}"
        )
    if max_new_tokens < 0:
        raise HybridgenError(f"max_new_tokens must be 0 or more; given {max_new_tokens}")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise HybridgenError(f"seed must fit into 64 bits; given {seed}")
    if model.device.type == "meta":
        raise UnsupportedError(
            "a model on the meta device has no weights to generate with; build or load it on another"
        )


def _make_state(model: HybridModel, batch_size: int, max_seqlen: int) -> DecodingState:
    try:
        return model.init_state(batch_size, max_seqlen)
    except (MemoryError, RuntimeError, OverflowError, TypeError) as error:
        raise HybridgenError(
            f"there is no memory for the state of {max_seqlen} tokens in {batch_size} row(s); lower max_new_tokens"
        ) from error


def _usable_vocabulary(model: HybridModel) -> int:
    source, head = model.spec.input, model.spec.head
    if isinstance(head, LmHeadSpec) and isinstance(source, TokensInputSpec):
        return source.vocab_size
    if isinstance(head, CodebooksHeadSpec) and isinstance(source, CodebooksInputSpec):
        return head.vocab_size or source.vocab_size
    raise UnsupportedError(
        f"generate needs a model with a head of type lm or codebooks; this one has head: {{type: {head.type}}}"
    )


def _end_tokens(model: HybridModel, eos_token_id: int | Collection[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    if isinstance(model.spec.head, CodebooksHeadSpec):
        raise UnsupportedError("eos_token_id has no one meaning for codes: cut the result, or stop in on_token")
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    usable = _usable_vocabulary(model)
    wrong = [end for end in ends if not 0 <= end < usable]
    if wrong:
        raise HybridgenError(f"eos_token_id must be one of the tokens 0 ... {usable - 1}; given {wrong[0]}")
    return ends
