"""Does selective attention help where old tokens should be forgotten? Trains small models on variable assignment.

A sequence assigns values to variables, over and over, and then asks for each: after `a=3 c=1 a=7 b=2` the answers are
a: 7, b: 2, c: 1. Earlier assignments of the same variable are distractors, and the longer the sequence, the more of
them there are (after the task of arXiv 2410.02703, section 3). Models that differ in nothing but selection train on the
same sequences, and are tested on sequences as long as in training and on longer ones.

    pip install -e '.[plot]' && python scripts/experiment_selection.py    # writes docs/experiments/selection.{json,svg}
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib import pyplot
from torch import Tensor

import hybridgen as hg

VARIABLES, VALUES = 8, 8
PAIRS = VARIABLES * VALUES
TRAINED, TESTED = 32, (16, 32, 64, 128, 256)
"""Assignments per sequence, in training and in the tests."""
VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {},
    "selective": {"attn_selective": True},
    "selective, accumulate": {"attn_selective": True, "attn_selection_from": "accumulate"},
}


def sequences(batch: int, assignments: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (batch, assignments + VARIABLES): assignments, then questions; and the answers to these, -100 for none."""
    variables = torch.randint(VARIABLES, (batch, assignments), generator=generator)
    values = torch.randint(VALUES, (batch, assignments), generator=generator)
    asked = torch.rand(batch, VARIABLES, generator=generator).argsort(dim=1)
    hits = variables[:, None] == asked[:, :, None]
    last = (hits * torch.arange(1, assignments + 1)).argmax(dim=2)
    answers = values.gather(1, last).masked_fill(~hits.any(dim=2), -100)
    return torch.cat((variables * VALUES + values, PAIRS + asked), dim=1), answers


def make(variant: dict[str, Any], seed: int) -> Any:
    """A model of two layers."""
    backbone = {
        "d_model": 64,
        "n_layer": 2,
        "attn_layer_idx": "all",
        "attn": {"num_heads": 4, "rotary_emb_dim": 8},
        "attn_mlp_d_intermediate": 128,
        **variant,
    }
    spec = {"input": {"type": "tokens", "vocab_size": PAIRS + VARIABLES}, "backbone": backbone, "head": {"type": "lm"}}
    return hg.build(hg.ModelSpec.model_validate(spec), seed=seed)


@torch.no_grad()
def accuracy(model: Any, assignments: int, rounds: int = 8) -> float:
    """Share of right answers on sequences that are the same for all models, none of them seen in training."""
    generator, right, asked = torch.Generator().manual_seed(10_000 + assignments), 0, 0
    for _ in range(rounds):
        tokens, answers = sequences(64, assignments, generator)
        found = model(tokens)[:, -VARIABLES:, :VALUES].argmax(dim=-1)
        right, asked = right + int((found == answers).sum()), asked + int((answers >= 0).sum())
    return right / asked


def train(variant: dict[str, Any], seed: int, steps: int, every: int) -> dict[str, Any]:
    """Trains one model; returns its accuracy during and after training."""
    model, generator = make(variant, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    curve, began = [], time.perf_counter()
    for step in range(1, steps + 1):
        tokens, answers = sequences(64, TRAINED, generator)
        loss = F.cross_entropy(model(tokens)[:, -VARIABLES:, :VALUES].flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % every == 0:
            curve.append([step, accuracy(model, TRAINED, 4)])
    tested = {str(length): accuracy(model, length) for length in TESTED}
    return {"seed": seed, "curve": curve, "tested": tested, "seconds": round(time.perf_counter() - began, 1)}


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws accuracy over training, and over the length tested."""

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, (name, runs) in enumerate(found.items()):
        color = f"C{number}"
        steps = [step for step, _ in runs[0]["curve"]]
        values = [[run["curve"][index][1] for run in runs] for index in range(len(steps))]
        _band(left, steps, values, name, color)
        lengths = [int(length) for length in runs[0]["tested"]]
        _band(right, lengths, [[run["tested"][str(n)] for run in runs] for n in lengths], name, color)
    left.set(xlabel="training step", ylabel="share of right answers", ylim=(0, 1.03))
    left.set_title(f"{TRAINED} assignments, as trained", fontsize="medium")
    right.set(xlabel="assignments in the sequence", ylim=(0, 1.03), xscale="log", xticks=TESTED)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.minorticks_off()
    right.axvline(TRAINED, color="gray", linewidth=0.8, linestyle=":")
    right.set_title("after training, by length", fontsize="medium")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.axhline(1 / VALUES, color="gray", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _band(axes: Any, x: Sequence[int], values: Sequence[Sequence[float]], name: str, color: str) -> None:
    """The median of the seeds as a line, and all of them as a band."""
    axes.plot(x, [statistics.median(row) for row in values], label=name, color=color, marker="o", markersize=3)
    axes.fill_between(x, [min(row) for row in values], [max(row) for row in values], color=color, alpha=0.15)


def main() -> None:
    """Trains all variants with all seeds, in turn, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps per model")
    parser.add_argument("--seeds", type=int, default=3, help="models per variant")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/experiments"), help="folder of the results")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for name, variant in VARIANTS.items():
            run = train(variant, seed, options.steps, max(1, options.steps // 20))
            found[name].append(run)
            print(f"{name:24} seed {seed}  {run['tested']}  {run['seconds']} s", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"steps": options.steps, "trained": TRAINED, "variables": VARIABLES, "values": VALUES}
    text = json.dumps({"settings": settings, "runs": found}, indent=1) + "\n"
    (options.output / "selection.json").write_text(text, encoding="utf-8")
    draw(found, options.output / "selection.svg")


if __name__ == "__main__":
    main()
