"""Builds the site of docs/ with Zensical: `site/`, or with --check a folder that is thrown away. Warnings are errors.

The pages are written for two readers, a repository browser and the site. Links from docs/ to other files of the
repository work in the first alone, so that the site gets a page for each such file, and the links go there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = "files"
"""The folder of the site in which files from outside docs/ have their pages."""
LANGUAGES = {".yaml": "yaml", ".py": "python", ".json": "json", ".cpp": "cpp", ".sh": "sh", ".toml": "toml"}
LINK = re.compile(r"(?P<head>!?\[[^\]]*\]\(|<(?:img|source|a)\b[^>]*?(?:src|srcset|href)=\")(?P<to>[^)\s\"]+)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")


class BrokenLinkError(Exception):
    """A link that leads nowhere, or a page that stands in no menu."""


def links(text: str) -> Iterator[re.Match[str]]:
    """Yields the links of a page that lead to files; those in code, and addresses, are none."""
    code = [match.span() for pattern in (FENCE, _CODE) for match in pattern.finditer(text)]
    for match in LINK.finditer(text):
        inside = any(begin <= match.start() < end for begin, end in code)
        if not inside and not re.match(r"[a-z]+:", match["to"]):
            yield match


def anchors(text: str) -> set[str]:
    """Returns the anchors that a repository browser gives a page's headings; Zensical looks for those of the site."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def broken_links(page: Path) -> list[str]:
    """Returns what is wrong with the links of a page."""
    text = page.read_text(encoding="utf-8")
    wrong = []
    for match in links(text):
        path, _, anchor = match["to"].partition("#")
        target = (page.parent / path).resolve() if path else page
        line = text.count("\n", 0, match.start()) + 1
        if not target.exists() or not target.is_relative_to(ROOT):
            wrong.append(f"{page.relative_to(ROOT)}:{line}: {match['to']}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(f"{page.relative_to(ROOT)}:{line}: {match['to']}: there is no such heading")
    return wrong


def menu_pages(entries: object) -> Iterator[str]:
    """Yields the pages of a menu."""
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, list | dict):
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from menu_pages(entry)


def stage(folder: Path) -> None:
    """Copies the docs to a folder, with pages for the files that they link to.

    Raises:
        BrokenLinkError: If a link leads nowhere, or a page stands in no menu.
    """
    pages = sorted(DOCS.rglob("*.md"))
    wrong = [fault for page in pages for fault in broken_links(page)]
    menu = set(menu_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = {str(page.relative_to(DOCS)) for page in pages}
    wrong += [f"mkdocs.yml: nav: {name}: there is no such page" for name in sorted(menu - there)]
    wrong += [f"mkdocs.yml: nav: give docs/{name} a place" for name in sorted(there - menu)]
    if wrong:
        raise BrokenLinkError("\n".join(wrong))
    shutil.copytree(DOCS, folder)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in reversed(list(links(text))):
            target = (page.parent / match["to"].partition("#")[0]).resolve()
            if not target.is_relative_to(DOCS):
                to = _outside_page(folder, target)
                up = "../" * (len(page.relative_to(DOCS).parts) - 1)
                text = text[: match.start("to")] + up + to + text[match.end("to") :]
        (folder / page.relative_to(DOCS)).write_text(text, encoding="utf-8")


def _outside_page(folder: Path, target: Path) -> str:
    """Writes the page of a file or directory outside docs/, once, and returns its name."""
    name = target.relative_to(ROOT)
    page = folder / FILES / f"{name}.md"
    if page.exists():
        return f"{FILES}/{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"# {name}\n", encoding="utf-8")  # before the files in it are written, which is the same page
    if target.is_dir():
        inside = [one for one in sorted(target.iterdir()) if one.is_file()]
        body = "\n".join(f"- [{one.name}]({'../' * len(name.parts)}{_outside_page(folder, one)})" for one in inside)
    else:
        language = LANGUAGES.get(target.suffix, "text")
        body = f"````{language}\n{target.read_text(encoding='utf-8').rstrip()}\n````"
    page.write_text(f"# {name}\n\n{body}\n", encoding="utf-8")
    return f"{FILES}/{name}.md"


def build(output: Path | None) -> None:
    """Builds the site into a folder, which is replaced; None is one that is thrown away.

    Raises:
        BrokenLinkError: If a link leads nowhere.
        subprocess.CalledProcessError: If Zensical warns of anything.
    """
    with tempfile.TemporaryDirectory(prefix="hybridgen-docs-") as name:
        folder = Path(name)
        stage(folder / "docs")
        shutil.copy(ROOT / "mkdocs.yml", folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
        subprocess.run(command, check=True)
        if output:
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(folder / "site", output)


def main() -> int:
    """Builds or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="build, and keep nothing")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "site", help="folder of the site")
    arguments = parser.parse_args()
    try:
        build(None if arguments.check else arguments.output)
    except BrokenLinkError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    if not arguments.check:
        print(f"{arguments.output}: see it with `python -m http.server -d {arguments.output}`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
