"""Vision Mamba beside DeiT of the same code base, and beside Vim computed the way upstream's reference path does it.

vim-tiny and deit-tiny with random weights, float32, no gradients. Candidates take turns in one process and medians are
compared, so that a busy machine moves all of them; memory is the growth of the peak of a fresh process. Sections: small
(224 px, batch 1 and 8), sizes (224 to 1248 px), memory (1248 px), gates (all activations).

What upstream published is another comparison, and `published` prints it beside: its 2.8 x and 86.8 % are of Vim-Ti and
DeiT-Ti as backbones at 1248 px on a GPU that is not named, without batch size, dtype or kind of attention; its own
figure has both as fast as each other at 512 px, and DeiT's memory at 1248 px is beyond the 80 GB of the plot.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchlib import measure
from torch import Tensor, nn

import hybridgen as hg
from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.backends import use_backend

CONFIGS = Path(__file__).parent.parent / "configs/model"
SIZES = (224, 384, 512, 768, 1024, 1248)
PUBLISHED = {512: "1.0", 640: "1.1", 738: "1.05", 1024: "2.2", 1248: "2.8"}
"""Vim-Ti's images per second over DeiT-Ti's, read off upstream's figure."""
Run = Callable[[], object]


class UpstreamMixer(nn.Module):
    """Vim's v2 mixer as upstream runs it without its CUDA kernels: exp(dt A) of all tokens, then a loop over them."""

    def __init__(self, mixer: Any) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, state: object = None, span: object = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        m, T = self.mixer, x.shape[1]
        xz = F.linear(x, m.in_proj.weight).transpose(1, 2)
        there, back = self._direction(xz, T, ""), self._direction(xz.flip(-1), T, "_b")
        return F.linear(((there + back.flip(-1)) / 2).transpose(1, 2), m.out_proj.weight)

    def _direction(self, xz: Tensor, T: int, suffix: str) -> Tensor:
        m = self.mixer
        conv, dt_proj = getattr(m, f"conv1d{suffix}"), getattr(m, f"dt_proj{suffix}")
        u, z = xz.chunk(2, dim=1)
        u = F.silu(F.conv1d(u, conv.weight, conv.bias, padding=conv.width - 1, groups=u.shape[1])[..., :T])
        low = F.linear(u.transpose(1, 2), getattr(m, f"x_proj{suffix}").weight)
        dt, B, C = low.split((m.dt_rank, m.spec.d_state, m.spec.d_state), dim=-1)
        dt = F.softplus((dt @ dt_proj.weight.t()).transpose(1, 2) + dt_proj.bias[:, None])
        A = -getattr(m, f"A{suffix}_log").exp()
        decay = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
        entering = torch.einsum("bdl,bln,bdl->bdln", dt, B, u)
        h = decay.new_zeros(*decay.shape[:2], decay.shape[3])
        outputs = []
        for t in range(T):
            h = decay[:, :, t] * h + entering[:, :, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
        y = torch.stack(outputs, dim=2) + u * getattr(m, f"D{suffix}")[:, None]
        return y * F.silu(z)


class MaterialisedAttention(nn.Module):
    """softmax(q k^T) v with the table of all scores, as attention was written before it was fused."""

    def __init__(self, mixer: Any) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, state: object = None, span: object = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        m = self.mixer
        heads = m.in_proj(x).unflatten(-1, (3, m.spec.num_heads, m.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        y = torch.softmax(q * m.head_dim**-0.5 @ k.transpose(-1, -2), dim=-1) @ v
        return m.out_proj(y.transpose(1, 2).flatten(2))


def build(name: str, size: int, gate: str | None = None) -> Any:
    """A model of configs/model for images of this size."""
    overrides = [f"input.image_size={size}", *([f"backbone.ssm.gate_activation={gate}"] if gate else [])]
    return hg.build(hg.load_spec(str(CONFIGS / f"{name}.yaml"), overrides=overrides), seed=0).eval()


def with_mixers(model: Any, kind: type[nn.Module]) -> Any:
    """The model with every mixer computed in another way, from the same weights."""
    for block in model.backbone.layers:
        block.mixer = kind(block.mixer)
    return model


def upstream(size: int) -> Run:
    """vim-tiny on upstream's reference path; norms and sums are PyTorch's too."""
    model = with_mixers(build("vim-tiny", size), UpstreamMixer)

    def run(images: Tensor) -> Tensor:
        with use_backend("torch"):
            return model(images)

    return run


CANDIDATES: dict[str, Callable[[int], Any]] = {
    "vim": lambda size: build("vim-tiny", size),
    "deit, SDPA": lambda size: build("deit-tiny", size),
    "deit, materialised": lambda size: with_mixers(build("deit-tiny", size), MaterialisedAttention),
    "vim, upstream's way": upstream,
}


def compare(title: str, runs: dict[str, Run], seconds: float) -> None:
    """One line: milliseconds, and each as a multiple of the first."""
    times = {name: statistics.median(values) for name, values in measure(runs, seconds).items()}
    first = next(iter(times.values()))
    parts = [f"{name} {value * 1e3:.1f} ms ({value / first:.2f} x)" for name, value in times.items()]
    print(f"{title:18s} " + "   ".join(parts), flush=True)


def made(names: tuple[str, ...], size: int, images: Tensor) -> dict[str, Run]:
    """Runs of these candidates; those of one architecture must agree."""
    models = {name: CANDIDATES[name](size) for name in names}
    for ours, other in (("vim", "vim, upstream's way"), ("deit, SDPA", "deit, materialised")):
        if ours in models and other in models:
            torch.testing.assert_close(models[ours](images), models[other](images), rtol=1e-3, atol=1e-3)
    return {name: lambda model=model: model(images) for name, model in models.items()}


def small(seconds: float) -> None:
    """224 px, batch 1 and 8."""
    for batch in (1, 8):
        images = torch.randn(batch, 3, 224, 224)
        runs = made(("vim", "deit, SDPA", "deit, materialised", "vim, upstream's way"), 224, images)
        compare(f"224 px, batch {batch}", runs, seconds)


def sizes(seconds: float) -> None:
    """Batch 1, up to 6085 tokens."""
    for size in SIZES:
        images = torch.randn(1, 3, size, size)
        compare(f"{size} px, batch 1", made(("vim", "deit, SDPA", "deit, materialised"), size, images), seconds)


def gates(seconds: float) -> None:
    """All activations of the gate, batch 8; SiLU first."""
    names = ["silu", *(name for name in ACTIVATIONS if name != "silu")]
    images = torch.randn(8, 3, 224, 224)
    models = {name: build("vim-tiny", 224, name) for name in names}
    compare("gates", {name: lambda model=model: model(images) for name, model in models.items()}, seconds)


def published(_seconds: float) -> None:
    """What upstream reports, for comparison."""
    ratios = ", ".join(f"{ratio} x at {size} px" for size, ratio in PUBLISHED.items())
    print(f"upstream's figure, Vim-Ti's images per second over DeiT-Ti's: {ratios}")
    print("  (backbones only, GPU; batch, dtype and kind of attention not stated; nothing published at 224 px)")
    print("upstream's figure, memory: 4.2 GB against 8.1 at 640 px, 8.1 against 40.1 at 1024 px (79.7 % less), 11.1 GB")
    print("  at 1248 px, where DeiT ran out of 80 GB: the published 86.8 % compares with a value that was not measured")


def peak(name: str, size: int) -> None:
    """In a fresh process: prints by how many bytes a forward pass raises its peak above what the model takes."""
    model = CANDIDATES[name](size)
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        CANDIDATES["vim"](32)(torch.randn(1, 3, 32, 32))  # what the libraries take at their first call
        before = _peak()
        model(images)
    print(_peak() - before)


def _peak() -> int:
    """Most bytes this program has held. Unlike getrusage, without what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # it is always there


def memory(_seconds: float) -> None:
    """Growth of the peak in one forward pass at 1248 px, batch 1."""
    found = {}
    for name in ("vim", "deit, SDPA", "deit, materialised"):
        command = [sys.executable, __file__, "--peak", name, str(SIZES[-1])]
        found[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    parts = [f"{name} {grown / 2**20:.0f} MiB ({grown / found['vim']:.1f} x)" for name, grown in found.items()]
    print(f"memory, {SIZES[-1]} px     " + "   ".join(parts), flush=True)


SECTIONS = {"small": small, "sizes": sizes, "memory": memory, "gates": gates, "published": published}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SECTIONS)}; none is all of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="per line, but each candidate once at least")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.peak:
        peak(options.peak[0], int(options.peak[1]))
        return
    for name in options.names:
        if name not in SECTIONS:
            parser.error(f"there is no {name}; the names are {', '.join(SECTIONS)}")
    instructions = native.instruction_set() if native.LOADED else "not built"
    print(f"{options.threads} threads, torch {torch.__version__}, native: {instructions}")
    with torch.no_grad():
        for name in options.names or SECTIONS:
            SECTIONS[name](options.seconds)


if __name__ == "__main__":
    main()
