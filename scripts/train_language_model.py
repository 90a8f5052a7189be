"""Trains small language models with transformers' Trainer on the documentation that comes with Python.

A hybrid of Mamba-2 and attention, a Transformer and Mamba-2 alone, 10 million parameters each, read the same batches in
the same order. Each becomes a directory that AutoModelForCausalLM and AutoTokenizer open, and that lm_eval scores.

    pip install -e '.[hf,plot]' && python scripts/train_language_model.py  # about five minutes each on two quiet cores
    python scripts/train_language_model.py --models hybrid --out runs/language    # one of them
    python scripts/train_language_model.py --smoke --out /tmp/smoke -o /tmp/smoke # seconds; says that all of it runs
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from language_scoring import Scorer, accuracy, harness, pairs_of
from language_text import Text, modules, order, questions, rows, split, train_tokenizer
from torch import Tensor

import hybridgen as hg

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
LABELS = {"hybrid": "hybrid: 9 Mamba-2, 3 attention", "transformer": "Transformer: 7", "mamba2": "Mamba-2: 13"}
PROMPTS = ("module tempcache\n    Utilities", "def read_lines(path, encoding='utf-8')\n    ")
SMALL = ("input.vocab_size=512", "backbone.d_model=64", "backbone.n_layer=4")
SMALL_PARTS = {
    "ssm": ("backbone.ssm.d_state=16", "backbone.ssm.headdim=32"),
    "attn": ("backbone.attn.num_heads=2", "backbone.attn.rotary_emb_dim=32", "backbone.attn_mlp_d_intermediate=128"),
}


@dataclass(frozen=True)
class Recipe:
    """How to train: the same for every model."""

    steps: int = 640
    batch: int = 4
    length: int = 256
    learning_rate: float = 1.0e-3
    warmup: int = 40
    evaluate: int = 80
    seed: int = 0
    small: bool = False


SMOKE = Recipe(steps=12, batch=4, length=64, learning_rate=5e-3, warmup=2, evaluate=6, small=True)


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of token ids in a given order, as Trainer takes them."""

    def __init__(self, ids: Tensor, numbers: Tensor) -> None:
        self.ids, self.numbers = ids, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.ids[self.numbers[index]]
        return {"input_ids": row, "labels": row}


@dataclass(frozen=True)
class Data:
    """What all models read."""

    text: Text
    tokenizer: Any
    train: Tensor
    validation: Tensor

    def facts(self, recipe: Recipe) -> dict[str, Any]:
        """Sizes of it, for the report."""
        validation = [str(module) for module in self.text.validation]
        return {
            "python": platform.python_version(),
            "fingerprint": self.text.fingerprint(),
            "train_documents": len(self.text.train),
            "train_bytes": sum(len(text.encode()) for text in self.text.train),
            "train_tokens": self.train.numel(),
            "validation_documents": len(validation),
            "validation_bytes": sum(len(text.encode()) for text in validation),
            "validation_tokens": self.validation.numel(),
            "overlap": round(self.text.overlap(), 4),
            "validation_modules": [module.name for module in self.text.validation],
            "epochs": round(recipe.steps * recipe.batch / len(self.train), 3),
        }


def read_data(recipe: Recipe) -> Data:
    """Reads the text, trains the tokenizer on its training part, and writes both parts as token ids."""
    text = split(modules(60 if recipe.small else None), topics=not recipe.small)
    tokenizer = train_tokenizer(text.train, spec_of("hybrid", recipe).input.vocab_size)
    validation = [str(module) for module in text.validation]
    return Data(text, tokenizer, rows(tokenizer, text.train, recipe.length), rows(tokenizer, validation, recipe.length))


def spec_of(name: str, recipe: Recipe) -> Any:
    """The spec of a model, from its YAML file."""
    path = CONFIGS / f"language-10m-{name}.yaml"
    if not recipe.small:
        return hg.load_spec(path)
    parts = {"hybrid": ("ssm", "attn"), "transformer": ("attn",), "mamba2": ("ssm",)}[name]
    return hg.load_spec(path, (*SMALL, *(change for part in parts for change in SMALL_PARTS[part])))


