"""Entry point of the `hybridgen` program: runs a command and turns every error a user can cause into words."""

import os
import sys

from hybridgen.cli.app import app
from hybridgen.errors import HybridgenError, printable_lines

BAD_INPUT = 2
BROKEN_PIPE = 1


def main() -> None:
    """Runs the program; exits with 0, 2 for bad input, 130 after Ctrl-C, 1 when its reader went away."""
    # A closed stream, as under some daemons, is None; nobody reads it, but everybody may write to it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        try:
            app(prog_name="hybridgen")
        finally:
            sys.stdout.flush()
    except HybridgenError as error:
        # What a file or a file's name holds is in the words, and no terminal is to obey it.
        print(printable_lines(str(error)), file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        print(printable_lines(f"{place}{error.strerror or error}"), file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
