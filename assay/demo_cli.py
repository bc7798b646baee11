"""`assay demo`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import typer
from rich.console import Console

from assay import demo
from assay.network_cli import check_packs

app = typer.Typer(add_completion=False)


@app.command("demo")
def demo_command(
    prompt: str = typer.Option(demo.PROMPT, help="What to ask."),
    max_output_tokens: int = typer.Option(demo.MAX_OUTPUT_TOKENS, help="Longest answer, in tokens."),
    pack: Path = typer.Option(Path("build/models/smollm2-135m-instruct"), help="Model pack that the providers serve."),
    output: Path = typer.Option(Path("build/demo.json"), help="Where the figures go."),
    block_time: float = typer.Option(0.0, min=0.0, help="Seconds between blocks; 0 mines every transaction at once."),
    as_json: bool = typer.Option(
        False, "--json", help="The figures on standard output, the picture on standard error."
    ),
) -> None:
    """Run a whole job on a fresh local chain with three providers, then once more with a liar.

    Starts everything it needs, stops it again, and keeps nothing but the figures.

    Examples:

        assay demo

        assay demo --prompt "Why is the sky blue?" --block-time 1
    """
    check_packs([pack])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops what was started, too
    options = demo.DemoOptions(
        pack=pack,
        output=output,
        prompt=prompt,
        max_output_tokens=max_output_tokens,
        block_time=block_time or None,
    )
    jobs = demo.run(options, Console(stderr=as_json, highlight=False))
    if as_json:
        typer.echo(json.dumps(jobs))