def make(name: str, recipe: Recipe, tokenizer: Any) -> Any:
    """A model of transformers from a YAML file, with random weights."""
    import hybridgen.hf

    model = hybridgen.hf.wrap(hg.build(spec_of(name, recipe), seed=recipe.seed))
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    return model


def trainer_of(model: Any, recipe: Recipe, data: Data, directory: Path) -> Any:
    """The Trainer of a model; every model gets the same batches."""
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        output_dir=str(directory),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=recipe.warmup,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=not recipe.small,  # autocast: 1.6 x float32 on a processor with avx512_bf16
        train_sampling_strategy="sequential",  # the order is that of Batches
        eval_strategy="steps",
        eval_steps=recipe.evaluate,
        eval_on_start=True,
        prediction_loss_only=True,
        logging_steps=10 if not recipe.small else 3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=recipe.seed,
    )
    training = Batches(data.train, order(len(data.train), recipe.steps * recipe.batch, recipe.seed))
    validation = Batches(data.validation, torch.arange(len(data.validation)))
    return Trainer(model, settings, train_dataset=training, eval_dataset=validation, processing_class=data.tokenizer)


def train(name: str, recipe: Recipe, data: Data, directory: Path) -> dict[str, Any]:
    """Trains a model, saves it with its tokenizer, and returns its curves."""
    model = make(name, recipe, data.tokenizer)
    trainer = trainer_of(model, recipe, data, directory)
    wall, processor, load = time.perf_counter(), time.process_time(), os.getloadavg()[1]
    trainer.train()
    took = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
    trainer.save_model(str(directory))
    history = trainer.state.log_history
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes_4096": hg.cost(spec_of(name, recipe), seq_len=4096).metrics()["state_bytes"],
        **{key: round(value, 1) for key, value in took.items()},
        "load": [round(load, 2), round(os.getloadavg()[1], 2)],
        "threads": torch.get_num_threads(),
        "train": [[row["step"], round(row["loss"], 5)] for row in history if "loss" in row],
        "validation": [[row["step"], round(row["eval_loss"], 5)] for row in history if "eval_loss" in row],
    }


def opened(directory: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of a directory, as any user of transformers opens them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hybridgen.hf  # noqa: F401  # the Auto classes know the models from here on

    return AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)


def score(directory: Path, data: Data, with_harness: bool) -> dict[str, Any]:
    """Scores the validation documents and the questions with a saved model; and with lm_eval, if it is to compare."""
    scorer = Scorer(*opened(directory))
    texts = [str(module) for module in data.text.validation]
    asked = questions(data.text.validation, 200)
    pairs = pairs_of(asked)
    rolling = scorer.rolling(texts)
    scores = [found for found, _ in scorer.loglikelihood(pairs)]
    length = sum(len(text.encode()) for text in texts)
    result = {
        "bits_per_byte": -sum(rolling) / math.log(2) / length,
        "questions": len(asked),
        **accuracy(asked, scores),
    }
    if with_harness:
        their_rolling, theirs = harness(directory, texts, pairs)
        result["lm_eval"] = {
            "bits_per_byte": -sum(their_rolling) / math.log(2) / length,
            **accuracy(asked, theirs),
            "greatest_difference_nats": max(
                abs(one - other) for one, other in zip(rolling + scores, their_rolling + theirs, strict=True)
            ),
        }
    return result


@torch.no_grad()
def samples(directory: Path, tokens: int) -> list[str]:
    """What the saved model writes behind each prompt."""
    model, tokenizer = opened(directory)
    written = []
    for prompt in PROMPTS:
        torch.manual_seed(0)
        ids = tokenizer(tokenizer.eos_token + prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=tokens, do_sample=True, temperature=0.8, top_k=50)
        written.append(tokenizer.decode(made[0], skip_special_tokens=True))
    return written


