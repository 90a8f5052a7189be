"""The files of a report: `report.html`, `report.md` and `pictures/*.png`, each whole or not at all."""

from dataclasses import dataclass
from pathlib import Path

from hybridgen.errors import HybridgenError
from hybridgen.output_file import output_file, replaced_file
from hybridgen.reports.charts import NAMES, chart_pngs
from hybridgen.reports.data import report_data
from hybridgen.reports.markdown import markdown
from hybridgen.reports.page import report_page
from hybridgen.runs import Store

PAGE, TEXT, PICTURES = "report.html", "report.md", "pictures"
_INSTALL = "pip install 'hybridgen[plot]'"


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: All of them, the page first.
        points: Rows of the report, references among them.
        missing: Why there are no pictures, in words; None if there are.
    """

    files: tuple[Path, ...]
    points: int
    missing: str | None


def write_report(place: str, folder: Path | None = None, title: str | None = None) -> Written:
    """Writes the report of a store.

    The pictures need matplotlib; without it page and text are written all the same, and say what is missing. A picture
    of an earlier report that this one does not have is removed.

    Args:
        place: Folder of the store; the commands in the report name it so.
        folder: Where to write; None is the store.
        title: Of the report.

    Raises:
        HybridgenError: If there is no store, a record cannot be read, or a file cannot be written.
    """
    if Path(place).exists() and not Path(place).is_dir():
        raise HybridgenError(f"{place}: is no folder; name the one that a sweep wrote into, its -o")
    store = Store(place)
    if not store.ids() and not store.sweeps():
        what = "holds no results of a sweep" if store.folder.exists() else "there is no such folder"
        raise HybridgenError(f"{place}: {what}; make some with `hybridgen sweep MODEL.yaml KEY=A,B -o {place}`")
    target = store.folder if folder is None else folder
    if target.exists() and not target.is_dir():
        raise HybridgenError(f"{target}: is no directory; name another with -o")
    page, text = (output_file(target / name, name) for name in (PAGE, TEXT))
    data = report_data(store, title, place)
    pictures, missing = _pictures(data)
    files = [page, text]
    for name in NAMES:
        picture = output_file(target / PICTURES / name, name)
        if name in pictures:
            _write(picture, pictures[name])
            files.append(picture)
        elif picture.exists():
            _remove(picture)
    _write(text, markdown(data, pictures, missing).encode())
    _write(page, report_page(data).encode())
    return Written(tuple(files), len(data["rows"]), missing)


def _pictures(data: dict[str, object]) -> tuple[dict[str, bytes], str | None]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}, f"The pictures are missing: they need matplotlib; install it with `{_INSTALL}`."
    return chart_pngs(data), None


def _remove(picture: Path) -> None:
    try:
        picture.unlink()
    except OSError as error:
        raise HybridgenError(f"{picture}: cannot be removed: {error.strerror or error}") from error


def _write(target: Path, content: bytes) -> None:
    with replaced_file(target) as file:
        file.write_bytes(content)
