"""The memory that a training step takes: weights, gradients, optimiser, activations, logits. See docs/costs.md.

Activations are worked out by running the model's operations on a tape of sizes, `costs.tape`: forward with a loss, and
backward. What is counted is what our own implementation holds on a CPU with one thread, in a step that adds its
gradients to ones that are there; scratch memory of matrix products and of further threads is not.
"""

from dataclasses import dataclass, field

from hybridgen.costs.activations import Parts, Sizes
from hybridgen.costs.attention_activations import AttentionParts, Carried
from hybridgen.costs.results import Setting, TrainingMemory
from hybridgen.costs.state import BYTES
from hybridgen.costs.tape import Tape, Value
from hybridgen.costs.weight_bytes import weight_bytes
from hybridgen.spec.ends import (
    ClassifierHeadSpec,
    CodebooksHeadSpec,
    CodebooksInputSpec,
    LmHeadSpec,
    PatchesInputSpec,
    TokensInputSpec,
)
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import LayerSpec, ModelSpec

_FLOAT32 = 4


@dataclass(frozen=True)
class Activations:
    """What a training step holds beside weights, gradients and optimiser.

    Attributes:
        peak: Bytes at the worst moment.
        logits: Those of them that belong to logits: themselves, their gradients, what the loss makes of them.
        written: Bytes of all that the forward pass makes, loss included.
        kept: What each part keeps for the backward pass: the embedding, every layer, the last norm, the head.
    """

    peak: int
    logits: int
    written: int
    kept: tuple[int, ...]


def training_memory(parameters: int, wide: int, setting: Setting, found: Activations) -> TrainingMemory:
    """Works out the memory of a training step on one device.

    Args:
        parameters: Numbers in the model's weights, a tied one once.
        wide: Those of them that are float32 at least; see `weight_bytes.wide_parameters`.
        setting: As for `cost`.
        found: What `activations` returns for the model and the setting.
    """
    width = BYTES[setting.dtype]
    least = max(width, _FLOAT32)
    weights = weight_bytes(parameters, wide, setting.dtype)
    master = (parameters - wide) * _FLOAT32 if width < _FLOAT32 else 0
    shards = setting.data_shards * setting.tensor_shards

    return TrainingMemory(
        weights=share(weights, shards),
        gradients=share(weights, shards),
        optimizer=share(2 * parameters * least + master, shards),
        activations=share(found.peak - found.logits, setting.tensor_shards),
        logits=share(found.logits, setting.tensor_shards),
    )


