"""`assay quote`, `assay job`, `assay balance`, `assay withdraw`."""

from __future__ import annotations

import typer

from client.cli_job import job_app
from client.cli_money import balance_app, withdraw_app
from client.cli_quote import quote_app

__all__ = ["app", "balance_app", "job_app", "quote_app", "withdraw_app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Buy inference.")
app.add_typer(job_app, name="job")
for part in (quote_app, balance_app, withdraw_app):
    app.registered_commands += part.registered_commands
