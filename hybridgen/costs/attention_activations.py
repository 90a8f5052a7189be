"""What attention makes and keeps in training, in bytes; see `costs.activations`."""

from dataclasses import dataclass, replace

from hybridgen.costs.activations import Parts
from hybridgen.costs.tape import Value
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import ResidualAttnSpec, StackSettings

TABLE_BYTES = 2**30
"""Up to this size residual attention holds two tables of scores (TABLE_BYTES in mixers.residual_attention)."""
_SELECT_BLOCK, _DENSE_BLOCK, _QUERY_BLOCK = 64, 128, 256


@dataclass(frozen=True)
class Carried:
    """What attention layers hand on; see `layers.carry`.

    Attributes:
        queries: Scaled queries of each layer of a chain of residual attention, where it keeps products.
        keys: Their keys.
        layers: Layers in the chain.
        table: The chain's table of scores, where it holds one; its gradient is the second table.
        scores: Those of the last layer, where each makes a table of its own.
        values: Values of the first attention layer, with value residual.
        chain: Queries and keys that choose what selective layers hide.
        used: Those that the last of them went by.
    """

    queries: tuple[Value, ...] = ()
    keys: tuple[Value, ...] = ()
    layers: int = 0
    table: Value | None = None
    scores: Value | None = None
    values: Value | None = None
    chain: tuple[Value, ...] = ()
    used: tuple[Value, ...] = ()

    def handed_on(self) -> tuple[Value, ...]:
        """The values in it, oldest first."""
        single = tuple(one for one in (self.values, self.scores) if one is not None)
        return (*single, *self.queries, *self.keys, *self.chain, *self.used)

    def without_scores(self) -> "Carried":
        """The same with an empty chain of residual attention."""
        return replace(self, queries=(), keys=(), layers=0, table=None, scores=None)


