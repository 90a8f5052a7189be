"""How well a model learns the user's text: a small language-model training on the bytes of a file."""

import hashlib
import math
import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from hybridgen.errors import HybridgenError
from hybridgen.objectives.base import Measurement, Objective
from hybridgen.objectives.lists import Rates
from hybridgen.objectives.setting import Count, Device, Length
from hybridgen.probing.specs import Ends, spec_for
from hybridgen.spec import ModelSpec

BYTES = 256
"""Tokens are bytes: any text can be written, no tokenizer is needed, and losses of different models compare."""


class LmObjective(Objective):
    """Held-out loss of next-byte prediction, after a short training on a text file.

    The end of the file is held out; the training never sees it. Models get the ends that bytes need, their stacks stay.

    Attributes:
        text: The file; the path is made absolute, for workers run elsewhere.
        sha256: Of the file when the objective was made. Results of another file are not taken for its results.
        seq_len: Bytes that are predicted in a row.
        batch_size: Rows per step.
        steps: Of training; the rate rises in the first 20 (at most a fifth of them) and falls as a cosine.
        learning_rate: Rates, of which the one with the lowest held-out loss is reported.
        seeds: How many, each with its own weights and its own rows; 0, 1, ...
        held_out: Share of the file, at its end, that is tested on.
        windows: The most rows of a test; of a longer held-out part, so many are taken, evenly spread.
        evaluate_every: Steps between tests.
        sample: Bytes that the trained model writes.
        dtype: Of the computation; with `bfloat16` weights stay float32 (autocast).
        device: Where models run.
    """

    kind: ClassVar[str] = "lm"

    text: str
    sha256: str = Field(default_factory=lambda values: _sha256_of(Path(values.get("text", ""))))
    seq_len: Length = 128
    batch_size: Count = 16
    steps: Count = 300
    learning_rate: Rates = Field(default_factory=lambda: [3e-3])
    seeds: Count = 1
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    windows: Count = 256
    evaluate_every: Count = 50
    sample: Annotated[int, Field(ge=0)] = 200
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Device = "cpu"

    @field_validator("text")
    @classmethod
    def _absolute(cls, text: str) -> str:
        if not text or "\0" in text:
            raise ValueError("write the name of a text file")
        return os.path.abspath(Path(text).expanduser())

    def check(self, spec: ModelSpec) -> None:
        """Refuses models that are not causal or read images, and files that are not there or too short."""
        spec_for(spec, Ends("lm", "lm", BYTES))
        size = self._size()
        if min(self.first_held_out(size), size - self.first_held_out(size)) <= self.seq_len:
            least = math.ceil((self.seq_len + 1) / min(self.held_out, 1 - self.held_out)) + 1
            raise HybridgenError(
                f"{self.text}: has {size:,} bytes; training and held-out text need a row of seq_len + 1 = "
                f"{self.seq_len + 1} bytes each, so about {least:,} with held_out={self.held_out:g}: give a longer "
                f"text, or a smaller seq_len"
            )

    def measure(self, spec: ModelSpec) -> Measurement:
        """Trains the model with each rate and seed, and tells each test."""
        from hybridgen.objectives.lm_training import Text, train_all

        self.check(spec)
        if _sha256_of(Path(self.text)) != self.sha256:
            raise HybridgenError(
                f"{self.text} has changed since the sweep began; start the sweep again to measure with the new one"
            )
        size = self._size()
        text = Text(self.text, size, self.first_held_out(size), self.seq_len, self.windows)
        loss, details = train_all(spec_for(spec, Ends("lm", "lm", BYTES)), text, self)
        metrics = {
            "lm.loss": loss,
            "lm.bits_per_byte": loss / math.log(2),
            "lm.perplexity": math.exp(loss) if loss < 700 else math.inf,
        }
        return Measurement(metrics, details)

    def first_held_out(self, size: int) -> int:
        """The number of the first byte that is held out, of a file of so many."""
        return size - math.floor(size * self.held_out)

    def _size(self) -> int:
        file = Path(self.text)
        try:
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
        except OSError as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise HybridgenError(f"lm: text: {reason}: {file}") from None
        if not file.is_file():
            raise HybridgenError(f"lm: text: this is no regular file: {file}")
        return size


def _sha256_of(file: Path) -> str:
    """Of a file; empty where it cannot be read, of which `check` speaks."""
    if not file.is_file():  # reading a pipe would wait, and /dev/zero has no end
        return ""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""
