"""Numbers as people write and read them: lengths, counts, bytes."""

import re

from hybridgen.errors import HybridgenError

_FACTORS = {"": 1, "k": 1024, "M": 1024**2}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_WIDTH = 12  # digits of a length that is still a length


def lengths(text: str) -> list[int]:
    """Reads lengths such as `4k,32k,1M`; k is 1024 and M its square.

    Raises:
        HybridgenError: If one is none.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]+)([kM]?)", part.strip())
        if match is None or len(match[1]) > _WIDTH:
            raise HybridgenError(f"--seq-len: lengths are numbers, k for 1024 and M for 1024^2; given {part.strip()!r}")
        found.append(int(match[1]) * _FACTORS[match[2]])
    return found


def length(text: str, reason: str) -> int:
    """Reads one length.

    Args:
        text: Such as `4096` or `4k`.
        reason: Why there is only one, for the error.

    Raises:
        HybridgenError: If it is none, or several.
    """
    found = lengths(text)
    if len(found) > 1:
        raise HybridgenError(f"--seq-len: {reason}, given {text}")
    return found[0]


def seconds(text: str, option: str) -> float:
    """Reads a time such as `90`, `90s`, `1.5m` or `2h`.

    Raises:
        HybridgenError: If it is none.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh]?)", text.strip())
    if match is None or not float(match[1]):
        raise HybridgenError(f"{option}: write a time above 0, such as 90s, 10m or 2h; given {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def size(text: str, option: str) -> int:
    """Reads a number of bytes such as `4GiB` or `500MiB`.

    Raises:
        HybridgenError: If it is none.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT]iB)", text.strip())
    if match is None or not float(match[1]):
        raise HybridgenError(f"{option}: write a size above 0, such as 500MiB or 4GiB; given {text!r}")
    return int(float(match[1]) * 1024 ** (" KMGT".index(match[2][0])))


def human_count(count: float) -> str:
    """Writes a number with three digits and a decimal unit: 8030261248 is `8.03 G`."""
    if count < 1000 and count == int(count):
        return str(int(count))
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if count < 999.5 or unit == "E":
            break
        count /= 1000
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f} {unit}".strip()


def human_bytes(count: int) -> str:
    """Writes a number of bytes with a binary unit: 1536 is `1.5 KiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
