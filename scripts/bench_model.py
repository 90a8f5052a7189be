"""Times whole models against their peers, and against what the machine can do.

`python scripts/bench_model.py mamba-130m --quick` for a first look. The models are mamba-130m, mamba2-130m and a hybrid
of the same size with random weights; their peer is transformers' implementation of the same architecture, on the CPU
path that it takes by itself. Forward passes are compared with the time that their matrix products alone take, decoding
with the time that reading the weights takes. How it measures stands in benchlib.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from benchlib import Case, Run, Section, main, matmul_limit, ours, read_limit
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM
from transformers.utils import logging

import hybridgen as hg

CONFIGS = Path(__file__).parent.parent / "configs/model"
T_FORWARD, T_TRAIN, T_PROMPT, T_MAX = 2048, 512, 32, 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Peer = Callable[[int, int], nn.Module]
TRAINED = {"n_layer": 4, "vocab_size": 1024}  # the part of a model that the training step has


def document(name: str) -> Any:
    """The configuration of a model; the hybrid is mamba2-130m with grouped-query attention in every sixth layer."""
    if name != "hybrid":
        return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    found = document("mamba2-130m")
    attention = {"num_heads": 12, "num_heads_kv": 4, "rotary_emb_dim": 64}
    found["backbone"] |= {"attn_layer_idx": "3::6", "attn": attention}
    return found | {"name": "hybrid-130m"}


def small(found: Any) -> Any:
    """The same model with 4 layers and a small vocabulary."""
    found["backbone"]["n_layer"] = TRAINED["n_layer"]
    found["input"]["vocab_size"] = TRAINED["vocab_size"]
    return found


def mamba1_peer(n_layer: int, vocab_size: int) -> nn.Module:
    return MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=n_layer, vocab_size=vocab_size))


def mamba2_peer(n_layer: int, vocab_size: int) -> nn.Module:
    config = Mamba2Config(
        hidden_size=768, num_hidden_layers=n_layer, vocab_size=vocab_size, num_heads=24, head_dim=64, n_groups=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    return Mamba2ForCausalLM(config)


def matrix_parameters(model: nn.Module) -> int:
    """Weights that multiply every token: all linear maps, the head included."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def weight_bytes(model: nn.Module) -> int:
    """What a decoding step reads; a tied embedding counts once, as the head."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class Decoding:
    """One token after another; begins again when the caches are full."""

    def __init__(self, begin: Callable[[], Any], step: Callable[[Any, Tensor], Any]) -> None:
        self.begin, self.step = begin, step
        self.count, self.state, self.token = T_MAX, None, torch.zeros(1, 1, dtype=torch.long)

    def __call__(self) -> object:
        """Decode one token."""
        if self.count >= T_MAX - T_PROMPT:
            self.state, self.count = self.begin(), 0
        self.count += 1
        return self.step(self.state, self.token)


def our_decoding(model: Any) -> dict[str, Run]:
    """A decoding of each backend with a state of its own."""
    prompt = torch.randint(0, 1000, (1, T_PROMPT))

    def begin() -> object:
        state = model.init_state(1, T_MAX)
        model(prompt, state, num_last_tokens=1)
        return state

    def decoding() -> Decoding:
        return Decoding(begin, lambda state, token: model(token, state))

    return {name: ours(decoding())[name] for name in ours(begin)}


def their_decoding(model: Any) -> Run:
    """Decoding of transformers, with its cache."""
    prompt = torch.randint(0, 1000, (1, T_PROMPT))

    def begin() -> object:
        return model(prompt, use_cache=True).cache_params

    return Decoding(begin, lambda cache, token: model(token, cache_params=cache, use_cache=True).logits)


def train(model: nn.Module, logits: Callable[[], Tensor]) -> Run:
    """Forward, loss and backward; the gradients are made anew, as after zero_grad."""

    targets = torch.zeros(T_TRAIN, dtype=torch.long)

    def run() -> object:
        model.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(logits().flatten(0, 1).float(), targets)
        loss.backward()
        return loss

    return run


def inference_cases(name: str, peer: Peer | None, quick: bool) -> Iterator[Case]:
    spec = hg.ModelSpec.model_validate(document(name))
    for dtype_name, dtype in DTYPES.items():
        model = hg.build(spec, dtype=dtype).eval()
        theirs: Any = None if peer is None else peer(24, 50288).eval().to(dtype)
        ids = torch.randint(0, 50000, (1, T_FORWARD))
        forward = ours(lambda m=model, i=ids: m(i))
        decode = our_decoding(model)
        if theirs is not None:
            if not quick:
                forward["transformers"] = lambda m=theirs, i=ids: m(i, use_cache=False).logits
            decode["transformers"] = their_decoding(theirs)
        flops = 2.0 * T_FORWARD * matrix_parameters(model)
        yield Case(f"{name}: forward, {T_FORWARD} tokens, {dtype_name}", forward, matmul_limit(flops, dtype))
        yield Case(f"{name}: decoding, batch 1, {dtype_name}", decode, read_limit(weight_bytes(model)))


def training_case(name: str, peer: Peer | None, quick: bool) -> Iterator[Case]:
    model = hg.build(hg.ModelSpec.model_validate(small(document(name))))
    ids = torch.randint(0, 1000, (1, T_TRAIN))
    candidates = ours(train(model, lambda: model(ids)))
    # transformers' Mamba takes minutes for one step: its loop over tokens has a backward pass of quadratic cost.
    if peer is not None and not (quick and peer is mamba1_peer):
        theirs: Any = peer(TRAINED["n_layer"], TRAINED["vocab_size"])
        candidates["transformers"] = train(theirs, lambda: theirs(ids, use_cache=False).logits)
    limit = matmul_limit(6.0 * T_TRAIN * matrix_parameters(model), torch.float32)
    title = f"{name}: forward and backward, {TRAINED['n_layer']} layers, {T_TRAIN} tokens, float32"
    yield Case(title, candidates, limit, training=True)


def section(name: str, peer: Peer | None) -> Section:
    def cases(quick: bool) -> Iterator[Case]:
        yield from inference_cases(name, peer, quick)
        yield from training_case(name, peer, quick)

    return cases


SECTIONS = {
    "mamba-130m": section("mamba-130m", mamba1_peer),
    "mamba2-130m": section("mamba2-130m", mamba2_peer),
    "hybrid": section("hybrid", None),
}

if __name__ == "__main__":
    logging.set_verbosity_error()
    main("Times whole models against their peers and the machine's limits.", SECTIONS)
