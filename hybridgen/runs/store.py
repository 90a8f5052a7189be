"""A folder that keeps what was found about points, one folder for each, whatever happens to those who write there.

`<store>/<id>/{spec.yaml, result.json, log.txt, error.txt}`, what each sweep was asked in `<store>/sweeps/`, and tables
of all records beside them. A file takes the place of its name when it is whole. Who works on a point holds its lock,
which the system lets go when a process ends in any way; so two sweeps can share a store, and one that was killed leaves
no point taken.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from hybridgen.errors import HybridgenError
from hybridgen.output_file import replaced_file
from hybridgen.runs.records import Record, SweepInfo
from hybridgen.spec.yaml_output import to_yaml

SPEC, RESULT, LOG, ERROR, LOCK = "spec.yaml", "result.json", "log.txt", "error.txt", ".lock"
TABLES_LOCK = ".tables.lock"
SWEEPS = "sweeps"
_ID_LENGTH = 12
_ID = re.compile(f"[0-9a-f]{{{_ID_LENGTH}}}")


class Store:
    """Records of points in a folder.

    Args:
        folder: Where; made when something is first written.

    Raises:
        HybridgenError: If there is something else than a folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.abspath(folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise HybridgenError(f"{folder}: is no directory; name another with -o")

    def place(self, id: str) -> Path:
        """The folder of a point."""
        return self.folder / id

    def ids(self) -> list[str]:
        """The points that have a record, in the order of their names."""
        if not self.folder.is_dir():
            return []
        return sorted(one.parent.name for one in self.folder.glob(f"*/{RESULT}") if _ID.fullmatch(one.parent.name))

    def record(self, id: str) -> Record | None:
        """What is known of a point, or None.

        Raises:
            HybridgenError: If the record cannot be read.
        """
        file = self.place(id) / RESULT
        try:
            if file.exists() and not file.is_file():  # a device may never end
                raise OSError("it is no regular file")
            record = Record.model_validate_json(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):  # the second says more where something is to be written
            return None
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            problem = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
            raise HybridgenError(
                f"{file}: is no record of a point: {problem}; remove {file.parent} to have it run again"
            ) from None
        if record.point.id != id:
            raise HybridgenError(f"{file}: is the record of {record.point.id}, not of {id}; remove {file.parent}")
        return record

    def records(self) -> list[Record]:
        """All records: references last, the others by number.

        Raises:
            HybridgenError: If one cannot be read.
        """
        found = [record for id in self.ids() if (record := self.record(id)) is not None]
        return sorted(found, key=lambda one: (one.point.role != "point", one.point.number, one.point.id))

    def write(self, record: Record) -> None:
        """Writes a record, and its failures in words; the caller holds the point's lock.

        Raises:
            HybridgenError: If it cannot be written.
        """
        place = self.place(record.point.id)
        if not (place / SPEC).exists():
            self._replace(place / SPEC, to_yaml(record.spec))
        failures = record.failures
        if failures:
            words = [f"{key}: {one.kind}: {one.message}\n{one.traceback or ''}" for key, one in failures.items()]
            self._replace(place / ERROR, "\n".join(words))
        self._replace(place / RESULT, record.model_dump_json(indent=1) + "\n")
        if not failures:
            (place / ERROR).unlink(missing_ok=True)

    def write_sweep(self, sweep: SweepInfo) -> None:
        """Keeps what a sweep was asked; the same command again, as with --resume, replaces its file.

        Raises:
            HybridgenError: If it cannot be written.
        """
        name = hashlib.sha256("\0".join(sweep.command).encode()).hexdigest()[:_ID_LENGTH]
        self._replace(self.folder / SWEEPS / f"{name}.json", sweep.model_dump_json(indent=1) + "\n")

    def sweeps(self) -> list[SweepInfo]:
        """The sweeps that used this store, the first started first.

        Raises:
            HybridgenError: If a file cannot be read.
        """
        found = []
        for file in (self.folder / SWEEPS).glob("*.json"):
            try:
                found.append(SweepInfo.model_validate_json(file.read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError, ValidationError):
                raise HybridgenError(f"{file}: does not describe a sweep; remove it") from None
        return sorted(found, key=lambda one: one.started)

    @contextmanager
    def lock(self, id: str) -> Iterator[bool]:
        """Yields whether the point is now this caller's; False if another process, or another part of this, has it.

        Raises:
            HybridgenError: If the folder cannot be written, or its file system has no locks.
        """
        place = self.place(id)
        file = _open(place / LOCK)
        try:
            yield _lock(file, place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(file)

    @contextmanager
    def tables_lock(self) -> Iterator[None]:
        """Waits until nobody else writes the tables of this store.

        Raises:
            HybridgenError: As `lock`.
        """
        file = _open(self.folder / TABLES_LOCK)
        try:
            _lock(file, self.folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _replace(self, target: Path, text: str) -> None:
        with replaced_file(target) as file:
            file.write_text(text, encoding="utf-8", newline="")


def _open(file: Path) -> int:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HybridgenError(f"{file.parent}: cannot be written: {error.strerror or error}") from error


def _lock(file: int, place: Path, how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise HybridgenError(
            f"{place}: the file system has no locks ({error.strerror}); keep the store on one that has"
        ) from error
    return True
