"""Draws the pictures in docs/pictures/ again.

python scripts/draw_pictures.py            # writes docs/pictures/*.svg
python scripts/draw_pictures.py --png DIR  # PNG of the same, light and dark, for looking at them
"""

import argparse
from pathlib import Path

import hybridgen as hg
from hybridgen.spec import ModelSpec

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MODELS = (
    "zonos-v0.1-hybrid",
    "zonos-v0.1-transformer",
    "mamba-130m",
    "mamba2attn-2.7b",
    "llama-like-1b",
    "vim-tiny",
    "hybrid-selective",
    "realformer-base",
)


def spec_of(name: str) -> ModelSpec:
    """Reads a shipped model."""
    return hg.load_spec(ROOT / "configs" / "model" / f"{name}.yaml")


def drawn() -> dict[Path, str]:
    """Every picture of the docs, by its file."""
    return {PICTURES / f"{name}.svg": hg.picture(spec_of(name), "svg") for name in MODELS}


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, metavar="DIR", help="write PNG files there instead")
    place = parser.parse_args().png
    if place is None:
        for path, text in drawn().items():
            path.write_text(text, encoding="utf-8")
        return
    for name in MODELS:
        for theme in ("light", "dark"):
            hg.draw(spec_of(name), place / f"{name}-{theme}.png", theme=theme)


if __name__ == "__main__":
    main()
