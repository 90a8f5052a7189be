"""One layer of the stack: residual branches around a mixer and an MLP."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.errors import UnsupportedError
from hybridgen.layers.carry import Carry
from hybridgen.layers.drop_path import drop_path
from hybridgen.layers.mixers import make_mixer
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.mixers.base import MixerState, run_and_remember
from hybridgen.layers.mlp import Mlp
from hybridgen.layers.norms import Norm
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import added
from hybridgen.spec.model import BackboneSpec, LayerSpec


class Block(nn.Module):
    """`x += f(norm(x))` for the mixer and for the MLP, with the norm before (pre), behind (post) or on both sides.

    With residual placement it is `x = norm(x + f(x))`; there the last norm of the last layer is the stack's `norm_f`.

    As in mamba-ssm the last branch of a layer is handed on unadded beside the stream, so that the sum meets the next
    norm in float32 before it is rounded to the stream's dtype.
    """

    def __init__(
        self,
        spec: LayerSpec,
        backbone: BackboneSpec,
        is_first_attention: bool,
        is_last: bool,
        drop_rates: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Makes the layer.

        Args:
            spec: What it holds.
            backbone: Settings of the stack.
            is_first_attention: Whether its mixer is the first attention of the stack.
            is_last: Whether it is the last layer.
            drop_rates: How often training drops the branch handed to it, and its own ones (drop_path).
        """
        super().__init__()
        self.drop_rates = drop_rates
        placement, d_model = backbone.norm_placement, backbone.d_model
        self.norms_sum = placement == "residual"
        self.mixer = None if spec.mixer is None else make_mixer(spec.mixer, backbone, is_first_attention)
        self.mlp = None if spec.mlp is None else Mlp(spec.mlp, d_model)
        self.passes_scores = backbone.residual_attn is not None and backbone.residual_attn.cross_block

        def norm(wanted: bool) -> Norm | None:
            return Norm(backbone.norm, d_model) if wanted else None

        before, behind = placement in ("pre", "sandwich"), placement != "pre"
        ends = self.norms_sum and is_last
        self.norm = norm(before and self.mixer is not None)
        self.post_norm = norm(behind and self.mixer is not None and not (ends and self.mlp is None))
        self.norm2 = norm(before and self.mlp is not None)
        self.post_norm2 = norm(behind and self.mlp is not None and not ends)

    def forward(
        self,
        branch: Float[Tensor, "B T D"],
        residual: Float[Tensor, "B T D"] | None,
        residual_dtype: torch.dtype,
        state: MixerState | None,
        span: Span,
        carry: Carry | None = None,
        skips: Sequence[bool] = (False, False),
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"] | None, Carry | None]:
        """Runs the layer.

        Args:
            branch: Output of the last branch so far, not yet added; the embeddings in front of the first layer.
            residual: The stream without it; None in front of the first layer.
            residual_dtype: Dtype that the stream is stored in.
            state: State of the mixer, advanced in place.
            span: Where the tokens stand.
            carry: What the attention layers before handed on; None where none hands on anything.
            skips: Whether to leave out the mixer, and the MLP.
        Returns:
            The new last branch, the stream without it, and the carry for the layers behind.
        """
        rate, own_rate = self.drop_rates
        if self.mixer is not None and not skips[0]:
            x, residual = self._enter(self.norm, branch, residual, residual_dtype, rate)
            rate = own_rate
            mixed, carry = self._mix(x, state, span, carry)
            branch, residual = self._leave(self.post_norm, mixed, residual)
        if self.mlp is not None and not skips[1]:
            x, residual = self._enter(self.norm2, branch, residual, residual_dtype, rate)
            branch, residual = self._leave(self.post_norm2, self.mlp(x), residual)
        return branch, residual, carry

    def _mix(self, x: Tensor, state: MixerState | None, span: Span, carry: Carry | None) -> tuple[Tensor, Carry | None]:
        assert self.mixer is not None, "called for a layer with a mixer only"
        by_steps = state is not None and bool(state.history) and not self.mixer.keeps_history
        if carry is not None and isinstance(self.mixer, Attention) and not by_steps:
            both: tuple[Tensor, Carry] = self.mixer(x, state, span, carry)
            return both
        if carry is not None and not self.passes_scores:
            carry = carry._replace(scores=None)
        mixed: Tensor
        if state is not None and by_steps:
            mixed = run_and_remember(self.mixer, x, state, span)
        else:
            mixed = self.mixer(x, state, span)
        return mixed, carry

    def check_rollback(self) -> None:
        """Refuses a state that can be rolled back where the mixer would get its tokens one by one without the carry.

        Raises:
            UnsupportedError: If the mixer needs what other layers hand on.
        """
        mixer = self.mixer
        if mixer is None or mixer.keeps_history or not isinstance(mixer, Attention):
            return
        if mixer.values != "none" or mixer.spec.selection_from == "guide":
            needs = "value_residual" if mixer.values != "none" else "selection_from: guide"
            raise UnsupportedError(
                f"a state with rollback gives a layer with context_budget its tokens one by one, and {needs} needs "
                f"what other layers hand on; make the state without rollback"
            )

    def _leave(self, norm: Norm | None, branch: Tensor, residual: Tensor) -> tuple[Tensor, Tensor | None]:
        if norm is None:
            return branch, residual
        if self.norms_sum:
            return norm(drop_path(branch, self.drop_rates[1], self.training), residual), None
        return norm(branch), residual

    def _enter(
        self,
        norm: Norm | None,
        branch: Tensor,
        residual: Tensor | None,
        residual_dtype: torch.dtype,
        drop_rate: float,
    ) -> tuple[Tensor, Tensor]:
        # Without a stream yet, or with placement `residual`, the branch is the stream itself.
        branch = branch if residual is None else drop_path(branch, drop_rate, self.training)
        if norm is None:
            total = added(branch, residual)
            return total.to(branch.dtype), total.to(residual_dtype)
        both: tuple[Tensor, Tensor] = norm(branch, residual, residual_dtype)
        return both
