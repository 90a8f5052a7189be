"""Every way to get one character of a name wrong."""

import random
from collections.abc import Iterator

ALPHABET = "abcdefghijklmnopqrstuvwxyz_"


def misspellings(name: str, rng: random.Random) -> Iterator[str]:
    """Yields what a slip makes of a name: letters lost, swapped, doubled, added or replaced, case, underscores."""
    for i in range(len(name)):
        yield name[:i] + name[i + 1 :]
        yield name[:i] + name[i] + name[i:]
        yield name[:i] + rng.choice(ALPHABET) + name[i:]
        yield name[:i] + rng.choice(ALPHABET) + name[i + 1 :]
        if i + 1 < len(name):
            yield name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    yield name.upper()
    yield name.capitalize()
    yield name.replace("_", "")
    yield name.replace("_", "-")
    yield "".join(part.capitalize() for part in name.split("_"))
    yield f"{name}_"
    yield f"{name}s"
