"""What each part of a layer makes and keeps in training, in bytes, as the modules under `layers` do it on a CPU.

Every function here is the shadow of a module's `forward`: the same operations in the same order, on a tape that knows
sizes alone. What an operation keeps is what its backward pass reads; see `setup_context` of the operators in `ops`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hybridgen.costs.tape import Tape, Value
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.parts import MlpSpec
from hybridgen.spec.scans import ScanningSpec

SEGMENT = 64
"""Tokens between the states that scans keep for the backward pass (CHUNK and SEGMENT of the native scans)."""
_CONV_BACKWARD_TOKENS = 256
_KEEP_OUTPUT = ("relu", "relu2", "sigmoid", "tanh")


@dataclass(frozen=True)
class Sizes:
    """Bytes of the tensors of one call.

    Attributes:
        batch: Rows B.
        length: Tokens T of a row.
        width: Bytes of a number in the model's dtype.
        wide: Bytes of a number where sums are kept: 4, or 8 in float64.
    """

    batch: int
    length: int
    width: int
    wide: int

    def tokens(self, channels: int) -> int:
        """(B, T, channels) in the model's dtype."""
        return self.batch * self.length * channels * self.width

    def wide_tokens(self, channels: int) -> int:
        """The same in float32."""
        return self.batch * self.length * channels * self.wide

    def segments(self) -> int:
        """States that a scan keeps of a row."""
        return -(-self.length // SEGMENT)


@dataclass(frozen=True)
class Parts:
    """The operations of layers on a tape."""

    tape: Tape
    sizes: Sizes

    def linear(self, x: Value, channels_in: int, channels: int) -> Value:
        """`ops.linear` where gradients are needed: keeps x; the gradient of the weight is there for a moment."""
        weight = channels_in * channels * self.sizes.width
        size = self.sizes.tokens(channels)
        return self.tape.one([x], size, saves=[x], backward_work=weight, is_product=True)

    def cast(self, x: Value, channels: int) -> Value:
        """To float32; no operation where the model is float32 or wider."""
        if self.sizes.wide == self.sizes.width:
            return x
        return self.tape.one([x], self.sizes.wide_tokens(channels))

    def narrowed(self, x: Value, channels: int) -> Value:
        """Back to the model's dtype."""
        if self.sizes.wide == self.sizes.width:
            return x
        return self.tape.one([x], self.sizes.tokens(channels))

    def norm(self, x: Value, channels: int) -> Value:
        """`Norm` of x alone: keeps x."""
        return self.tape.one([x], self.sizes.tokens(channels), saves=[x])

    def conv(self, x: Value, channels: int, width: int) -> Value:
        """`ops.causal_conv1d`: keeps x; parts of the weight's gradient per 256 tokens."""
        parts = self.sizes.batch * -(-self.sizes.length // _CONV_BACKWARD_TOKENS)
        work = parts * (width + 1) * channels * self.sizes.wide
        return self.tape.one([x], self.sizes.tokens(channels), saves=[x], backward_work=work)

    def gated(self, value: Value, gate: Value, size: int) -> Value:
        """`ops.gated_activation`: keeps both."""
        return self.tape.one([value, gate], size, saves=[value, gate])

    def activation(self, x: Value, name: str) -> Value:
        """An activation by itself: keeps its input, or its output where that is enough."""
        if name == "identity":
            return x
        if name not in _KEEP_OUTPUT:
            return self.tape.one([x], x.size, saves=[x])
        y = self.tape.one([x], x.size, saves_outputs=[0])
        return self.tape.one([y], x.size, saves=[y], backward_work=2 * x.size) if name == "relu2" else y

    def scaled(self, x: Value, has_factor: bool) -> Value:
        """A learned factor per channel: keeps x; its gradient is a product over all tokens before it is summed."""
        return self.tape.one([x], x.size, saves=[x], backward_work=x.size) if has_factor else x

    def dropped(self, x: Value, share: float) -> Value:
        """Dropout: keeps the mask, in x's dtype."""
        return self.tape.one([x], x.size, extra=x.size) if share else x

    def mlp(self, x: Value, spec: MlpSpec, d_model: int) -> Value:
        """`layers.mlp.Mlp`."""
        tape, hidden = self.tape, spec.hidden()
        size = self.sizes.tokens(hidden)
        both = self.linear(x, d_model, 2 * hidden if spec.gated else hidden)
        if spec.gated:
            value, gate = tape.split(both, size, size)
            y = self.gated(value, gate, size)
        else:
            y = self.activation(both, spec.gate_activation)
        return self.linear(self.dropped(y, spec.dropout), hidden, d_model)

    def mamba1(self, x: Value, spec: Mamba1Spec, d_model: int) -> Value:
        """`mixers.mamba1.Mamba1`, and `ScansMamba1` where it reads in several orders."""
        tape, sizes, d_inner = self.tape, self.sizes, spec.d_inner(d_model)
        size = sizes.tokens(d_inner)
        values, z = tape.split(self.linear(x, d_model, 2 * d_inner), size, size)
        if spec.is_causal():
            values = self.conv(values, d_inner, spec.d_conv)
            y = self._selective_scan(values, self._dt_b_c(values, spec, d_model), z, spec, d_inner)
            return self.scaled(self.linear(y, d_inner, d_model), spec.layer_scale is not None)
        shared = spec.shared()
        if "conv" in shared:
            values = self.conv(values, d_inner, spec.d_conv)
        projected = self._dt_b_c(values, spec, d_model) if {"conv", "proj"} <= shared else None

        def scan(*given: Value) -> Value:
            u, *rest = given
            u = u if "conv" in shared else self.conv(u, d_inner, spec.d_conv)
            dt_b_c = (rest[0], rest[1], rest[2]) if rest else self._dt_b_c(u, spec, d_model)
            return self._selective_scan(u, dt_b_c, None, spec, d_inner)

        y = self.over_directions(spec, (values, *(projected or ())), scan)
        return self.scaled(self.linear(self.gated(y, z, size), d_inner, d_model), spec.layer_scale is not None)

    def over_directions(self, spec: ScanningSpec, given: tuple[Value, ...], scan: Callable[..., Value]) -> Value:
        """`mixers.directions.sum_over_directions`: a copy of what is read for each order that moves tokens."""
        tape, total = self.tape, None
        orders = [order.removesuffix("_reverse") for order in spec.directions()]
        for base in dict.fromkeys(orders):
            laid_out = given if base == "row" else tuple(tape.one([one], one.size) for one in given)
            part = None
            for _ in range(orders.count(base)):
                y = scan(*laid_out)
                part = y if part is None else self._added(part, y)
            assert part is not None, "each base has a direction"
            part = part if base == "row" else tape.one([part], part.size)
            total = part if total is None else self._added(total, part)
        assert total is not None, "there is a direction"
        return self._halved(total) if spec.divide_out else total

    def _added(self, one: Value, other: Value) -> Value:
        """A sum that takes the place of both."""
        total = self.tape.one([one, other], one.size, same=True)
        self.tape.forget(one)
        self.tape.forget(other)
        return total

    def _halved(self, x: Value) -> Value:
        """A product with a number that takes the place of x."""
        y = self.tape.one([x], x.size)
        self.tape.forget(x)
        return y

    def _dt_b_c(self, u: Value, spec: Mamba1Spec, d_model: int) -> tuple[Value, Value, Value]:
        tape, sizes, d_inner = self.tape, self.sizes, spec.d_inner(d_model)
        rank, states = spec.dt_rank_for(d_model), spec.d_state
        low, B, C = tape.split(
            self.linear(u, d_inner, rank + 2 * states), *(sizes.tokens(one) for one in (rank, states, states))
        )
        if spec.bcdt_norm != "none":
            low, B, C = (self._bottleneck(one, channels) for one, channels in ((low, rank), (B, states), (C, states)))
        return self.linear(low, rank, d_inner), B, C

    def _bottleneck(self, x: Value, channels: int) -> Value:
        wide = self.cast(x, channels)
        size = self.sizes.wide_tokens(channels)
        normed = self.tape.one([wide], size, saves=[wide], work=size, backward_work=3 * size)
        return self.narrowed(self.scaled(normed, True), channels)

    def _selective_scan(
        self, u: Value, dt_b_c: tuple[Value, Value, Value], z: Value | None, spec: Mamba1Spec, d_inner: int
    ) -> Value:
        """`ops.selective_scan`: keeps its inputs, A and exp(A_log), and the states before every 64 tokens."""
        sizes, (dt, B, C) = self.sizes, dt_b_c
        state = sizes.batch * d_inner * spec.d_state * sizes.wide
        A = 2 * d_inner * spec.d_state * sizes.wide
        inputs = [u, dt, B, C] if z is None else [u, dt, B, C, z]
        y, _ = self.tape.do(
            inputs,
            sizes.tokens(d_inner),
            state,
            saves=inputs,
            extra=sizes.segments() * state + A,
            backward_work=2 * state + A + 2 * sizes.wide_tokens(spec.d_state),
        )
        return y

    def mamba2(self, x: Value, spec: Mamba2Spec, d_model: int) -> Value:
        """`mixers.mamba2.Mamba2`, and `ScansMamba2` where it reads in several orders."""
        tape, sizes = self.tape, self.sizes
        d_ssm, heads, d_bc = spec.d_ssm_for(d_model), spec.nheads(d_model), spec.ngroups * spec.d_state
        d_mlp, d_xbc = spec.d_inner(d_model) - d_ssm, d_ssm + 2 * d_bc
        widths = (d_mlp, d_mlp, d_ssm, d_xbc, heads)
        z0, x0, z, xbc, dt = tape.split(self.linear(x, d_model, sum(widths)), *(sizes.tokens(one) for one in widths))
        shares_conv, is_reversed = "conv" in spec.shared(), iter(spec.directions())
        if shares_conv:
            xbc = self.conv(xbc, d_xbc, spec.d_conv)

        def scan(xbc: Value, dt: Value) -> Value:
            xbc = xbc if shares_conv else self.conv(xbc, d_xbc, spec.d_conv)
            return self._ssd(xbc, dt, spec, (d_ssm, d_bc, heads), next(is_reversed).endswith("_reverse"))

        y = self.over_directions(spec, (xbc, dt), scan)
        y = self._gated_norm(y, z, d_ssm, spec) if spec.rmsnorm else self.gated(y, z, sizes.tokens(d_ssm))
        if d_mlp:
            gate = self.gated(x0, z0, sizes.tokens(d_mlp))
            y = tape.one([gate, y], sizes.tokens(d_mlp + d_ssm))
        return self.scaled(self.linear(y, d_mlp + d_ssm, d_model), spec.layer_scale is not None)

    def _ssd(self, xbc: Value, dt: Value, spec: Mamba2Spec, dims: tuple[int, int, int], reverse: bool) -> Value:
        """`ops.ssd_scan`: keeps its inputs and the states before every 64 tokens; flips them to read backwards."""
        tape, sizes, (d_ssm, d_bc, heads) = self.tape, self.sizes, dims
        x, B, C = tape.split(xbc, *(sizes.tokens(one) for one in (d_ssm, d_bc, d_bc)))
        if reverse:
            x, B, C, dt = (tape.one([one], one.size) for one in (x, B, C, dt))
        state = sizes.batch * d_ssm * spec.d_state * sizes.wide
        y, _ = tape.do(
            [x, dt, B, C],
            sizes.tokens(d_ssm),
            state,
            saves=[x, dt, B, C],
            extra=sizes.segments() * state,
            backward_work=state + sizes.wide_tokens(heads + 2 * d_bc),
        )
        return tape.one([y], y.size) if reverse else y

    def _gated_norm(self, y: Value, z: Value, channels: int, spec: Mamba2Spec) -> Value:
        """`layers.norms.GatedRmsNorm`: in float32, in the steps that PyTorch's rms_norm takes on a CPU."""
        size = self.sizes.wide_tokens(channels)
        wide, gate = self.cast(y, channels), self.cast(z, channels)
        if not spec.norm_before_gate:
            wide = self.gated(wide, gate, size)
        normed = self.tape.one([wide], size, saves=[wide], work=size, backward_work=3 * size)
        wide = self.scaled(normed, True)
        if spec.norm_before_gate:
            wide = self.gated(wide, gate, size)
        return self.narrowed(wide, channels)
