"""Where the escrow comes from: credit in the vault first, then exactly what is missing, by allowance or permit.

An allowance is never larger than one job needs: a permit or approval is made for the missing amount alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from eth_account.signers.local import LocalAccount

from client.errors import InsufficientFunds, NoAllowance
from market.chain import Call
from market.contracts import Token, Vault
from market.errors import ChainError, ContractError

PERMIT_SECONDS = 600
"""How long a signed permit is good for."""


class EscrowSource(enum.StrEnum):
    """What the caller allows; `auto` takes the first that works in the order credit, allowance, permit, approval."""

    AUTO = "auto"
    CREDIT = "credit"
    ALLOWANCE = "allowance"
    PERMIT = "permit"


@dataclass(frozen=True)
class EscrowPlan:
    """How `post` will be paid: `source` in one word, `permit` for JobParams, `approval` to send before it, if any."""

    source: str
    missing: int
    permit: bytes = b""
    approval: Call | None = None


def plan_escrow(
    token: Token,
    vault: Vault,
    account: LocalAccount,
    amount: int,
    *,
    now: int,
    source: EscrowSource = EscrowSource.AUTO,
) -> EscrowPlan:
    """Finds the money for an escrow of `amount` base units. Sends nothing.

    Args:
        now: unix seconds, for the permit's deadline.

    Raises:
        InsufficientFunds: credit and balance together are too little, or only credit is allowed and is too little.
        NoAllowance: the caller wants an allowance or a permit, and there is none or the token knows none.
    """
    credit = vault.credit(token.address, account.address)
    if credit >= amount:
        return EscrowPlan("credit", 0)
    missing = amount - credit
    wallet = 0 if source is EscrowSource.CREDIT else token.balance_of(account.address)
    if wallet < missing:
        raise _too_little(amount, credit, wallet, account.address, source)
    if source in (EscrowSource.AUTO, EscrowSource.ALLOWANCE):
        allowance = token.allowance(account.address, vault.address)
        if allowance >= missing:
            return EscrowPlan("allowance", missing)
        if source is EscrowSource.ALLOWANCE:
            raise NoAllowance(
                f"The vault may take {allowance} base units, the job needs {missing} beyond your credit.",
                hint="Nothing was spent. Approve the vault for that much, or let a permit do it (--escrow auto).",
                allowance=allowance,
                needs=missing,
                vault=vault.address.lower(),
            )
    try:
        return EscrowPlan("permit", missing, permit=token.permit(account, vault.address, missing, now + PERMIT_SECONDS))
    except (ChainError, ContractError):
        if source is EscrowSource.PERMIT:
            raise NoAllowance(
                f"The token at {token.address} knows no ERC-2612 permit.",
                hint="Nothing was spent. Use --escrow auto, which approves the exact amount instead.",
                token=token.address.lower(),
            ) from None
    return EscrowPlan("approval", missing, approval=token.approve(vault.address, missing))


def _too_little(amount: int, credit: int, wallet: int, account: str, source: EscrowSource) -> InsufficientFunds:
    if source is EscrowSource.CREDIT:
        return InsufficientFunds(
            f"The job needs {amount} base units, your credit in the vault is {credit}.",
            hint="Nothing was spent. Deposit more, or allow other sources with --escrow auto.",
            needs=amount,
            credit=credit,
        )
    return InsufficientFunds(
        f"The job needs {amount} base units; {account} has {credit} of credit and {wallet} in its wallet.",
        hint="Nothing was spent. Get more tokens, ask for fewer output tokens, or fewer replicas.",
        needs=amount,
        credit=credit,
        wallet=wallet,
    )
