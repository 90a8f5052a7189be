"""The last line of a model card, by which one that hybridgen wrote is told from one that somebody has worked on."""

import hashlib
import re

CARD = "README.md"

_SEAL = re.compile(r"\n<!-- hybridgen wrote this card; sha256 of the text above: ([0-9a-f]{64}) -->\n\Z")


def sealed(text: str) -> str:
    """Adds the line to a card."""
    return f"{text}\n<!-- hybridgen wrote this card; sha256 of the text above: {_hash(text)} -->\n"


def is_untouched(text: str) -> bool:
    """Tells whether a card is one that hybridgen wrote, and that nobody has changed since."""
    seal = _SEAL.search(text)
    return seal is not None and _hash(text[: seal.start()]) == seal[1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
