"""`assay model pack|show|verify`: make, describe and check model packs. Errors are AssayErrors; the root command prints
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from market.errors import ConfigError
from market.models import recipe as recipes
from market.models.fetch import fetch_source
from market.models.pack import MANIFEST, Pack, load_pack, verify_pack
from market.models.packer import open_source, write_pack

app = typer.Typer(no_args_is_help=True, help="Pack, show and verify model packs.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the pack.", show_default=False)]


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="A .gguf file, a snapshot folder, or 'package' for the recipe's own.")],
    recipe: Annotated[Path, typer.Option(help="The recipe: fraction bits, context, expected model id.")],
    out: Annotated[Path, typer.Option(help="Folder to write; replaced when it holds a pack.")],
    as_json: Json = False,
) -> None:
    """Turn a float model into a content-addressed pack of integers.

    Example: assay model pack SmolLM2-135M-Instruct.Q4_1.gguf --recipe recipes/smollm2-135m-instruct.toml --out smollm2
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / MANIFEST).exists():
        raise ConfigError(f"{out} exists and holds no pack; nothing was written.", hint="Name another folder.")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the source", total=1)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        chosen = recipes.read(recipe)
        path = fetch_source(chosen, out.parent / "downloads", progress) if source == "package" else Path(source)
        made = write_pack(open_source(path), chosen, out, progress)
    _print(made, as_json, "packed")


@app.command()
def show(path: Folder, as_json: Json = False) -> None:
    """Describe a pack: id, roots, limits, proved bounds. Checks the files' hashes first."""
    _print(load_pack(path), as_json, "whole")


@app.command()
def verify(path: Folder, as_json: Json = False) -> None:
    """Rebuild every root and prove every bound again; the first part that differs is named."""
    with Console(stderr=True).status("rebuilding the roots …"):
        checked = verify_pack(path)
    _print(checked, as_json, "verified")


def _print(made: Pack, as_json: bool, state: str) -> None:
    manifest = made.manifest
    if as_json:
        typer.echo(json.dumps({"path": str(made.path), "state": state, **manifest}))
        return
    console = Console(soft_wrap=True)
    console.print(f"[bold]{made.name}[/] ({state}), {made.licence}")
    console.print(f"model id  {manifest['modelId']}")
    for name, root in manifest["roots"].items():
        console.print(f"{name:<14} {root}")
    limits, size = made.limits, sum(int(file["bytes"]) for file in manifest["files"].values())
    stop = ", ".join(map(str, limits.stop_tokens)) or "none"
    console.print(f"context {limits.context}, vocabulary {limits.vocabulary}, stop tokens {stop}, {size:,} bytes")
    console.print(_bounds(manifest["bounds"]))


def _bounds(bounds: list[dict[str, Any]]) -> Table:
    table = Table(
        "operation", "worst case of", "bits", "safe", "type", title="Proved for every prompt", title_justify="left"
    )
    for bound in bounds:
        if "l1Max" in bound:
            quantity, bits = f"accumulator (L1 {bound['l1Max']:,})", bound["accumulatorBits"]
            limit = 31 if bound["type"] == "int32" else 62
        else:
            quantity, bits, limit = bound["quantity"], bound["bits"], bound["limit"]
        table.add_row(bound["operation"], quantity, str(bits), str(limit), bound["type"])
    return table
