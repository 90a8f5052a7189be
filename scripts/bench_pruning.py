"""What a budget of keys saves: bytes of the cache, and time of a decoding step and of a prefill.

Ratios only: both models take turns in one process, and medians are compared. Keys and values of the context are random
numbers put into the caches, as their values change no time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import hybridgen as hg
from hybridgen.model.model import HybridModel
from hybridgen.model.state import DecodingState

D_MODEL, HEADS, KV_HEADS, SHARE = 512, 8, 2, 8


def build(budget: int | None) -> HybridModel:
    """Returns one selective layer."""
    mixer = {"type": "attention", "num_heads": HEADS, "num_heads_kv": KV_HEADS, "selective": True}
    block = {"mixer": {**mixer, "rotary_emb_dim": 64, "context_budget": budget}}
    document = {"backbone": {"d_model": D_MODEL, "blocks": {"a": block}, "pattern": "a"}}
    return hg.build(hg.ModelSpec.model_validate(document))


def filled(model: HybridModel, context: int, steps: int) -> DecodingState:
    """Returns a state that has read `context` tokens."""
    state = model.init_state(1, context + steps)
    generator = torch.Generator().manual_seed(0)
    for layer in state.layers:
        assert layer is not None, "every layer has a mixer"
        for name, tensor in layer.tensors().items():
            if name == "places":
                tensor[:, :-1] = torch.arange(tensor.shape[1] - 1)
            elif name == "hidden":
                tensor.uniform_(0, 3, generator=generator)
            else:
                tensor.normal_(generator=generator)
    state.length = state.peak = context
    return state


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median time of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 2:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


@torch.no_grad()
def compare(context: int, rounds: int) -> tuple[float, float, float]:
    """Returns the cache's bytes, a step's time and a prefill's time without a budget, over those with 1/SHARE of it."""
    steps = 8 * (rounds + 2)
    models = {"whole": build(None), "pruned": build(context // SHARE)}
    states = {name: filled(model, context, steps) for name, model in models.items()}
    bytes_ratio = states["whole"].nbytes() / states["pruned"].nbytes()
    generator = torch.Generator().manual_seed(1)
    token = torch.randn(1, 1, D_MODEL, generator=generator)
    prompt = torch.randn(1, context // 4, D_MODEL, generator=generator)

    def step(name: str) -> Callable[[], object]:
        return lambda: [models[name](token, state=states[name]) for _ in range(8)]

    def prefill(name: str) -> Callable[[], object]:
        return lambda: models[name](prompt, state=models[name].init_state(1, context))

    decoding = in_turns({name: step(name) for name in models}, rounds)
    reading = in_turns({name: prefill(name) for name in models}, max(1, rounds // 8))
    return bytes_ratio, decoding["whole"] / decoding["pruned"], reading["whole"] / reading["pruned"]


def main() -> None:
    """Prints one line per context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    table = Table("context", "budget", "cache bytes", "decoding step", "prefill of a quarter", title="without / with")
    for context in arguments.contexts:
        ratios = compare(context, arguments.rounds)
        table.add_row(str(context), str(context // SHARE), *(f"{ratio:.2f}x" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
