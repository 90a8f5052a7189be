"""`hybridgen report`, as a user runs it."""

import json
import re
import sys
import webbrowser

import pytest

from tests.reports.stores import an_id, cost_outcome, record, store_of, sweep, usual


def test_writes_page_text_and_pictures(hybridgen, tmp_path, monkeypatch):
    store = usual(tmp_path / "my out")
    monkeypatch.chdir(tmp_path)
    result = hybridgen("report", "my out")
    assert (result.status, result.err) == (0, "")
    names = ["report.html", "report.md", *(f"pictures/{one}.png" for one in ("pareto", "tasks", "learning", "effects"))]
    assert result.out.splitlines() == [*(str(store.folder / name) for name in names), "8 points and references"]
    page, text = ((store.folder / name).read_text() for name in names[:2])
    assert an_id(1) in page
    assert f"hybridgen build 'my out/{an_id(6)}/spec.yaml'" in text  # as the store was given
    assert text.startswith("# state-size\n")
    assert re.findall(r"\(pictures/(\w+)\.png\)", text) == ["pareto", "tasks", "learning", "effects"]
    assert (store.folder / names[2]).read_bytes().startswith(b"\x89PNG")


def test_a_folder_and_a_title_of_ones_own(hybridgen, tmp_path):
    store = store_of(tmp_path / "out", [], [sweep([an_id(1)])])
    result = hybridgen("report", store.folder, "-o", tmp_path / "there" / "deep", "--title", "My <sweep>")
    assert result.status == 0
    assert (tmp_path / "there" / "deep" / "report.md").read_text().startswith("# My &lt;sweep&gt;\n")
    assert not (store.folder / "report.md").exists()


def test_pictures_of_an_earlier_report_are_removed(hybridgen, tmp_path):
    store = store_of(tmp_path / "out", [], [sweep([an_id(1)])])
    (store.folder / "pictures").mkdir()
    for name in ("pareto.png", "mine.png"):
        (store.folder / "pictures" / name).write_bytes(b"old")
    assert hybridgen("report", store.folder).status == 0
    assert [one.name for one in (store.folder / "pictures").iterdir()] == ["mine.png"]


def test_without_matplotlib_it_says_what_is_missing(hybridgen, tmp_path, monkeypatch):
    store = usual(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = hybridgen("report", store.folder)
    words = "The pictures are missing: they need matplotlib; install it with `pip install 'hybridgen[plot]'`."
    assert (result.status, result.err) == (0, words + "\n")
    assert words in (store.folder / "report.md").read_text()
    assert (store.folder / "report.html").exists()
    assert not (store.folder / "pictures").exists()


def test_open_starts_the_browser(hybridgen, tmp_path, monkeypatch):
    store = store_of(tmp_path / "a b", [], [sweep([an_id(1)])])
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda place: opened.append(place) or len(opened) == 1)
    assert hybridgen("report", store.folder, "--open").err == ""
    assert opened == [f"{store.folder.as_uri()}/report.html"]
    assert "a%20b" in opened[0]
    result = hybridgen("report", store.folder, "--open")
    assert result.err == f"no browser could be started; open {store.folder}/report.html yourself\n"
    assert result.status == 0


@pytest.mark.parametrize(("made", "words"), [(False, "there is no such folder"), (True, "holds no results of a sweep")])
def test_no_store(hybridgen, tmp_path, made, words):
    place = tmp_path / "out"
    if made:
        place.mkdir()
    result = hybridgen("report", place)
    assert result.status == 2
    assert result.err.startswith(f"{place}: {words}; make some with `hybridgen sweep ")
    assert list(tmp_path.rglob("*")) == ([place] if made else [])  # nothing was written


def test_a_file_is_no_store(hybridgen, tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    result = hybridgen("report", tmp_path / "a.yaml")
    words = "is no folder; name the one that a sweep wrote into, its -o"
    assert (result.status, result.err) == (2, f"{tmp_path / 'a.yaml'}: {words}\n")


def test_a_damaged_record(hybridgen, tmp_path):
    store = usual(tmp_path / "out")
    file = store.place(an_id(3)) / "result.json"
    file.write_text(json.dumps({"format": 9}))
    result = hybridgen("report", store.folder)
    assert result.status == 2
    assert result.err.startswith(f"{file}: is no record of a point: ")
    assert not (store.folder / "report.html").exists()


def test_places_that_cannot_be_written(hybridgen, tmp_path):
    records = [record(number, {"cost": cost_outcome(number)}) for number in (1, 2)]
    store = store_of(tmp_path / "out", records)
    (tmp_path / "file").write_text("mine")
    result = hybridgen("report", store.folder, "-o", tmp_path / "file")
    assert (result.status, result.err) == (2, f"{tmp_path / 'file'}: is no directory; name another with -o\n")
    (store.folder / "pictures").write_text("mine")
    assert "pictures is a file, not a directory" in hybridgen("report", store.folder).err
    (store.folder / "report.md").mkdir()
    assert "report.md: is a directory" in hybridgen("report", store.folder).err
    assert not (store.folder / "report.html").exists()
