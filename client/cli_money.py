"""`assay balance` and `assay withdraw`."""

from __future__ import annotations

import typer
from eth_utils.address import is_address, to_checksum_address

from client.cli_options import Connection, connected
from client.errors import BadRequest
from client.render import money, page, progress_on, show_balance
from market.money import parse_amount

balance_app = typer.Typer(add_completion=False)
withdraw_app = typer.Typer(add_completion=False)


@balance_app.command("balance")
@connected
def balance_command(connection: Connection) -> None:
    """What you hold, what is in the vault, and what open jobs have put aside. No key is needed.

    Examples:

        assay balance

        assay balance --json | jq .credit
    """
    with connection.open(with_key=False) as client:
        balance = client.balance()
    if connection.as_json:
        connection.emit(balance.to_json())
    else:
        show_balance(page(), balance)


@withdraw_app.command("withdraw")
@connected
def withdraw_command(
    connection: Connection,
    amount: str | None = typer.Argument(None, help="In units of the token. Default: all credit.", show_default=False),
    to: str | None = typer.Option(None, "--to", help="Another address than your own.", show_default=False),
    yes: bool = typer.Option(False, "--yes", "-y", help="Don't ask before paying another address."),
) -> None:
    """Take your credit out of the vault: refunds of jobs, unused escrow, earnings.

    Examples:

        assay withdraw

        assay withdraw 2.5 --to 0x1111111111111111111111111111111111111111 --yes
    """
    if to is not None and not is_address(to):
        raise BadRequest(f"“{to[:60]}” is no address.", hint="Nothing was sent.")
    if to is not None:
        connection.confirm(f"Withdraw to {to}?", yes=yes)
    with connection.open(with_key=True) as client:
        token = client.marketplace.token_info
        units = None if amount is None else parse_amount(amount, token.decimals)
        with progress_on(connection.console):
            withdrawal = client.withdraw(units, None if to is None else to_checksum_address(to))
    if connection.as_json:
        connection.emit(withdrawal.to_json())
    else:
        page().print(f"{money(withdrawal.amount, token)} went to {withdrawal.to.lower()} ({withdrawal.transaction})")