@dataclass(frozen=True)
class AttentionParts:
    """Attention of one spec on a tape.

    Attributes:
        parts: The tape with its sizes.
        spec: The layer.
        stack: Settings of its stack.
        holds_tables: Whether residual attention may hold tables of scores; it does not where layers are run again.
    """

    parts: Parts
    spec: AttentionSpec
    stack: StackSettings
    holds_tables: bool

    def run(self, x: Value, carried: Carried) -> tuple[Value, Carried]:
        """`mixers.attention.Attention` and its kinds."""
        spec, d_model = self.spec, self.stack.d_model
        tape, tokens = self.parts.tape, self.parts.sizes.tokens
        P, H, K = spec.head_dim_for(d_model), spec.num_heads, spec.kv_heads()
        qkv_dim, mlp_dim = (H + 2 * K) * P, spec.mlp_dim_rounded()
        both = self.parts.linear(x, d_model, qkv_dim + mlp_dim)
        qkv, mlp = tape.split(both, tokens(qkv_dim), tokens(mlp_dim))
        if spec.d_conv:
            qkv = self.parts.conv(qkv, qkv_dim, spec.d_conv)
        q, k, v = tape.split(qkv, tokens(H * P), tokens(K * P), tokens(K * P))
        q, k = self._turned(q, H * P, H), self._turned(k, K * P, K)
        if self.stack.value_residual != "none":
            v, carried = self._mix_values(x, v, carried)
        y, carried = self._attend(q, k, v, carried)
        if spec.output_gate != "none":
            channels = H * P if spec.output_gate == "elementwise" else H
            gate = self.parts.activation(self.parts.linear(x, d_model, channels), "sigmoid")
            y = tape.one([y, gate], y.size, saves=[y, gate], backward_work=y.size)
        if mlp_dim:
            half = tokens(mlp_dim // 2)
            value, gate = tape.split(mlp, half, half)
            y = tape.one([y, self.parts.gated(value, gate, half)], y.size + half)
        return self.parts.linear(y, H * P + mlp_dim // 2, d_model), carried

    def _turned(self, x: Value, channels: int, heads: int) -> Value:
        """Norm and rotation of queries or keys; the rotation works in float32 and keeps nothing."""
        spec = self.spec
        if spec.qk_norm != "none":
            x = self.parts.norm(x, channels)
        if not spec.rotary_emb_dim:
            return x
        work = 3 * self.parts.sizes.wide_tokens(heads * spec.rotary_emb_dim)
        return self.parts.tape.one([x], x.size, work=work, backward_work=work)

    def _mix_values(self, x: Value, v: Value, carried: Carried) -> tuple[Value, Carried]:
        if carried.values is None:
            return v, replace(carried, values=v)
        first, tape = carried.values, self.parts.tape
        if self.stack.value_residual == "half":
            return tape.one([first, v], v.size), carried
        share = self.parts.activation(self.parts.linear(x, self.stack.d_model, self.spec.kv_heads()), "sigmoid")
        return tape.one([first, v, share], v.size, saves=[first, v, share], backward_work=v.size), carried

    def _attend(self, q: Value, k: Value, v: Value, carried: Carried) -> tuple[Value, Carried]:
        residual = self.stack.residual_attn
        if residual is not None:
            return self._attend_residual(residual, q, k, v, carried)
        if self.spec.changes_scores():
            if self.spec.dropout:
                return self._attend_densely(q, k, v), carried
            return self._attend_selecting(q, k, v, carried)
        if self.spec.dropout:
            # PyTorch's own way without a fused kernel: weights, mask and what is left of the weights.
            table = self._scores() * self._keys_seen() // self.parts.sizes.length**2
            tables = {"extra": 3 * table, "products": table, "backward_work": table}
            return self.parts.tape.one([q, k, v], q.size, saves=[q, k, v], **tables), carried
        return self._attend_fused(q, k, v), carried

    def _attend_fused(self, q: Value, k: Value, v: Value) -> Value:
        """PyTorch's fused attention, whole or in blocks of queries where a mask is needed."""
        tape, sizes, spec = self.parts.tape, self.parts.sizes, self.spec
        T, window = sizes.length, spec.window
        sums = sizes.batch * spec.num_heads * T * 4
        # Scores and their gradients of one block of queries and keys, as the CPU kernel takes them: in float32, and
        # once more in the model's dtype where that is smaller.
        scores = 2 * (256 if T >= 768 else 64) * min(T, 512) * (4 + (sizes.width if sizes.width < 4 else 0))
        whole = window is None or window >= T if spec.causal else T <= _QUERY_BLOCK
        if whole:
            y, _ = tape.do(
                [q, k, v], q.size, sums, saves=[q, k, v], saves_outputs=[0, 1], backward_work=scores, is_product=True
            )
            return y
        # One call: its backward pass gives full gradients of keys and values for each block of queries.
        rows = -(-T // _QUERY_BLOCK)
        masks = self._keys_seen() * sizes.width if spec.causal and window is not None else 0
        blocks, _ = tape.do(
            [q, k, v], q.size, sums, saves=[q, k, v], saves_outputs=[0, 1], extra=masks,
            backward_work=scores + q.size + (k.size + v.size if rows > 1 else 0), is_product=True,
        )  # fmt: skip
        return self._flat(tape.one([blocks], q.size, same=True))

    def _keys_seen(self) -> int:
        """Queries times the keys that lie before them: all, or with a window those of each block of queries."""
        T, window = self.parts.sizes.length, self.spec.window
        if not self.spec.causal or window is None or window >= T:
            return T * T
        blocks = ((begin, min(_QUERY_BLOCK, T - begin)) for begin in range(0, T, _QUERY_BLOCK))
        return sum(rows * min(begin + rows, window + rows) for begin, rows in blocks)

    def _flat(self, y: Value) -> Value:
        """The copy that puts the heads of a token beside each other."""
        return self.parts.tape.one([y], y.size, same=True)

    def _attend_selecting(self, q: Value, k: Value, v: Value, carried: Carried) -> tuple[Value, Carried]:
        """`ops.selective_attention`, with what chooses."""
        spec, sizes = self.spec, self.parts.sizes
        source = spec.selection_from
        chooses = spec.selective and source in ("self", "accumulate")
        choosers = {"self": (), "accumulate": carried.chain, "previous": carried.chain, "guide": carried.used}[source]
        if spec.context_budget is not None and spec.context_budget < sizes.length:
            k, v = self.parts.tape.one([k], k.size), self.parts.tape.one([v], v.size)
        adds_up = spec.selective and source != "previous"
        y = self._select([q], [k], v, choosers, adds_up and (chooses or bool(choosers)))
        if source == "guide" or not spec.selective:
            return y, carried
        # The queries of the selection head, scaled, in float32; the keys are there in any case.
        P = spec.head_dim_for(self.stack.d_model)
        own = self.parts.tape.one([q], sizes.wide_tokens(P), work=sizes.wide_tokens(P))
        chain = (*carried.chain, own)
        return y, replace(carried, chain=chain, used=(*choosers, own) if chooses else choosers)

    def _select(self, q: list[Value], k: list[Value], v: Value, choosers: tuple[Value, ...], adds_up: bool) -> Value:
        """The native operator: keeps its inputs, its output, sums, and F at every 64 queries; copies to go back."""
        tape, sizes, spec = self.parts.tape, self.parts.sizes, self.spec
        B, T, H = sizes.batch, sizes.length, spec.num_heads
        P, wide = spec.head_dim_for(self.stack.d_model), sizes.wide
        blocks = -(-T // _SELECT_BLOCK)
        kept = B * T * H * wide + (B * blocks * T * wide if adds_up else 0)
        padded = blocks * _SELECT_BLOCK
        depth = (H * len(q) + len(choosers)) * P
        copies = (B * (depth + H * P + 2 * H) + depth) * padded * wide
        inputs = [*q, *k, v, *choosers]
        y, _ = tape.do(
            inputs, sizes.tokens(H * P), B * T * wide, saves=inputs, saves_outputs=[0], extra=kept,
            backward_work=copies, is_product=True,
        )  # fmt: skip
        return self._flat(y)

    def _attend_residual(
        self, residual: ResidualAttnSpec, q: Value, k: Value, v: Value, carried: Carried
    ) -> tuple[Value, Carried]:
        """`mixers.residual_attention.ResidualAttention`, in the form that it has in training."""
        if residual.every is not None and carried.layers >= residual.every:
            carried = carried.without_scores()
        layers = carried.layers + 1
        if residual.carry == "upstream" or self.spec.dropout:
            y, scores = self._attend_with_scores(q, k, v, carried.scores, residual.carry == "upstream")
            return self._flat(y), replace(carried, layers=layers, scores=scores)
        if not carried.layers and self._fits_a_table(residual):
            size = self._scores()
            table = Value(self.parts.tape.take(size), size)
            self.parts.tape.opens(table)
            carried = replace(carried, table=table)
        if carried.table is not None:
            return self._flat(self._attend_in_place(carried.table, q, k, v)), replace(carried, layers=layers)
        scaled = self.parts.tape.one([q], q.size)
        queries, keys = (*carried.queries, scaled), (*carried.keys, k)
        y = self._select(list(queries), list(keys), v, (), self.spec.selective)
        return y, replace(carried, layers=layers, queries=queries, keys=keys)

    def _fits_a_table(self, residual: ResidualAttnSpec) -> bool:
        if residual.training != "auto":
            return residual.training == "table" and self.holds_tables
        is_long = residual.every is None and residual.cross_block
        return is_long and 2 * self._scores() <= TABLE_BYTES and self.holds_tables

    def _attend_in_place(self, table: Value, q: Value, k: Value, v: Value) -> Value:
        """`ops.selective_attention.in_place`: blocks of 128 queries, keys and values in float32."""
        sizes, spec = self.parts.sizes, self.spec
        B, T, H, K = sizes.batch, sizes.length, spec.num_heads, spec.kv_heads()
        P = spec.head_dim_for(self.stack.d_model)
        keys = 2 * sizes.wide_tokens(K * P)
        block = 3 * B * H * min(T, _DENSE_BLOCK) * T * sizes.wide
        kept = (B * T * H + -(-T // _DENSE_BLOCK) * B * T) * sizes.wide
        y, _ = self.parts.tape.do(
            [q, k, v], q.size, B * T * sizes.wide, saves=[q, k, v], saves_outputs=[0], extra=kept,
            work=keys + block, backward_work=2 * keys + block, total=table, is_product=True,
        )  # fmt: skip
        return y

    def _scores(self) -> int:
        """Bytes of a table (B, H, T, T) in float32."""
        sizes = self.parts.sizes
        return sizes.batch * self.spec.num_heads * sizes.length**2 * sizes.wide

    def _attend_densely(self, q: Value, k: Value, v: Value) -> Value:
        """`blocks.attend_densely` with dropout: logits, weights, mask, what is left; and G, which is of one head."""
        table = self._scores()
        hidden = 2 * table // self.spec.num_heads if self.spec.selective else 0
        biased = table if self.spec.alibi else 0
        bent = table if self.spec.logit_softcap is not None else 0
        return self._flat(
            self.parts.tape.one(
                [q, k, v],
                q.size,
                saves=[q, k, v],
                extra=4 * table + hidden + bent,
                products=table,
                backward_work=table + hidden + biased + bent,
            )
        )

    def _attend_with_scores(
        self, q: Value, k: Value, v: Value, before: Value | None, hands_on_logits: bool
    ) -> tuple[Value, Value]:
        """The same with a sum of scores, or logits, that autograd follows from layer to layer."""
        table = self._scores()
        inputs = [q, k, v] if before is None else [q, k, v, before]
        tables = 3 if self.spec.dropout else 1
        y, scores = self.parts.tape.do(
            inputs, q.size, table, saves=[q, k, v], saves_outputs=[1] if hands_on_logits else [],
            extra=(tables if hands_on_logits else tables + 1) * table, products=table,
            backward_work=(2 if hands_on_logits else 1) * table,
        )  # fmt: skip
        return y, scores
