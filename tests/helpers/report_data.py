"""Data of reports as sweeps make them, of any size: costs that follow from the values, tasks, curves, failures."""

import math
from copy import deepcopy
from functools import cache
from random import Random
from typing import Any

import hybridgen as hg
from hybridgen.spec import ModelSpec

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">&amp;"
KEYS = [
    ("backbone.attn_layer_idx", "attn_layer_idx",
     ["none", "[0]", "[3]", "[7]", "[0, 4]", "[3, 7]", "[0, 1]", "[1, 3, 5, 7]", "all"]),
    ("backbone.ssm.d_state", "d_state", ["16", "32", "64", "128", "256"]),
    ("backbone.n_layer", "n_layer", ["8", "12", "16", "24"]),
    ("backbone.d_model", "d_model", ["256", "384", "512", "768"]),
    ("backbone.mlp.activation", "activation", ["silu", "gelu", "relu2"]),
    ("backbone.residual_attn", "residual_attn", ["true", "false"]),
]  # fmt: skip
TASKS = {"recall": 0.02, "parity": 0.5, "selective_copying": 0.06, "mqar": 0.01}
_COSTS = [
    ("params", "count"), ("active_params", "count"), ("non_embedding_params", "count"), ("weight_bytes", "bytes"),
    ("prefill_flops", "flops"), ("decode_flops", "flops"), ("train_flops", "flops"), ("state_bytes", "bytes"),
    ("kv_bytes", "bytes"), ("ssm_bytes", "bytes"), ("activation_bytes", "bytes"), ("train_memory", "bytes"),
]  # fmt: skip
_MEASURED = [
    ("prefill_ms", "prefill", "ms", "latency"), ("decode_ms", "decode", "ms", "latency"),
    ("peak_bytes", "peak memory", "bytes", "peak_memory"), ("perplexity", "perplexity", "number", "lm"),
    ("lm_seconds", "training time", "seconds", "lm"),
]  # fmt: skip
METRICS: list[dict[str, Any]] = [
    {"name": name, "label": label, "unit": unit, "goal": goal, "objective": objective}
    for name, label, unit, goal, objective in [
        *((name, name.replace("_", " "), unit, "min", "cost") for name, unit in _COSTS),
        *((name, label, unit, None if name == "lm_seconds" else "min", kind) for name, label, unit, kind in _MEASURED),
        *((f"accuracy.{task}", f"{task} accuracy", "share", "max", "tasks") for task in TASKS),
        *((f"steps.{task}", f"{task} steps", "count", "min", "tasks") for task in TASKS),
    ]
]
_FAILURES = [
    ("lm", "timeout", "took longer than 600 s"),
    ("latency", "memory", "used 8.2 GiB of the 8 GiB it may use"),
    ("tasks", "killed", "ended by signal 9 (SIGKILL)"),
    ("tasks", "raised", "RuntimeError: shape mismatch: [2, 64, 256] and [2, 64, 512] in layer 3"),
]


@cache
def _pictures() -> list[str]:
    found = []
    for attention in ([], [3], [3, 7], list(range(8))):
        blocks = {
            "m": {"mixer": {"type": "mamba2", "headdim": 32}},
            "a": {"mixer": {"type": "attention", "num_heads": 4}},
        }
        backbone = {"d_model": 64, "blocks": blocks, "pattern": ["a" if i in attention else "m" for i in range(8)]}
        document = {"input": {"type": "tokens", "vocab_size": 100}, "backbone": backbone, "head": {"type": "lm"}}
        found.append(hg.picture(ModelSpec.model_validate(document), "svg"))
    return found


