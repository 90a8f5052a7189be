"""Which weights a recipe should not decay."""

from torch import nn

_SCANS = ("A_", "D", "dt_bias")
_LEARNED_ROWS = ("memory_tokens", "pos_embed", "cls_token", "cls_token_head", "cls_token_tail")


def no_weight_decay(model: nn.Module) -> set[str]:
    """Returns the names of weights; see `HybridModel.no_weight_decay`."""
    names = {name: name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return {name for name, leaf in names.items() if leaf.startswith(_SCANS) or leaf in _LEARNED_ROWS}
