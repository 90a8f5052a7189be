"""Trains image models on real images that come with a package: scikit-learn's 1797 handwritten digits of 8 x 8 pixels.

A Vim, an attention model of about its size (DeiT's layers) and a mix of the two train for the same number of epochs
with the same recipe; a fifth of the images, the same for every model and seed, is kept for the test.

    pip install -e '.[plot,train]' && python scripts/train_digits.py     # writes docs/experiments/digits.{json,svg}
    python scripts/train_digits.py --models vim --seeds 1 --out runs/vim-digits      # trains one model and saves it
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hybridgen as hg

CONFIG = Path(__file__).parents[1] / "configs" / "model" / "vim-digits.yaml"
_ATTENTION = (
    "+backbone.attn.num_heads=4",
    "+backbone.attn_mlp_d_intermediate=256",
    "+backbone.mlp={gated: false, gate_activation: gelu, bias: true}",
)
MODELS: dict[str, tuple[str, ...]] = {
    "vim": (),
    "deit": ("name=deit-digits", "input.cls_token=head", "backbone.n_layer=5", "~backbone.ssm",
             "+backbone.attn_layer_idx=all", "+backbone.norm={type: layer, eps: 1.0e-6}", *_ATTENTION),
    "hybrid": ("name=hybrid-digits", "+backbone.attn_layer_idx=2::3", *_ATTENTION),
}  # fmt: skip
"""Changes of the configuration for each model."""
LABELS = {"vim": "Vim", "deit": "attention (DeiT)", "hybrid": "two of three Vim, one of three attention"}
TEST_IMAGES, BATCH, SHIFT = 360, 32, 1


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (B, 1, 8, 8) and labels (B) to train on, then those of the test; as many of each digit as there should be.

    Pixels are between -1 and 1, as `hybridgen classify` gives them to a model of one channel.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    rows = train_test_split(
        range(len(found.target)), test_size=TEST_IMAGES, stratify=found.target, random_state=1, shuffle=True
    )
    images = torch.from_numpy(found.images).float()[:, None] / 16
    labels = torch.from_numpy(found.target).long()
    (train, test), mean, std = map(torch.tensor, rows), 0.5, 0.5
    images = (images - mean) / std
    return images[train], labels[train], images[test], labels[test]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, moved by at most SHIFT pixels along each axis; what comes in is background."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4, value=-1.0)
    down, right = torch.randint(2 * SHIFT + 1, (2, batch, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(batch)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def optimizer_of(model: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices alone: no biases, norms, embeddings of positions or classes, nor A and D of a scan."""
    named, exempt = dict(model.named_parameters()), model.no_weight_decay()
    kept = {name for name, parameter in named.items() if parameter.ndim <= 1 or name in exempt}
    groups = [
        {"params": [parameter for name, parameter in named.items() if name not in kept], "weight_decay": weight_decay},
        {"params": [named[name] for name in sorted(kept)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999))


def factor(step: int, steps: int, warm_up: float = 0.1) -> float:
    """Share of the learning rate at a step: it rises linearly, then falls along half a cosine to zero."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    model.eval()
    right = (model(images).argmax(dim=-1) == labels).float().mean()
    model.train()
    return float(right)


def train(
    name: str, seed: int, epochs: int, lr: float = 2e-3, weight_decay: float = 0.05
) -> tuple[Any, dict[str, Any]]:
    """Trains one model; returns it and its curves: mean loss and test accuracy of each epoch."""
    images, labels, test_images, test_labels = digits()
    model = hg.build(hg.load_spec(CONFIG, MODELS[name]), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # drop path
    optimizer = optimizer_of(model, lr, weight_decay)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    curve, began = [], time.perf_counter()
    model.train()
    for epoch in range(1, epochs + 1):
        losses = []
        for rows in torch.randperm(len(images), generator=generator).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(model(shifted(images[rows], generator)), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        right = accuracy(model, test_images, test_labels)
        curve.append([epoch, round(statistics.fmean(losses), 5), round(right, 5)])
        print(f"{name:7} seed {seed}  epoch {epoch:3}  loss {curve[-1][1]:.4f}  test accuracy {right:.2%}", flush=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = round(time.perf_counter() - began, 1)
    return model.eval(), {"seed": seed, "parameters": parameters, "seconds": seconds, "curve": curve}


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws training loss and test error over the epochs."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, (name, runs) in enumerate(found.items()):
        epochs = [row[0] for row in runs[0]["curve"]]
        for axes, column in ((left, 1), (right, 2)):
            values = [[run["curve"][index][column] for run in runs] for index in range(len(epochs))]
            _band(axes, epochs, values, LABELS[name], f"C{number}")
    left.set(xlabel="epoch", ylabel="training loss")
    left.set_title("training loss, label smoothing and drop path included", fontsize="medium")
    right.set(xlabel="epoch", ylabel="share of right answers", ylim=(0.9, 1.002))
    right.set_title(f"{TEST_IMAGES} test images", fontsize="medium")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _band(axes: Any, x: Sequence[int], values: Sequence[Sequence[float]], name: str, color: str) -> None:
    """The mean of the seeds as a line, and all of them as a band."""
    axes.plot(x, [statistics.fmean(row) for row in values], label=name, color=color, linewidth=1.4)
    axes.fill_between(x, [min(row) for row in values], [max(row) for row in values], color=color, alpha=0.15)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the models with all seeds, in turn, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=40, help="epochs per model")
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    parser.add_argument(
        "--out", type=Path, help="save the first seed's models here; the experiment is not written then"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/experiments"), help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.models}
    for seed in range(options.seeds):
        for name in options.models:
            model, run = train(name, seed, options.epochs)
            found[name].append(run)
            if options.out is not None and seed == 0:
                directory = options.out if len(options.models) == 1 else options.out / name
                hg.save(model, directory)
                print(f"saved in {directory}")
    for name, runs in found.items():
        last = [run["curve"][-1][2] for run in runs]
        spread = f"{min(last):.2%} to {max(last):.2%}" if len(last) > 1 else "one seed"
        took = statistics.median(run["seconds"] for run in runs)
        print(
            f"{name:7} {runs[0]['parameters']:,} parameters  {statistics.fmean(last):.2%} ({spread})  {took:.0f} s each"
        )
    if options.out is None:
        options.output.mkdir(parents=True, exist_ok=True)
        settings = {"epochs": options.epochs, "batch": BATCH, "shift": SHIFT, "test_images": TEST_IMAGES}
        text = json.dumps({"settings": settings, "runs": found}, indent=1) + "\n"
        (options.output / "digits.json").write_text(text, encoding="utf-8")
        draw(found, options.output / "digits.svg")


if __name__ == "__main__":
    main()
