"""The text that train_language_model.py trains on: what the documentation of Python's standard library says.

Every module of the standard library becomes a document, made of its docstrings with a line of heading each, and so does
every topic of `help()` (the language reference, `pydoc_data.topics`). All of it comes with Python, nothing is
downloaded, and no module is imported. The text differs a little from one version of Python to the next.
"""

import ast
import hashlib
import random
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

END = "<|endoftext|>"
"""The one special token: it stands in front of every document."""
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3"}
"""Folders left out: tests, and parts that packages of Python's distributors often lack."""


@dataclass(frozen=True)
class Entry:
    """A docstring and the line that names what it describes."""

    heading: str
    text: str

    def __str__(self) -> str:
        return f"{self.heading}\n{textwrap.indent(self.text, '    ')}"


@dataclass(frozen=True)
class Module:
    """What a module says of itself."""

    name: str
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.entries)) + "\n"

    @property
    def validates(self) -> bool:
        """Whether the module is kept for validation: a package goes as a whole, by its name's SHA-256."""
        return hashlib.sha256(f"language{self.name.partition('.')[0]}".encode()).digest()[0] < 24


def modules(limit: int | None = None) -> list[Module]:
    """Reads the docstrings of the standard library's modules, or of about `limit` of them, evenly by their names."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts))
    if limit is not None:
        paths = paths[:: max(1, len(paths) // limit)][:limit]
    found = []
    for path in paths:
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        entries = tuple(_entries(ast.parse(path.read_text(encoding="utf-8")), name))
        if entries:
            found.append(Module(name, entries))
    return found


def _entries(tree: ast.AST, name: str) -> Iterator[Entry]:
    """The docstring of a module, class or function, then those inside it, in their order."""
    text = ast.get_docstring(cast(ast.Module, tree))
    if text:
        yield Entry(_heading(tree, name), text)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = node.name if isinstance(tree, ast.Module) else f"{name}.{node.name}"
            yield from _entries(node, inner)


def _heading(node: ast.AST, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}({', '.join(ast.unparse(base) for base in node.bases)})"
    arguments = ast.unparse(cast(ast.FunctionDef, node).args)
    return f"def {name}({arguments})"


@dataclass(frozen=True)
class Text:
    """Documents to train on, and modules to validate with, of which no docstring stands among the former."""

    train: tuple[str, ...]
    validation: tuple[Module, ...]

    def overlap(self, window: int = 60, step: int = 20) -> float:
        """Share of the validation text's windows of so many characters that stand somewhere in the training text."""
        known = "\0".join(self.train)
        texts = [str(module) for module in self.validation]
        windows = [text[start : start + window] for text in texts for start in range(0, len(text) - window, step)]
        return sum(one in known for one in windows) / max(1, len(windows))

    def fingerprint(self) -> str:
        """Twelve digits of a SHA-256 of all of it."""
        everything = "\0".join([*self.train, "\0", *map(str, self.validation)])
        return hashlib.sha256(everything.encode()).hexdigest()[:12]


def split(found: Sequence[Module], topics: bool = True) -> Text:
    """Splits by module; topics of `help()`, which quote each other, are all for training.

    A docstring of a validation module that stands word for word in training text too is taken out of validation.
    """
    train = [str(module) for module in found if not module.validates]
    if topics:
        from pydoc_data.topics import topics as help_topics

        train += [text.strip() + "\n" for _, text in sorted(help_topics.items())]
    seen = {entry.text for module in found if not module.validates for entry in module.entries}
    kept = [
        Module(module.name, tuple(entry for entry in module.entries if entry.text not in seen))
        for module in found
        if module.validates
    ]
    return Text(tuple(train), tuple(module for module in kept if module.entries))


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Any:
    """Trains a byte-level BPE on documents; every text can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def rows(tokenizer: Any, documents: Sequence[str], length: int) -> Tensor:
    """Token ids (rows, length) of documents one behind the other, each begun by END; what is left over is dropped."""
    ids = [token for document in documents for token in tokenizer(END + document)["input_ids"]]
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def order(count: int, wanted: int, seed: int) -> Tensor:
    """Numbers (wanted,) of rows: all `count` of them in an order of chance, then again in another, and so on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))])[:wanted]


@dataclass(frozen=True)
class Question:
    """Which first line of a docstring belongs to this heading?"""

    context: str
    choices: tuple[str, ...]
    answer: int


def questions(found: Sequence[Module], limit: int, choices: int = 4, seed: int = 0) -> list[Question]:
    """Asks which first line of a docstring belongs to a function, among those of other functions."""
    chosen = random.Random(seed)
    known: dict[str, str] = {}
    for entry in (entry for module in found for entry in module.entries if entry.heading.startswith("def ")):
        line = entry.text.partition("\n")[0]
        if 20 <= len(line) <= 80 and line.endswith(".") and line not in known.values():
            known.setdefault(entry.heading, line)
    asked = chosen.sample(sorted(known), min(limit, len(known)))
    made = []
    for heading in asked:
        others = chosen.sample(sorted(set(known.values()) - {known[heading]}), choices - 1)
        lines = sorted([known[heading], *others], key=lambda _: chosen.random())
        made.append(Question(heading, tuple(f"\n    {line}" for line in lines), lines.index(known[heading])))
    return made
