"""Where the account's money is, and taking it out."""

from __future__ import annotations

from client.errors import InsufficientFunds
from client.marketplace import Marketplace
from client.results import Balance, Withdrawal
from client.store import FINAL, JobStore
from client.wallet import Wallet
from market.errors import ContractError


def balance_of(place: Marketplace, address: str, store: JobStore) -> Balance:
    """Reads every pot an account can have money in."""
    exiting = place.vault.exit_of(address)
    return Balance(
        account=address,
        token=place.token_info,
        wallet=place.token.balance_of(address),
        credit=place.vault.credit(place.token.address, address),
        staked=place.vault.staked(address),
        exiting=exiting.amount,
        exit_ready_at=exiting.ready_at,
        escrowed=sum(_escrow(place, record.job_id) for record in store.all() if record.state != FINAL),
        gas_wei=place.chain.balance(address),
    )


def _escrow(place: Marketplace, job_id: bytes) -> int:
    try:
        job = place.jobs.job(job_id)
    except ContractError:
        return 0  # never posted
    return 0 if job.state.is_final else job.escrow


def withdraw(place: Marketplace, wallet: Wallet, amount: int | None, to: str | None) -> Withdrawal:
    """Moves credit out of the vault.

    Args:
        amount: base units, None = all of it; to: address, None = the account itself.

    Raises:
        InsufficientFunds: there is no credit, or less than `amount`.
    """
    wallet.send_again_what_is_gone()  # a withdrawal that died half-way would be made twice, or make this one fail
    address = wallet.account.address
    credit = place.vault.credit(place.token.address, address)
    amount = credit if amount is None else amount
    if not 0 < amount <= credit:
        raise InsufficientFunds(
            f"The credit of {address} in the vault is {credit} base units"
            + (f", less than the {amount} asked for." if amount else ": there is nothing to withdraw."),
            hint="Nothing was sent. Escrow of open jobs becomes credit when they end.",
            credit=credit,
            needs=amount,
        )
    sent = wallet.send(place.vault.withdraw(place.token.address, to or address, amount))
    return Withdrawal(amount, to or address, sent.hash, sent.gas_used, place.token_info)
