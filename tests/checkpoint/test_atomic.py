"""What a save does when it cannot: words, and the old content as it was; and what it does with files of the user's."""

import errno
import os
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen import atomic
from tests.checkpoint.tiny import listing, model, same


def _contents(directory):
    return {name: (directory / name).read_bytes() for name in listing(directory)}


@contextmanager
def _largest_file(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("limit", [0, 100, 20_000])
def test_full_disk_leaves_the_old_model(tmp_path, limit):
    hg.save(model(seed=1), tmp_path / "out")
    before = _contents(tmp_path)
    with _largest_file(limit), pytest.raises(hg.CheckpointError, match=r"cannot be written: .*File too large"):
        hg.save(model(seed=2), tmp_path / "out")
    assert _contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_leaves_nothing_where_there_was_nothing(tmp_path):
    with _largest_file(100), pytest.raises(hg.CheckpointError, match="File too large"):
        hg.save(model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "link"])
def test_failing_system_calls_leave_the_old_model(tmp_path, monkeypatch, call):
    hg.save(model(seed=1), tmp_path / "out")
    (tmp_path / "out/notes").write_text("mine")
    before = _contents(tmp_path)

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, call, fail)
        patch.setattr(atomic.shutil, "copy2", fail)
        with pytest.raises(hg.CheckpointError, match="Input/output error"):
            hg.save(model(seed=2), tmp_path / "out")
    assert _contents(tmp_path) == before
    hg.save(model(seed=2), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interrupt_leaves_the_old_model(tmp_path, monkeypatch):
    hg.save(model(seed=1), tmp_path / "out")

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_sync_tree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hg.save(model(seed=2), tmp_path / "out")
    assert same(hg.load(tmp_path / "out", verify=True), model(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unusable_targets_are_worded(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for target, words in (
        (tmp_path / "file", "file: is a file; name a directory"),
        (tmp_path / "file/out", r"file/out: cannot be written: .*(Not a directory|File exists)"),
        ("/proc/hybridgen/out", "/proc/hybridgen/out: cannot be written"),
        ("/proc", "/proc: is a mount point"),
    ):
        with pytest.raises(hg.CheckpointError, match=words):
            hg.save(model(), target)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "here/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/deeper")
    for target in (".", "..", tmp_path / "here"):
        with pytest.raises(hg.CheckpointError, match="the current directory lies in it"):
            hg.save(model(), target)
    hg.save(model(), "model")
    assert listing(tmp_path / "here/deeper/model") == ["config.json", "config.yaml", "model.safetensors"]


@pytest.mark.parametrize(
    "name", ["config.json", "config.yaml", "model.safetensors", "model-00001-of-00002.safetensors"]
)
def test_files_of_others_are_not_overwritten(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"model_type": "llama"}')
    with pytest.raises(hg.CheckpointError, match=f"out: holds {name}, not written by hybridgen"):
        hg.save(model(), tmp_path / "out")
    assert listing(tmp_path) == [f"out/{name}"]


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "no hard links here")

    out = tmp_path / "out"
    hg.save(model(seed=1), out)
    (out / "sub").mkdir()
    (out / "sub/notes").write_text("mine")
    (out / "link").symlink_to("sub/notes")
    monkeypatch.setattr(atomic.os, "link", refuse)
    hg.save(model(seed=2), out)
    assert (out / "sub/notes").read_text() == (out / "link").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert same(hg.load(out, verify=True), model(seed=2))


@pytest.mark.parametrize("mode", ["exchange", "fallback"])
def test_files_made_during_the_exchange_are_kept(tmp_path, monkeypatch, mode):
    out = tmp_path / "out"
    hg.save(model(seed=1), out)
    (out / "log").write_text("first")
    (out / "runs").mkdir()
    swap = atomic._swap

    def late(new, target):
        (target / "new").write_text("made late")
        (target / "runs/new").write_text("made late")
        os.replace(_write(tmp_path / "fresh", "second"), target / "log")
        swap(new, target)

    monkeypatch.setattr(atomic, "_swap", late)
    if mode == "fallback":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    hg.save(model(seed=2), out)
    assert (out / "new").read_text() == (out / "runs/new").read_text() == "made late"
    assert (out / "log").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert same(hg.load(out, verify=True), model(seed=2))


def _write(path, text):
    path.write_text(text)
    return path


def test_staging_directory_of_a_living_save_is_left_alone(tmp_path):
    out = tmp_path / "out"
    with atomic.replaced_directory(out, lambda _: (), lambda _: None) as staging:
        (staging / "slow").write_text("still being written")
        hg.save(model(seed=1), out)
        assert (staging / "slow").exists()
        assert same(hg.load(out), model(seed=1))
    assert listing(out) == ["config.json", "config.yaml", "model.safetensors", "slow"]


def test_foreign_files_in_a_dead_saves_leftovers_are_never_removed(tmp_path):
    """An old directory that a kill left beside the target may hold the only copy of something."""
    hg.save(model(seed=1), tmp_path / ".out.hybridgen-1-abcd")
    (tmp_path / ".out.hybridgen-1-abcd/notes").write_text("mine")
    hg.save(model(seed=2), tmp_path / "out")
    assert listing(tmp_path / ".out.hybridgen-1-abcd") == ["notes"]


def test_load_reads_the_backup_between_two_renames(tmp_path):
    hg.save(model(seed=1), tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.hybridgen-backup")
    assert same(hg.load(tmp_path / "out"), model(seed=1))
    hg.save(model(seed=2), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@contextmanager
def _ordinary_user():
    """Acts as a user whom permissions bind, which root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def ours():
    """A directory of that user with a saved model; not below tmp_path, which lets nobody else through."""
    trained = model(seed=2)
    with _ordinary_user(), tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        hg.save(model(seed=1), out)
        (out / "runs").mkdir()
        (out / "runs/notes").write_text("mine")
        yield out, trained
        for directory in (out, out / "runs"):
            directory.chmod(0o700)


def test_directory_without_write_permission_is_refused_before_it_is_replaced(ours):
    out, trained = ours
    out.chmod(0o555)
    before = _contents(out.parent)
    with pytest.raises(hg.CheckpointError, match="out: you may not change what is in it; allow it, as `chmod u"):
        hg.save(trained, out)
    assert _contents(out.parent) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_directory_below_without_write_permission_leaves_nothing_behind(ours):
    out, trained = ours
    (out / "runs").chmod(0o555)
    hg.save(trained, out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "runs/notes").read_text() == "mine"
    assert (out / "runs").stat().st_mode & 0o777 == 0o555
    assert same(hg.load(out, verify=True), trained)


def test_a_save_that_took_place_reports_no_failure(tmp_path, monkeypatch):
    """What fails after the exchange leaves the old files, which the next save removes."""
    out = tmp_path / "out"
    hg.save(model(seed=1), out)
    swap = atomic._swap

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:

        def swap_then_fail(new, target):
            swap(new, target)
            patch.setattr(atomic.os, "fsync", fail)
            patch.setattr(atomic.Path, "unlink", fail)

        patch.setattr(atomic, "_swap", swap_then_fail)
        hg.save(model(seed=2), out)
    assert same(hg.load(out, verify=True), model(seed=2))
    assert len(list(tmp_path.iterdir())) == 2
    hg.save(model(seed=3), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_the_target_stops_nobody(tmp_path, name):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(hg.CheckpointError, match=f"out: holds {name}, not written by hybridgen"):
        hg.save(model(), tmp_path / "out")
