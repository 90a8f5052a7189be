"""Reading a document's text from disk: whatever lies there, it ends in text or in a fault with words."""

import difflib
import itertools
import os
import re
import stat

from hybridgen.errors import Fault, SpecError

MAX_BYTES = 1_048_576
"""A model file of this size would be some 30,000 lines long; anything larger is not one."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def split_lines(text: str) -> list[str]:
    """The lines of a text as YAML counts them, without their ends."""
    return _LINE_BREAK.split(text)


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a document's file.

    Raises:
        SpecError: There is no such file, it is a folder or a device, it cannot be read, it is empty, too large or no
            UTF-8 text.
    """
    name = os.fspath(path)
    try:
        data = _read_bytes(name)
    except SpecError:
        raise
    except (OSError, ValueError) as error:
        raise SpecError([_unreadable(name, error)]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError([_not_utf8(name, data, error.start)]) from None
    fault = check_characters(text, name)
    if fault:
        raise SpecError([fault])
    return text


def file_fault(name: str, message: str, suggestion: str | None = None) -> Fault:
    """A fault of a file as a whole."""
    return Fault(name, None, None, "", message, suggestion)


def check_characters(text: str, name: str) -> Fault | None:
    """Finds the first character that YAML does not allow, or that there is nothing but white space."""
    if not text.strip():
        return file_fault(name, "the file is empty", "a model needs at least a `backbone:`")
    match = _NOT_TEXT.search(text)
    if match is None:
        return None
    if "\0" in text:
        return file_fault(name, "this is binary data, not text", "give the model's YAML file")
    before = split_lines(text[: match.start()])
    source = split_lines(text)[len(before) - 1]
    message = f"the character U+{ord(match.group()):04X} is not allowed in YAML"
    return Fault(name, len(before), len(before[-1]) + 1, "", message, "remove it", _NOT_TEXT.sub("?", source))


def _read_bytes(name: str) -> bytes:
    status = os.stat(name)
    if stat.S_ISDIR(status.st_mode):
        raise SpecError([file_fault(name, "this is a folder, not a file", _name_a_file(name))])
    if not stat.S_ISREG(status.st_mode):
        raise SpecError([file_fault(name, "this is not a regular file", "give the model's YAML file")])
    if status.st_size <= MAX_BYTES:
        with open(name, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data
    message = f"the file has {max(status.st_size, MAX_BYTES + 1):,} bytes, a model file has at most {MAX_BYTES:,}"
    raise SpecError([file_fault(name, message, "give the model's YAML file, not its weights or data")])


def _unreadable(name: str, error: Exception) -> Fault:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return file_fault(name, "there is no such file", _nearest_file(name))
    if isinstance(error, PermissionError):
        return file_fault(name, "the file may not be read", f"allow it with `chmod u+r {name}`")
    reason = getattr(error, "strerror", None) or str(error)
    return file_fault(name.replace("\0", "\\0"), f"the file cannot be read: {reason.lower()}")


def _not_utf8(name: str, data: bytes, start: int) -> Fault:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return file_fault(name, "the file is UTF-16 text, it has to be UTF-8", "save it as UTF-8")
    if b"\0" in data:
        return file_fault(name, "this is binary data, not text", "give the model's YAML file")
    lines = split_lines(data[:start].decode("utf-8-sig"))
    rest = split_lines(data[start : start + 80].decode("utf-8", "replace"))[0]
    message = f"the byte 0x{data[start]:02X} is not UTF-8 text"
    source = _NOT_TEXT.sub("?", lines[-1] + rest)
    return Fault(name, len(lines), len(lines[-1]) + 1, "", message, "save the file as UTF-8", source)


def _entries(folder: str) -> list[str]:
    try:
        with os.scandir(folder or ".") as found:
            return sorted(entry.name for entry in itertools.islice(found, 10_000))
    except OSError:
        return []


def _nearest_file(name: str) -> str:
    folder, base = os.path.split(name)
    if folder and not os.path.isdir(folder):
        return f"the folder {folder} does not exist"
    names = [entry for entry in _entries(folder) if not entry.startswith(".")]
    stem = os.path.splitext(base)[0]
    close = difflib.get_close_matches(base, names, 1, 0.75) or [n for n in names if stem and n.startswith(stem)]
    close = close or difflib.get_close_matches(base, names, 1)
    return f"did you mean {os.path.join(folder, close[0])}?" if close else "check its name and the current folder"


def _name_a_file(folder: str) -> str:
    for entry in sorted(_entries(folder), key=lambda name: name != "config.yaml"):
        if entry.endswith((".yaml", ".yml", ".json")):
            return f"name a file in it, such as {os.path.join(folder, entry)}"
    return "name a YAML file"