def speed(names: Sequence[str], recipe: Recipe, data: Data, rounds: int = 5, steps: int = 4) -> dict[str, Any]:
    """Tokens per second of training steps: models take turns; medians, and the load of the machine while measured."""
    models = {name: make(name, recipe, data.tokenizer).train() for name in names}
    optimizers = {name: torch.optim.AdamW(model.parameters(), 1e-4) for name, model in models.items()}
    found: dict[str, list[float]] = {name: [] for name in names}
    ids = data.train[: recipe.batch]
    for turn in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            for _ in range(steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=not recipe.small):
                    loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizers[name].step()
                optimizers[name].zero_grad()
            if turn:  # the first one warms up
                found[name].append(steps * ids.numel() / (time.perf_counter() - began))
    rates = {
        name: {"median": sorted(rate)[len(rate) // 2], "all": [round(one) for one in rate]}
        for name, rate in found.items()
    }
    return {"tokens_per_s": rates, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)}


def draw(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Draws training and validation loss over the steps."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("agg")
    mpl.rcParams["svg.fonttype"] = "none"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for number, (name, run) in enumerate(found.items()):
        left.plot(*zip(*run["train"], strict=True), color=f"C{number}", linewidth=1.1, label=LABELS[name])
        right.plot(
            *zip(*run["validation"], strict=True), color=f"C{number}", linewidth=1.4, marker="o", markersize=3,
            label=f"{LABELS[name]}   {run['validation'][-1][1]:.3f}",
        )  # fmt: skip
    left.set(xlabel="step", ylabel="loss, nats per token", ylim=(None, 7.0))
    left.set_title("training, mean of ten steps", fontsize="medium")
    right.set(xlabel="step")
    right.set_title("validation: modules that no model trained on", fontsize="medium")
    right.legend(frameon=False, title="layers, and the last loss", alignment="left")
    for axes in (left, right):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "language.svg", metadata={"Date": None})
    figure.savefig(folder / "language.png", dpi=150)
    pyplot.close(figure)


def write(document: dict[str, Any], path: Path) -> None:
    """Writes JSON."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def collect(recipe: Recipe, data: Data, out: Path, output: Path, with_harness: bool) -> dict[str, Any]:
    """Scores the models in `out`, lets them write, and writes JSON and pictures of all that was found."""
    runs = {}
    for name in (name for name in LABELS if (out / name / "run.json").is_file()):
        directory = out / name
        run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        run |= {
            "scores": score(directory, data, with_harness),
            "samples": samples(directory, 16 if recipe.small else 160),
        }
        print(f"{name}: {run['scores']}", flush=True)
        runs[name] = run
    if not runs:
        raise SystemExit(f"no model was trained in {out}: name some with --models")
    document: dict[str, Any] = {"recipe": asdict(recipe), "data": data.facts(recipe), "runs": runs}
    if (out / "speed.json").is_file():
        document["speed"] = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    output.mkdir(parents=True, exist_ok=True)
    write(document, output / "language.json")
    draw(runs, output)
    return document


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the models in turn, scores them, lets them write, and collects what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(LABELS), default=list(LABELS), help="none: only collect")
    parser.add_argument("--steps", type=int, help=f"training steps of each model, {Recipe.steps} if not given")
    parser.add_argument("--smoke", action="store_true", help="tiny models, little text and few steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    parser.add_argument("--lm-eval", action="store_true", help="score with lm_eval too, and compare")
    parser.add_argument("--speed", action="store_true", help="measure training steps, models taking turns")
    parser.add_argument("--out", type=Path, default=Path("runs/language"), help="folder of the trained models")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/experiments"), help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = SMOKE if options.smoke else Recipe()
    recipe = recipe if options.steps is None else replace(recipe, steps=options.steps)
    data = read_data(recipe)
    for name in options.models:
        run = train(name, recipe, data, options.out / name)
        write(run, options.out / name / "run.json")
        print(
            f"{name}: {run['parameters']:,} parameters, last validation loss {run['validation'][-1][1]:.4f}", flush=True
        )
    if options.speed:
        write(speed(tuple(LABELS), recipe, data), options.out / "speed.json")
    collect(recipe, data, options.out, options.output, options.lm_eval)


if __name__ == "__main__":
    main()
