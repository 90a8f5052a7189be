"""Replacing a directory in one step: a kill, a full disk or a power cut leaves the whole old one or the whole new one.

The new content is written into a hidden sibling, flushed to the disk, and exchanged with the target by one
`renameat2(RENAME_EXCHANGE)`. Where that call does not exist (other systems, some network file systems) the old
directory is first moved to a sibling of a fixed name; readers look there when the target is missing (`settled`), and
the next writer moves it back. Files that are not the writer's own are hard-linked into the new directory before the
exchange, so that they are under the target's name at every moment.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybridgen.errors import CheckpointError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

Obsolete = Callable[[Path], tuple[str, ...]]


def settled(directory: Path) -> Path:
    """Returns where the content of `directory` lies: itself, or its backup if a kill came between two renames."""
    if directory.exists():
        return directory
    backup = _backup(directory)
    return backup if backup.is_dir() else directory


@contextmanager
def replaced_directory(directory: Path, obsolete: Obsolete, inspect: Callable[[Path], None]) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `directory` when the block ends without an error.

    Args:
        directory: The name to fill. It may be absent, empty, or hold earlier content.
        obsolete: Called with the old directory; returns the names of the files in it that the new content replaces,
            the one it reads to know them last. Every other entry is carried over.
        inspect: Called with the old directory, if there is one, before anything is written; raises to refuse it.

    Raises:
        CheckpointError: If the directory cannot be replaced, or the new content would overwrite a file that is not
            obsolete. The old content is untouched then.
    """
    target = Path(os.path.realpath(directory))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _turn(target.parent):
        _restore_backup(target)
        _check_target(target, directory)
        if target.exists():
            inspect(target)
        _sweep(target, obsolete)
        staging, alive = _make_staging(target)
    try:
        yield staging
        _sync_tree(staging)
        with _turn(target.parent):
            _replace(target, staging, obsolete)
    except BaseException:
        with _turn(target.parent):
            _discard(staging, target, obsolete)
        raise
    finally:
        os.close(alive)


def _replace(target: Path, staging: Path, obsolete: Obsolete) -> None:
    _restore_backup(target)
    if target.exists():
        shutil.copymode(target, staging)
        _carry(target, staging, obsolete(target))
    _swap(staging, target)
    with suppress(OSError):  # the new content is in place, and an error would say that it is not
        _sync(target.parent)
    with suppress(OSError):
        if staging.exists():
            _retire(staging, target, obsolete(staging), rescue=True)


def _check_target(target: Path, named: Path) -> None:
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{named}: is a file; name a directory")
    if os.path.ismount(target):
        raise CheckpointError(
            f"{named}: is a mount point, which cannot be replaced in one step; name a directory below"
        )
    as_who_acts = os.access in os.supports_effective_ids
    if target.exists() and not os.access(target, os.R_OK | os.W_OK | os.X_OK, effective_ids=as_who_acts):
        raise CheckpointError(
            f"{named}: you may not change what is in it; allow it, as `chmod u+rwx {named}` does, or name another "
            f"directory"
        )
    here = Path.cwd()
    if target == here or target in here.parents:
        raise CheckpointError(
            f"{named}: the current directory lies in it and would be replaced; name a directory of its own, such as "
            f"{named / 'model'}"
        )


def _backup(target: Path) -> Path:
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}.hybridgen-backup")


def _restore_backup(target: Path) -> None:
    if settled(target) != target:
        os.rename(_backup(target), target)


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Keeps other writers in the same parent waiting; held while directories are moved, not while they are filled."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _make_staging(target: Path) -> tuple[Path, int]:
    """Makes a sibling whose name holds its own inode number, and locks it.

    The lock tells other writers that the owner is alive. The number tells an unfinished new directory (number and
    inode agree) from an old one that the exchange has put under this name (they differ).
    """
    first = target.with_name(f".{target.name}.hybridgen-{secrets.token_hex(6)}")
    first.mkdir()
    alive = os.open(first, os.O_RDONLY)
    _lock(alive, wait=True)
    staging = target.with_name(f".{target.name}.hybridgen-{os.fstat(alive).st_ino}-{secrets.token_hex(4)}")
    try:
        os.rename(first, staging)
    except OSError:
        os.close(alive)
        first.rmdir()
        raise
    return staging, alive


