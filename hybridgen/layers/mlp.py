"""The feed-forward part of a layer."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hybridgen.layers.linear import BranchOutput, Linear
from hybridgen.ops.activations import activation
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.spec.parts import MlpSpec


class Mlp(nn.Module):
    """`fc2(value * act(gate))` with [value | gate] = fc1(x), or `fc2(act(fc1(x)))` when not gated."""

    def __init__(self, spec: MlpSpec, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        hidden = spec.hidden()
        self.fc1 = Linear(d_model, 2 * hidden if spec.gated else hidden, bias=spec.bias)
        self.fc2 = BranchOutput(hidden, d_model, bias=spec.has_out_bias())

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Transforms each token by itself."""
        hidden = self.fc1(x)
        if self.spec.gated:
            value, gate = hidden.chunk(2, dim=-1)
            hidden = gated_activation(value, gate, self.spec.gate_activation)
        else:
            hidden = activation(self.spec.gate_activation)(hidden)
        if self.spec.dropout:
            hidden = functional.dropout(hidden, self.spec.dropout, self.training)
        return self.fc2(hidden)
