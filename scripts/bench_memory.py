"""Prints the training memory that `hg.cost` works out for shipped configs beside what a step on the CPU holds.

The configs are scaled down: the depth of a run of layers, the vocabulary and the length are smaller, the widths are
the shipped ones, halved where a layer is too wide for a small machine.

    python scripts/bench_memory.py
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hybridgen as hg  # noqa: E402
from tests.helpers.memory import training_peak  # noqa: E402

MODELS = {
    "mamba-130m": ["backbone.n_layer=6", "input.vocab_size=8192"],
    "mamba2-130m": ["backbone.n_layer=6", "input.vocab_size=8192"],
    "zonos-v0.1-hybrid": ["backbone.n_layer=5", "backbone.d_model=1024", "backbone.attn.num_heads=8"],
    "mamba2attn-2.7b": [
        "backbone.n_layer=4", "backbone.attn_layer_idx=[1,3]", "backbone.d_model=1280", "backbone.attn.num_heads=15",
        "input.vocab_size=8192",
    ],
    "vim-tiny": ["backbone.n_layer=6"],
    "llama-like-1b": [
        "backbone.n_layer=4", "backbone.d_model=1024", "backbone.attn.num_heads=16",
        "backbone.attn_mlp_d_intermediate=2816", "input.vocab_size=8192",
    ],
}  # fmt: skip
LENGTH = 1024


def main() -> None:
    """Prints a table in Markdown."""
    print("| config, scaled down | checkpointing | worked out, MiB | measured, MiB | ratio |")
    print("|---|---|---:|---:|---:|")
    for name, overrides in MODELS.items():
        spec = hg.load_spec(ROOT / "configs" / "model" / f"{name}.yaml", overrides)
        model = hg.build(spec, dtype=torch.bfloat16)
        for checkpointing in ("none", "selective", "full"):
            hg.checkpoint_layers(model, checkpointing)
            length = None if spec.input.type == "patches" else LENGTH
            memory = hg.cost(spec, length, checkpointing=checkpointing).memory
            found = memory.activations + memory.logits
            measured = training_peak(model, 1, LENGTH)
            row = f"{found / 2**20:.1f} | {measured / 2**20:.1f} | {found / measured:.3f}"
            print(f"| {name} | {checkpointing} | {row} |", flush=True)


if __name__ == "__main__":
    main()