def report_data(points: int, seed: int = 0) -> dict[str, Any]:
    """What a report of a sweep over `points` models shows, references and failures among them."""
    random = Random(seed)
    keys = KEYS[: 3 if points < 50 else len(KEYS)]
    rows = [_row(random, keys, number, "point") for number in range(1, points + 1)]
    rows += [_row(random, keys, 0, "attention"), _row(random, keys, 0, "mlp")]
    for index, row in enumerate(rows):
        row["id"] = f"{index * 7919 + 1:012x}"
        row["command"] = f"hybridgen build out/{row['id']}/spec.yaml -o model-{row['id']}"
    _fail(rows)
    invalid = {
        "points": list(range(points + 1, points + 1 + max(2, points // 50))),
        "values": {"backbone.d_model": "250"},
        "faults": ["backbone.ssm: d_model * expand = 500 is not divisible by headdim 64", "backbone.d_model: take 256"],
    }
    return {
        "title": "Placement and state size of hybrids",
        "generated": "2026-11-24T02:00:00+00:00",
        "version": hg.__version__,
        "folder": "out",
        "headline": "accuracy.recall",
        "notes": [],
        "doubts": ["recall: no interval lies above chance (0.020)."],
        "warnings": ["tiny measures how fast models learn, not how well they end"],
        "sweeps": [
            {
                "command": "hybridgen sweep tiny-hybrid.yaml 'backbone.attn_layer_idx=none,[3]' -o out",
                "folder": "/home/someone/models", "started": "2026-11-23T20:00:00+00:00", "combinations": points + 5,
                "counted": "combinations",
                "invalid": [invalid], "notes": ["3 combinations are the same model as another"],
            }
        ],
        "keys": [{"key": key, "label": label} for key, label, _ in keys],
        "metrics": deepcopy(METRICS),
        "rows": rows,
        "tasks": [_task(random, rows, task, chance) for task, chance in TASKS.items()],
        "curves": _curves(random, rows),
        "effects": [_effect(rows, metric["name"], key) for metric in METRICS for key, _, _ in keys],
        "pictures": _pictures(),
    }  # fmt: skip


def _row(random: Random, keys: list[tuple[str, str, list[str]]], number: int, role: str) -> dict[str, Any]:
    values = {key: random.choice(options) for key, _, options in keys}
    if role != "point":
        values = {}
    attention = values.get("backbone.attn_layer_idx", "all" if role == "attention" else "none")
    heads = {"none": 0, "all": 8}.get(attention, attention.count(",") + 1)
    width, depth = int(values.get("backbone.d_model", 512)), int(values.get("backbone.n_layer", 8))
    state = int(values.get("backbone.ssm.d_state", 64))
    params = int(depth * width * width * random.uniform(6, 7) + 50_000 * width)
    skill = 0.1 + 0.05 * heads + 0.1 * math.log2(state / 8) + random.gauss(0, 0.07) - (0.5 if role == "mlp" else 0)
    kv, ssm = heads * width * 4096 * 4, depth * width * state * 4
    found = dict(zip([name for name, _ in _COSTS], [
        params, params, params - 50_000 * width, params * 2, params * 8192, params * 2 + 2 * kv, params * 6 * 4096,
        kv + ssm, kv, ssm, params * 11, params * 18,
    ], strict=True))  # fmt: skip
    found |= {
        "prefill_ms": params / 2e5 * random.uniform(0.9, 1.1),
        "decode_ms": params / 6e6 * random.uniform(0.9, 1.1),
    }
    found |= {"peak_bytes": params * 6, "perplexity": 40 - 12 * skill + random.gauss(0, 1), "lm_seconds": params / 1e6}
    for task, chance in TASKS.items():
        accuracy = min(1.0, max(chance, chance + (1 - chance) * skill * random.uniform(0.8, 1.2)))
        found[f"accuracy.{task}"] = round(accuracy, 4)
        found[f"steps.{task}"] = int(4000 * (1.3 - accuracy)) if accuracy > 0.6 else None
    return {
        "number": number, "name": None, "role": role, "values": values, "width": None,
        "overrides": [f"{key}={value}" for key, value in values.items()], "metrics": found, "failures": {},
        "seconds": params / 4e5, "picture": {0: 0, 1: 1, 2: 2}.get(heads, 3), "missing": [],
    }  # fmt: skip


def _fail(rows: list[dict[str, Any]]) -> None:
    """Lets every ninth point fail in one objective, and leaves the last point without its language model."""
    points = [row for row in rows if row["role"] == "point"]
    for index, row in enumerate(points[4::9]):
        objective, kind, message = _FAILURES[index % len(_FAILURES)]
        row["failures"] = {objective: {"kind": kind, "message": message}}
    points[-1]["missing"] = [] if points[-1]["failures"] else ["lm"]
    for row in points:
        for metric in METRICS:
            if metric["objective"] in (*row["failures"], *row["missing"]):
                row["metrics"][metric["name"]] = None


def _learned(rows: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["metrics"][f"accuracy.{task}"] is not None]


def _task(random: Random, rows: list[dict[str, Any]], task: str, chance: float) -> dict[str, Any]:
    results = []
    for row in _learned(rows, task):
        accuracy, steps = row["metrics"][f"accuracy.{task}"], row["metrics"][f"steps.{task}"]
        half = random.uniform(0.01, 0.08)
        results.append({
            "id": row["id"], "accuracy": accuracy, "interval": [max(0.0, accuracy - half), min(1.0, accuracy + half)],
            "seeds": 2, "reached": 0 if steps is None else 2, "threshold_steps": steps,
        })  # fmt: skip
    return {"task": task, "chance": chance, "threshold": 0.6, "results": results}


def _curves(random: Random, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two tasks and the language model; fewer points a curve where there are many."""
    count = 40 if len(rows) < 50 else 10
    steps = [round(4000 * (i + 1) / count) for i in range(count)]
    found = []
    for task in ("recall", "parity"):
        for row in _learned(rows, task):
            end, middle = row["metrics"][f"accuracy.{task}"], random.uniform(500, 2500)
            for seed in range(2):
                noise = random.gauss(0, 150)
                points = [
                    [x, TASKS[task] + (end - TASKS[task]) / (1 + math.exp((middle + noise - x) / 400))] for x in steps
                ]
                found.append(
                    {
                        "id": row["id"],
                        "group": task,
                        "label": f"seed {seed}",
                        "x": "step",
                        "y": "accuracy",
                        "points": points,
                    }
                )
    for row in rows:
        end = row["metrics"]["perplexity"]
        if end is not None:
            points = [[x, math.log(end) + 4 * math.exp(-x / 700) + random.gauss(0, 0.02)] for x in steps]
            found.append(
                {"id": row["id"], "group": "lm", "label": "seed 0", "x": "step", "y": "loss", "points": points}
            )
    return found


def _effect(rows: list[dict[str, Any]], metric: str, key: str) -> dict[str, Any]:
    options = next(options for name, _, options in KEYS if name == key)
    values, everything = [], []
    for option in options:
        numbers = [row["metrics"][metric] for row in rows if row["values"].get(key) == option]
        numbers = [number for number in numbers if number is not None]
        if not numbers:
            continue
        mean = sum(numbers) / len(numbers)
        spread = math.sqrt(sum((one - mean) ** 2 for one in numbers) / max(1, len(numbers) - 1) / len(numbers))
        low, high = (None, None) if len(numbers) < 2 else (mean - 2 * spread, mean + 2 * spread)
        values.append({"label": option, "count": len(numbers), "mean": mean, "low": low, "high": high})
        everything += numbers
    total = sum(everything) / max(1, len(everything))
    squares = sum(one["count"] * (one["mean"] - total) ** 2 for one in values)
    whole = sum((one - total) ** 2 for one in everything)
    share = squares / whole if whole and len(values) > 1 else None
    by_chance = None if share is None else (len(values) - 1) / (len(everything) - 1)
    return {"metric": metric, "key": key, "values": values, "share": share, "by_chance": by_chance}