def _lock(descriptor: int, wait: bool) -> bool:
    """Locks an open directory; false if someone else holds it or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is_unfinished(staging: Path) -> bool:
    return staging.name.split("hybridgen-")[-1].split("-")[0] == str(staging.stat().st_ino)


def _sweep(target: Path, obsolete: Obsolete) -> None:
    """Removes what dead writers left beside the target, as far as nothing can be lost by it."""
    prefix = f".{target.name}.hybridgen-"
    for path in [Path(entry) for entry in _entries(target.parent) if entry.name.startswith(prefix) and entry.is_dir()]:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor, wait=False):
                    _discard(path, target, obsolete)
            finally:
                os.close(descriptor)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _discard(staging: Path, target: Path, obsolete: Obsolete) -> None:
    with suppress(OSError):
        if _is_unfinished(staging):
            # Foreign files in here are second names of files that the target still holds.
            _allow_removal(staging)
            shutil.rmtree(staging)
        else:
            _retire(staging, target, obsolete(staging), rescue=False)


def _allow_removal(directory: Path) -> None:
    """Lets the owner empty a directory and those below: carried ones have the permissions of the user's own."""
    with suppress(OSError):  # somebody else's
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IRWXU)
    for entry in _entries(directory):
        if entry.is_dir(follow_symlinks=False):
            _allow_removal(Path(entry))


def _carry(old: Path, new: Path, skip: tuple[str, ...]) -> None:
    for entry in _entries(old):
        source, copy = Path(entry), new / entry.name
        if entry.name in skip:
            continue
        if copy.is_symlink() or copy.exists():
            raise CheckpointError(
                f"{source}: exists and was not written by hybridgen; move it, or name another directory"
            )
        if not entry.is_dir(follow_symlinks=False):
            _link(source, copy)
            continue
        if os.path.ismount(source):
            raise CheckpointError(f"{source}: is a mount point, which cannot be carried over; name another directory")
        copy.mkdir()
        _carry(source, copy, ())
        shutil.copystat(source, copy)
    _sync(new)


def _link(source: Path, copy: Path) -> None:
    try:
        os.link(source, copy, follow_symlinks=False)
    except FileNotFoundError:
        pass  # its owner removed it meanwhile
    except OSError:  # a file system without hard links, or a file of another user
        shutil.copy2(source, copy, follow_symlinks=False)
        if not copy.is_symlink():
            _sync(copy)


def _is_carried(old: Path, new: Path) -> bool:
    try:
        first, second = old.lstat(), new.lstat()
    except FileNotFoundError:
        return False
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    return (first.st_size, first.st_mtime_ns, stat.S_IFMT(first.st_mode)) == (
        second.st_size, second.st_mtime_ns, stat.S_IFMT(second.st_mode),
    )  # fmt: skip


def _retire(old: Path, new: Path, drop: tuple[str, ...], rescue: bool) -> None:
    """Empties and removes a replaced directory.

    Entries that `new` does not hold (made while the exchange was under way) are moved there with `rescue`, else kept.
    """
    with suppress(OSError):  # somebody else's
        old.chmod(stat.S_IMODE(old.stat().st_mode) | stat.S_IRWXU)
    for entry in _entries(old):
        source, kept = Path(entry), new / entry.name
        with suppress(OSError):  # whatever cannot be moved or removed stays where it is
            if entry.is_dir(follow_symlinks=False) and kept.is_dir():
                _retire(source, kept, (), rescue)
            elif entry.name in drop:
                continue
            elif _is_carried(source, kept):
                source.unlink()
            elif rescue:
                os.replace(source, kept)
    with suppress(OSError):  # a file that stays keeps the record that follows it, for the next sweep
        for name in drop:
            (old / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: something in it exists nowhere else
        old.rmdir()


def _swap(new: Path, target: Path) -> None:
    try:
        os.rename(new, target)  # absent or empty: one rename does it
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(new, target):
        return
    backup = _backup(target)
    os.rename(target, backup)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(backup, target)
        raise
    os.rename(backup, new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two directories in one step; false where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _sync_tree(directory: Path) -> None:
    for entry in _entries(directory):
        _sync(Path(entry))
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