def share(size: int, among: int) -> int:
    """The part of one of several devices, rounded up."""
    return -(-size // among)


def activations(spec: ModelSpec, setting: Setting) -> Activations:
    """Follows a training step of `batch_size` rows of `seq_len` tokens on one device without shards."""
    width = BYTES[setting.dtype]
    length = setting.seq_len
    if isinstance(spec.input, TokensInputSpec):
        length += spec.input.memory_tokens
    elif isinstance(spec.input, PatchesInputSpec):
        length = spec.input.length()
    sizes = Sizes(setting.batch_size, length, width, max(width, _FLOAT32))
    return _Step(spec, setting, Parts(Tape(), sizes)).run()


@dataclass
class _Step:
    """One training step on a tape."""

    spec: ModelSpec
    setting: Setting
    parts: Parts
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stack, self.tape, self.sizes = self.spec.backbone, self.parts.tape, self.parts.sizes
        self.d_model = self.stack.d_model
        is_wide = self.stack.residual_in_fp32
        self.stream = (self.sizes.wide_tokens if is_wide else self.sizes.tokens)(self.d_model)
        self.is_wide_stream = is_wide or self.sizes.wide == self.sizes.width
        self.norms_sum = self.stack.norm_placement == "residual"
        head = self.spec.head
        self.tied: Value | None = None
        if isinstance(head, LmHeadSpec) and head.tie_embeddings:
            assert isinstance(self.spec.input, TokensInputSpec), "a spec with this head reads tokens"
            table = self.spec.input.padded_vocab_size() * self.d_model * self.sizes.width
            self.tied = Value(self.tape.take(0), table)

    def run(self) -> Activations:
        tape = self.tape
        if self.tied is not None:
            # The head's gradient of the table waits for that of the embedding, at the very end.
            tape.opens(self.tied)
        x = self._embed()
        self._note()
        hidden = self._layers(x)
        loss = self._loss(hidden)
        self._note()
        written = tape.written
        loss.grad = tape.take(0)
        tape.backward()
        ends = [0, *self.kept]
        kept = tuple(after - before for before, after in zip(ends, self.kept, strict=False))
        return Activations(tape.peak, tape.marked_at_peak, written, kept)

    def _note(self) -> None:
        self.kept.append(self.tape.level)

    def _embed(self) -> Value:
        """What stands in front of the first layer."""
        source, tape, size = self.spec.input, self.tape, self.sizes.tokens(self.d_model)
        row = self.d_model * self.sizes.width
        mark = tape.begin()
        if isinstance(source, TokensInputSpec):
            own = size - self.sizes.batch * source.memory_tokens * row
            x = tape.one([], own, backward_work=source.padded_vocab_size() * row)
            x = x if source.embed_scale == 1.0 else tape.one([x], own)
            x = self.parts.dropped(x, source.dropout)
            x = tape.one([x], size, same=True) if source.memory_tokens else x
        elif isinstance(source, CodebooksInputSpec):
            table = source.vocab_size * row
            x = tape.one([], size, backward_work=table)
            for _ in range(source.n_codebooks - 1):
                x = tape.one([x, tape.one([], size, backward_work=table)], size, same=True)
            x = self.parts.dropped(x, source.dropout)
        elif isinstance(source, PatchesInputSpec):
            x = tape.one([], size)
            for _ in source.class_places():
                x = tape.one([x], size, same=True)
            x = tape.one([x], size, same=True) if source.pos_embed else x
            x = self.parts.dropped(x, source.dropout)
        else:
            # Hidden states are the caller's, and need no gradient.
            x = Value(tape.take(0), 0)
        tape.end(mark, [x])
        return x

    def _layers(self, branch: Value) -> Value:
        """Runs the stack with its last norm."""
        tape, stack = self.tape, self.stack
        residual: Value | None = None
        carried, given = Carried(), (branch, residual)
        for index in range(len(stack.layers)):
            is_second = stack.bidirectional == "layers" and index % 2 == 1
            if not is_second:
                given = (branch, residual)
                branch, residual = self._turned(branch, residual)
            before = [value for value in (*given, branch, residual, *carried.handed_on()) if value is not None]
            mark = tape.begin()
            if is_second:
                branch, residual = self._second(index, given, (branch, residual))
            else:
                branch, residual, carried = self._layer(index, branch, residual, carried)
            now = [value for value in (branch, residual, *carried.handed_on()) if value is not None]
            tape.end(mark, now)
            alive = {id(value.memory) for value in now}
            if stack.bidirectional == "layers" and not is_second:
                alive |= {id(value.memory) for value in given if value is not None}
            for value in before:
                if id(value.memory) not in alive:
                    tape.forget(value)
            self._note()
        for value in carried.handed_on():
            tape.forget(value)
        mark = tape.begin()
        if residual is not None:
            last = self._dropped_path(branch, len(stack.layers))
            hidden = self._add_and_norm(last, residual)
        else:
            hidden = self.parts.norm(branch, self.d_model)
        tape.end(mark, [hidden])
        for one in (branch, residual):
            if one is not None:
                tape.forget(one)
        self._note()
        return hidden

    def _turned(self, branch: Value, residual: Value | None) -> tuple[Value, Value | None]:
        """Rotation by row and column in front of a layer."""
        how = self.spec.input.rotary if isinstance(self.spec.input, PatchesInputSpec) else "none"
        if how == "none":
            return branch, residual
        work = 3 * self.sizes.wide_tokens(self.d_model)
        branch = self.tape.one([branch], branch.size, work=work, backward_work=work)
        if how == "residual" and residual is not None:
            residual = self.tape.one([residual], residual.size, work=work, backward_work=work)
        return branch, residual

    def _second(
        self, index: int, given: tuple[Value, Value | None], first: tuple[Value, Value | None]
    ) -> tuple[Value, Value]:
        """The second layer of a pair: on flipped copies, and both sums."""
        tape = self.tape
        branch, residual = (None if one is None else tape.one([one], one.size) for one in given)
        assert branch is not None, "every layer is given a branch"
        branch, residual, _ = self._layer(index, branch, residual, Carried())
        sums = []
        for one, other in zip(first, (branch, residual), strict=True):
            assert one is not None, "every layer of a pair hands on a stream"
            assert other is not None, "every layer of a pair hands on a stream"
            both = tape.one([one, tape.one([other], other.size)], other.size, same=True)
            sums.append(tape.one([both], other.size))
        return sums[0], sums[1]

    def _layer(
        self, index: int, branch: Value, residual: Value | None, carried: Carried
    ) -> tuple[Value, Value | None, Carried]:
        """One layer, with what checkpointing makes of it."""
        checkpointing = self.setting.checkpointing
        if checkpointing == "none":
            return self._block(index, branch, residual, carried)
        found: list[tuple[Value, Value | None, Carried]] = []

        def run() -> tuple[Value, ...]:
            branch_after, residual_after, carried_after = self._block(index, branch, residual, carried)
            found.append((branch_after, residual_after, carried_after))
            stream = () if residual_after is None else (residual_after,)
            return (branch_after, *stream, *carried_after.handed_on())

        inputs = [one for one in (branch, residual, *carried.handed_on()) if one is not None]
        self.tape.checkpoint(run, inputs, checkpointing == "selective")
        return found[0]

    def _block(
        self, index: int, branch: Value, residual: Value | None, carried: Carried
    ) -> tuple[Value, Value | None, Carried]:
        """`model.block.Block`."""
        layer = self.stack.layers[index]
        is_last = index == len(self.stack.layers) - 1
        rate_index = index
        if layer.mixer is not None:
            x, residual = self._enter(branch, residual, index)
            rate_index = index + 1
            mark = self.tape.begin()
            branch, carried = self._mix(layer, x, carried)
            self.tape.end(mark, [branch, *carried.handed_on()])
            ends = is_last and layer.mlp is None
            branch, residual = self._leave(branch, residual, ends, index)
        if layer.mlp is not None:
            x, residual = self._enter(branch, residual, rate_index)
            mark = self.tape.begin()
            branch = self.parts.mlp(x, layer.mlp, self.d_model)
            self.tape.end(mark, [branch])
            branch, residual = self._leave(branch, residual, is_last, index)
        return branch, residual, carried

    def _mix(self, layer: LayerSpec, x: Value, carried: Carried) -> tuple[Value, Carried]:
        mixer = layer.mixer
        if isinstance(mixer, AttentionSpec):
            holds_tables = self.setting.checkpointing == "none"
            return AttentionParts(self.parts, mixer, self.stack, holds_tables).run(x, carried)
        if self.stack.residual_attn is not None and not self.stack.residual_attn.cross_block:
            carried = carried.without_scores()
        if isinstance(mixer, Mamba1Spec):
            return self.parts.mamba1(x, mixer, self.d_model), carried
        assert isinstance(mixer, Mamba2Spec), "there is no other mixer"
        return self.parts.mamba2(x, mixer, self.d_model), carried

    def _enter(self, branch: Value, residual: Value | None, drops: int) -> tuple[Value, Value]:
        """What the branch reads, and the stream."""
        parts, tape, d_model = self.parts, self.tape, self.d_model
        if residual is not None:
            branch = self._dropped_path(branch, drops)
        if self.stack.norm_placement in ("pre", "sandwich"):
            if residual is not None:
                return self._add_norm(branch, residual)
            x = parts.norm(branch, d_model)
            return x, parts.cast(branch, d_model) if self.is_wide_stream else branch
        mark = tape.begin()
        total = parts.cast(branch, d_model)
        if residual is not None:
            wide = self.sizes.wide_tokens(d_model)
            stream = residual if self.is_wide_stream else parts.cast(residual, d_model)
            total = tape.one([stream, total], wide, same=True)
        x, after = parts.narrowed(total, d_model), total if self.is_wide_stream else parts.narrowed(total, d_model)
        tape.end(mark, [x, after])
        return x, after

    def _add_norm(self, branch: Value, residual: Value) -> tuple[Value, Value]:
        """`ops.add_norm`: keeps the sum where that is not rounded, else both terms."""
        saved = {"saves_outputs": [1]} if self.is_wide_stream else {"saves": [branch, residual]}
        shared = residual.size == branch.size
        x, total = self.tape.do(
            [branch, residual], self.sizes.tokens(self.d_model), self.stream, shared=shared, **saved
        )
        return x, total

    def _add_and_norm(self, branch: Value, residual: Value) -> Value:
        """`ops.add_norm.norm`: no sum comes out, and both terms are kept."""
        both, size = [branch, residual], self.sizes.tokens(self.d_model)
        return self.tape.one(both, size, saves=both, shared=residual.size == branch.size)

    def _leave(self, branch: Value, residual: Value | None, ends: bool, index: int) -> tuple[Value, Value | None]:
        """The norm behind a branch."""
        if self.stack.norm_placement == "pre" or (self.norms_sum and ends):
            return branch, residual
        if not self.norms_sum or residual is None:
            return self.parts.norm(branch, self.d_model), residual
        return self._add_and_norm(self._dropped_path(branch, index + 1), residual), None

    def _dropped_path(self, branch: Value, layers_before: int) -> Value:
        """Stochastic depth of the branch of layer `layers_before` - 1: none in the first of several."""
        is_first = layers_before <= 1 and len(self.stack.layers) > 1
        return self.tape.one([branch], branch.size) if self.stack.drop_path and not is_first else branch

    def _loss(self, hidden: Value) -> Value:
        """The head and a loss: cross entropy of logits, which stay a variable of the caller's."""
        tape, head, tokens = self.tape, self.spec.head, self.sizes.tokens
        source = self.spec.input
        if isinstance(head, LmHeadSpec):
            assert isinstance(source, TokensInputSpec), "a spec with this head reads tokens"
            if source.memory_tokens:
                (hidden,) = tape.split(hidden, hidden.size - self.sizes.batch * source.memory_tokens * self._row())
            vocab = source.padded_vocab_size()
            length = self.sizes.length - source.memory_tokens
            return self._cross_entropy(self._logits(hidden, self.sizes.batch * length * vocab, vocab, head))
        if isinstance(head, CodebooksHeadSpec):
            assert isinstance(source, CodebooksInputSpec), "a spec with this head reads codes"
            vocab, count = head.vocab_size or source.vocab_size, source.n_codebooks
            tape.marks = True
            mark = tape.begin()
            each = [self.parts.linear(hidden, self.d_model, vocab) for _ in range(count)]
            logits = tape.one(each, count * tokens(vocab), same=True)
            tape.end(mark, [logits])
            tape.marks = False
            return self._cross_entropy(logits)
        if isinstance(head, ClassifierHeadSpec) and head.num_classes and head.pool_for(source) in ("all", "max"):
            tape.marks = True
            logits = self.parts.linear(hidden, self.d_model, head.num_classes)
            tape.marks = False
            return self._cross_entropy(logits)
        # Pooled features are few; without a head a loss gives back a gradient of the hidden states.
        return tape.one([hidden], 0)

    def _row(self) -> int:
        return self.d_model * self.sizes.width

    def _logits(self, hidden: Value, numbers: int, vocab: int, head: LmHeadSpec) -> Value:
        tape, size = self.tape, numbers * self.sizes.width
        tape.marks = True
        mark = tape.begin()
        weight = 0 if self.tied else vocab * self._row()
        inputs = [hidden, self.tied] if self.tied else [hidden]
        logits = tape.one(inputs, size, saves=[hidden], backward_work=weight)
        logits = tape.one([logits], size) if head.logit_scale != 1.0 else logits
        if head.logit_softcap is not None:
            bent = tape.one([tape.one([logits], size)], size, saves_outputs=[0])
            logits = tape.one([bent], size)
        tape.end(mark, [logits])
        tape.marks = False
        return logits

    def _cross_entropy(self, logits: Value) -> Value:
        """Keeps the logarithms of the probabilities, in the dtype of the logits; the gradient of each is another."""
        self.tape.marks = True
        mark = self.tape.begin()
        log_probabilities = self.tape.one([logits], logits.size, saves_outputs=[0])
        loss = self.tape.one([log_probabilities], 0)
        self.tape.end(mark, [])
        self.tape.marks = False
        return loss
