"""The module that a directory brings along for `trust_remote_code=True`: it hands on the classes of `hybridgen.hf`."""

from pathlib import Path

from hybridgen.hub.architecture import AUTO_CLASSES
from hybridgen.hub.configuration import SHIM_MODULE

SHIM = f"{SHIM_MODULE}.py"
INSTALL = "pip install 'hybridgen[hf]'"

_HEADLINE = '"""The classes of this model are those of the package hybridgen."""'
_NAMES = "".join(f"        {name},\n" for name in ("HybridgenConfig", *sorted(AUTO_CLASSES)))
# In a `try`, whose imports transformers does not look for by itself, with a command of its own that lacks the extra.
SHIM_TEXT = f"""{_HEADLINE}

try:
    from hybridgen.hf import (  # noqa: F401
{_NAMES}    )
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "hybridgen":
        raise
    raise ImportError("this model needs the package hybridgen; install it with `{INSTALL}`") from None
"""


def is_shim(file: Path) -> bool:
    """Tells whether a file is this module, as written by this or another version."""
    try:
        return file.read_text(encoding="utf-8").startswith(_HEADLINE)
    except (OSError, UnicodeDecodeError):
        return False
