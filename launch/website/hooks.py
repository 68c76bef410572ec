"""What mkdocs calls while it builds the site: adds the generated pages, completes the navigation, sets links, pictures and formulas."""

import posixpath
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from byzdist.config.settings import KINDS
from website import pieces, reference
from website.figures import PICTURES
from website.formulas import drawn

ROOT = Path(__file__).parents[2]
BORROWED = {  # pages of the repository that lie outside docs/, and their names in the site
    "README.md": "manual.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "byzdist/transport/README.md": "transport.md",
    "docker/README.md": "docker.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ELSEWHERE = re.compile(
    r"""<(script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//[^>]*>|<link\b[^>]*stylesheet[^>]*//[^>]*>"""
)
PICTURE = re.compile(r"<!-- picture: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not have, and name all pages in the navigation."""
    for name, address in BORROWED.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_text()))
    for address, name in (("assets/site.css", "site.css"), ("assets/iframe-worker.js", "offline.js")):
        files.append(File.generated(config, address, abs_src_path=str(Path(__file__).with_name(name))))
    files.append(File.generated(config, "pieces/index.md", content=pieces.overview()))
    for word in KINDS:
        if files.get_file_from_path(f"pieces/{word}.md") is None:
            files.append(File.generated(config, f"pieces/{word}.md", content=f"# {pieces.title(word)}\n"))
    for address, text in reference.pages().items():
        files.append(File.generated(config, address, content=text))
    assert config.nav is not None
    named = set(_named(config.nav)) | {f"pieces/{word}.md" for word in KINDS} | {*reference.pages(), "pieces/index.md"}
    found: dict[str, list[Any]] = {
        "pieces": ["pieces/index.md", *({pieces.title(word): f"pieces/{word}.md"} for word in KINDS)],
        "reference": list(reference.pages()),
        "others": sorted(file.src_uri for file in files.documentation_pages() if file.src_uri not in named),
    }
    config.nav = _filled(config.nav, found)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add to a kind's page its pieces, put pictures in their places, and turn links into the repository into links of the site."""
    address = page.file.src_uri
    if address.startswith("pieces/") and (word := Path(address).stem) in KINDS:
        markdown += "\n" + pieces.page(word)
    source = next((name for name, borrowed in BORROWED.items() if borrowed == address), f"docs/{address}")

    def linked(found: re.Match[str]) -> str:
        image, words, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path or files.get_file_from_path(_joined(address, path)) is not None:
            return found[0]
        name = _joined(source, path)
        there = BORROWED.get(name, name.removeprefix("docs/") if name.startswith("docs/") else f"source/{name}")
        if not (ROOT / name).is_file():
            return words if (ROOT / name).is_dir() else found[0]  # what is nowhere is left to mkdocs, which warns of it
        if files.get_file_from_path(there) is None:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / name)))
        return (
            f"{image}[{words}]({posixpath.relpath(there, posixpath.dirname(address) or '.')}{anchor and '#'}{anchor})"
        )

    def finished(part: str) -> str:
        return PICTURE.sub(lambda found: PICTURES[found[1]](), LINK.sub(linked, part))

    return "".join(part if is_code else finished(part) for is_code, part in _parts(markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas."""
    return FORMULA.sub(lambda found: drawn(unescape(found[2]), display=found[1] == "div"), html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads something from elsewhere: it would be incomplete without a network, and tell others who reads it."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output


def _parts(markdown: str) -> Iterator[tuple[bool, str]]:
    """Yield the pieces of a text, and whether each is code."""
    end = 0
    for found in CODE.finditer(markdown):
        yield False, markdown[end : found.start()]
        yield True, found[0]
        end = found.end()
    yield False, markdown[end:]


def _joined(source: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def _named(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for one in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _named(one) if isinstance(one, list) else [one]


def _filled(entries: list[Any], found: dict[str, list[Any]]) -> list[Any]:
    """Return the navigation with each entry ``<name>`` replaced by the pages of that name."""
    filled: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and entry.strip("<>") in found and entry != entry.strip("<>"):
            filled += found[entry.strip("<>")]
        elif isinstance(entry, dict):
            filled.append(
                {title: _filled(one, found) if isinstance(one, list) else one for title, one in entry.items()}
            )
        else:
            filled.append(entry)
    return filled
