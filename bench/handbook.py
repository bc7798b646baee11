"""Prose for perplexity: the Debian Administrator's Handbook, out of Debian's package of that name.

Nothing was calibrated on it. The package is pinned by its hash, so the text is the same wherever it is fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

PACKAGE = "debian-handbook"
VERSION = "11.20220922"
SHA256 = "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"
FOLDER = "./usr/share/doc/debian-handbook/html/en-US"
SHORTEST = 150  # characters; shorter paragraphs are captions and menu entries


class Paragraphs(HTMLParser):
    """Collects the text of <p> and of <div class="para">."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[str] = []  # tags inside the current paragraph, the paragraph's own first
        self._parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._open:
            if tag in ("p", "div"):
                self._open.append(tag)
        elif tag == "p" or (tag == "div" and ("class", "para") in attrs):
            self._open, self._parts = [tag], []

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[-1]:
            self._open.pop()
            text = " ".join("".join(self._parts).split())
            if not self._open and len(text) >= SHORTEST:
                self.texts.append(text)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._parts.append(data)


def text(cache: Path) -> str:
    """The handbook's paragraphs, pages in the order of their names, a blank line between paragraphs.

    Raises RuntimeError when the package cannot be downloaded or is not the pinned one.
    """
    package = _download(cache)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        pages = Paragraphs()
        for page in sorted((Path(folder) / FOLDER).glob("*.html")):
            pages.feed(page.read_text(encoding="utf-8"))
    return "\n\n".join(pages.texts)


def _download(cache: Path) -> Path:
    path = cache / f"{PACKAGE}_{VERSION}.deb"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = ["apt-get", "download", "-q", f"{PACKAGE}={VERSION}"]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            files = list(Path(folder).glob("*.deb"))
            if result.returncode != 0 or len(files) != 1:
                raise RuntimeError(f"apt-get could not download {PACKAGE}={VERSION}: {result.stderr.strip()}")
            shutil.move(files[0], path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        path.unlink()
        raise RuntimeError(f"{PACKAGE}={VERSION} is not the pinned package; it was removed, run again")
    return path
