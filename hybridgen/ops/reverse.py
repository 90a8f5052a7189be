"""What operators that read from the last token to the first have in common."""

import torch
from torch import Tensor


def flipped_resets(resets: Tensor | None) -> Tensor | None:
    """Where sequences begin once time is flipped, (B, T).

    The boundary in front of token t, resets[t], lies behind it on the way back: there token t - 1 begins a sequence.
    """
    if resets is None:
        return None
    return torch.cat((torch.zeros_like(resets[:, :1]), resets[:, 1:].flip(1)), dim=1)
