"""The calls of a model that objectives time and weigh: a prompt in one piece, then token by token. Needs torch."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridgen import __version__
from hybridgen.costs.state import can_decode
from hybridgen.model.model import HybridModel
from hybridgen.model.state import DecodingState
from hybridgen.ops import native
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import CodebooksInputSpec, PatchesInputSpec, TokensInputSpec


def random_input(model: HybridModel, batch_size: int, length: int) -> Tensor:
    """Random token ids (B, T), codes (B, T, n_codebooks), images (B, C, H, W) or hidden states (B, T, D).

    They are the same in every run.
    """
    source, generator = model.spec.input, torch.Generator().manual_seed(0)
    match source:
        case TokensInputSpec():
            x = torch.randint(source.vocab_size, (batch_size, length), generator=generator)
        case CodebooksInputSpec():
            x = torch.randint(source.vocab_size, (batch_size, length, source.n_codebooks), generator=generator)
        case PatchesInputSpec():
            x = torch.randn(batch_size, source.channels, *source.size(), generator=generator).to(model.dtype)
        case _:
            x = torch.randn(batch_size, length, model.spec.backbone.d_model, generator=generator).to(model.dtype)
    return x.to(model.device)


class Calls:
    """Reading of a prompt (prefill), and of further tokens one by one (decoding).

    The further tokens are known beforehand: the model alone is measured, not how a token is picked.

    Attributes:
        state: What decoding goes on from; None before `make_state`, and for models that cannot decode.
    """

    def __init__(self, model: HybridModel, batch_size: int, length: int, steps: int) -> None:
        self.model, self.batch_size, self.slots = model, batch_size, length + steps
        self.prompt = random_input(model, batch_size, length)
        self.tokens = random_input(model, batch_size, steps).split(1, dim=1) if steps else ()
        self.state: DecodingState | None = None

    def make_state(self) -> None:
        """Makes an empty state with room for all tokens."""
        if can_decode(self.model.spec):
            self.state = self.model.init_state(self.batch_size, self.slots)

    def release(self) -> None:
        """Frees the state and all tokens."""
        self.state, self.tokens, self.prompt = None, (), self.prompt.new_empty(0)

    def prefill(self) -> None:
        """Reads the prompt: into the state with the logits of its last token, or, without a state, as a whole."""
        if self.state is None:
            self.model(self.prompt)
            return
        self.state.reset()
        self.model(self.prompt, state=self.state, num_last_tokens=1)

    def decode(self) -> None:
        """Reads the tokens behind the prompt, each in a call of its own."""
        for token in self.tokens:
            self.model(token, state=self.state)


def circumstances(device: torch.device, spec: ModelSpec) -> dict[str, Any]:
    """What a measurement depends on beside the model: machine, threads, versions."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "native": native.LOADED,
        "torch": torch.__version__,
        "hybridgen": __version__,
        "decodes": can_decode(spec),
    }


def device_name(device: torch.device) -> str:
    """The name that the maker of a processor or GPU gave it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "cpu"


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
