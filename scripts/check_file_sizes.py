"""Refuses large files in the repository. Run by `make check`."""

import subprocess
import sys
from pathlib import Path

LIMIT_BYTES = 500_000


def main() -> int:
    """Prints every tracked file that is too large; returns the exit status."""
    listing = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    paths = [Path(name) for name in listing.split("\0") if name]
    large = [path for path in paths if path.is_file() and path.stat().st_size > LIMIT_BYTES]
    for path in large:
        print(f"{path}: {path.stat().st_size:,} bytes, at most {LIMIT_BYTES:,} are allowed", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
