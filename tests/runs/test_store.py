"""The store: whole files or none, one owner of a point, words for what cannot be read or written."""

import subprocess
import sys

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.runs import Failure, Outcome, PointInfo, Record, Store, SweepInfo

ID = "0123456789ab"
LOCKED = """
import sys
from hybridgen.runs import Store
with Store(sys.argv[1]).lock(sys.argv[2]) as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hybridgen.errors import HybridgenError
from hybridgen.runs import Store
store = Store(sys.argv[1])
record = store.record(sys.argv[2])
big = record.model_copy(update={"spec": {"notes": "x" * 100_000}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.write(big)
except HybridgenError as error:
    print(error)
"""


def record_of(id=ID, number=1, role="point", failure=None, **metrics):
    outcome = Outcome(
        settings={"kind": "cost"}, metrics=metrics, failure=failure, seconds=1.5, finished="2026-01-01T00:00:00+00:00",
        host="here",
    )  # fmt: skip
    point = PointInfo(id=id, number=number, role=role, values={"a": "1,ü"})
    return Record(hybridgen="0", point=point, spec={"version": 1, "name": "ü"}, outcomes={"cost": outcome})


def test_a_record_comes_back(tmp_path):
    store = Store(tmp_path / "new" / "store")
    record = record_of(params=3, loss=float("inf"))
    store.write(record)
    again = store.record(ID)
    assert again == record
    assert again.metrics == {"params": 3, "loss": None}
    assert (store.place(ID) / "spec.yaml").read_text(encoding="utf-8").count("ü") == 1
    assert store.record("0" * 12) is None


def test_failures_in_words_go_when_they_are_mended(tmp_path):
    store = Store(tmp_path)
    store.write(record_of(failure=Failure(kind="raised", message="böse", traceback="at line 3")))
    words = (store.place(ID) / "error.txt").read_text(encoding="utf-8")
    assert "cost: raised: böse" in words
    assert "at line 3" in words
    store.write(record_of(params=3))
    assert sorted(one.name for one in store.place(ID).iterdir()) == ["result.json", "spec.yaml"]


def test_references_come_last_and_points_by_number(tmp_path):
    store = Store(tmp_path)
    ids = [f"{digit}" * 12 for digit in range(4)]
    for id, number, role in zip(ids, (0, 2, 0, 1), ("mlp", "point", "attention", "point"), strict=True):
        store.write(record_of(id, number, role))
    (tmp_path / "something" / "else").mkdir(parents=True)
    (tmp_path / "something" / "result.json").write_text("no record")
    assert [one.point.id for one in store.records()] == [ids[3], ids[1], ids[0], ids[2]]


def test_a_point_has_one_owner(tmp_path):
    store = Store(tmp_path)
    command = [sys.executable, "-c", LOCKED, str(tmp_path), ID]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with store.lock(ID) as is_ours, store.lock("0" * 12) as another:
            assert not is_ours
            assert another
        other.kill()  # the system lets go of what a killed process held
        other.wait()
        with store.lock(ID) as is_ours, store.lock(ID) as twice:
            assert is_ours
            assert not twice


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', "\0", "[]"])
def test_a_broken_record_is_named(tmp_path, text):
    store = Store(tmp_path)
    store.write(record_of())
    (store.place(ID) / "result.json").write_text(text)
    with pytest.raises(HybridgenError, match=r"result\.json: is no record of a point: .*; remove .*0123456789ab to"):
        store.record(ID)


def test_a_record_in_another_points_folder_is_refused(tmp_path):
    store = Store(tmp_path)
    store.write(record_of())
    store.place(ID).rename(store.place("0" * 12))
    with pytest.raises(HybridgenError, match="is the record of 0123456789ab, not of 000000000000"):
        store.record("0" * 12)


def test_a_full_disk_leaves_the_old_record(tmp_path):
    store = Store(tmp_path)
    store.write(record_of(params=3))
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), ID], capture_output=True, text=True, check=True
    )
    assert "result.json: cannot be written: File too large" in run.stdout
    assert store.record(ID) == record_of(params=3)
    assert sorted(one.name for one in store.place(ID).iterdir()) == ["result.json", "spec.yaml"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HybridgenError, match="is no directory"):
        Store(tmp_path / "file")
    with pytest.raises(HybridgenError, match="cannot be written"), Store(tmp_path / "file" / "below").lock(ID):
        pass


def test_sweeps_are_kept_by_their_command(tmp_path):
    store = Store(tmp_path)
    asked = {"folder": "/", "name": None, "keys": (), "combinations": 1, "points": (ID,), "objectives": ()}
    first = SweepInfo(command=("hybridgen", "sweep", "a"), started="2026-01-02", **asked)
    second = SweepInfo(command=("hybridgen", "sweep", "b"), started="2026-01-01", **asked)
    again = first.model_copy(update={"started": "2026-01-03"})
    for one in (first, second, again):
        store.write_sweep(one)
    assert store.sweeps() == [second, again]
    next((tmp_path / "sweeps").iterdir()).write_text("{}")
    with pytest.raises(HybridgenError, match="does not describe a sweep"):
        store.sweeps()


def test_foreign_folders_are_no_points_and_devices_no_records(tmp_path):
    store = Store(tmp_path)
    store.write(record_of())
    store.place("zzzzzzzzzzzz").mkdir()
    (store.place("zzzzzzzzzzzz") / "result.json").write_text("{}")
    assert store.ids() == [ID]
    (store.place(ID) / "result.json").unlink()
    (store.place(ID) / "result.json").symlink_to("/dev/zero")
    with pytest.raises(HybridgenError, match="no regular file"):
        store.record(ID)
