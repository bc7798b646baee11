"""A provider of proofs told to everybody: its address and its offers in the registry, sent only where they differ."""

from __future__ import annotations

from collections.abc import Callable

from market.contracts import Registry
from market.errors import ConfigError
from market.hashing import ZERO32
from market.proofs.artefact import ProofArtefact
from market.transactions import Transactions
from market.types import Mode
from market.views import Offer, modes_mask
from provider.proofs import ProofShop

Report = Callable[[str], None]


def announce(
    registry: Registry,
    transactions: Transactions,
    shop: ProofShop,
    *,
    token: str,
    endpoint: str,
    label: str = "",
    report: Report = lambda _text: None,
) -> None:
    """Sets the endpoint of the sender and an offer of mode PROOF for each model of the shop.

    Args:
        token: that jobs are paid in; endpoint: URL under which clients reach this provider.
        label: region or privacy class, up to 32 bytes.
    Raises:
        ConfigError: the label is too long. ChainError; ContractError where the registry refuses.
    """
    labels = label.encode().ljust(32, b"\0")
    if len(labels) > len(ZERO32):
        raise ConfigError(f"label {label!r} takes more than 32 bytes.", field="label")
    me = registry.provider(transactions.address)
    if (me.endpoint, me.labels) != (endpoint, labels):
        transactions.send(registry.set_provider(endpoint, labels))
        report(f"announced {endpoint}")
    for model_id, artefact in shop.artefacts.items():
        offer = offer_of(artefact, shop, token)
        if registry.offer(transactions.address, model_id) != offer:
            transactions.send(registry.set_offer(model_id, offer))
            report(f"offers proofs of {artefact.name} (0x{model_id.hex()})")


def withdraw(registry: Registry, transactions: Transactions, shop: ProofShop, report: Report) -> None:
    """Takes the offers back, so that no client finds this provider any more; jobs that are open stay its own.

    Raises: ChainError; ContractError.
    """
    for model_id, artefact in shop.artefacts.items():
        if registry.offer(transactions.address, model_id).modes:
            transactions.send(registry.remove_offer(model_id))
            report(f"no longer offers proofs of {artefact.name} (0x{model_id.hex()})")


def offer_of(artefact: ProofArtefact, shop: ProofShop, token: str) -> Offer:
    """What stands in the registry for a model: exactly its shape, and never drawn, which takes a stake."""
    return Offer(
        token=token,
        base_fee=shop.prices.base_fee,
        price_per_m_input=shop.prices.per_m_input,
        price_per_m_output=shop.prices.per_m_output,
        max_input_tokens=artefact.program.inputs,
        max_output_tokens=artefact.program.outputs,
        modes=modes_mask((Mode.PROOF,)),
        max_bond=0,
    )
