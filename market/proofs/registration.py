"""Bringing an artefact onto a chain: the model published, its verifier deployed and registered. Anybody may."""

from __future__ import annotations

from dataclasses import dataclass

from market.chain import CREATE, DEVELOPMENT_CHAIN_IDS, Call
from market.deployment import Contracts, created_at
from market.errors import ContractError
from market.proofs.artefact import ProofArtefact, check_powers
from market.transactions import Transactions


@dataclass(frozen=True)
class Registered:
    """Address of the model's verifier, and what was sent for it."""

    verifier: str
    sent: tuple[str, ...]


def register(
    artefact: ProofArtefact,
    contracts: Contracts,
    transactions: Transactions,
    *,
    srs_sha256: str | None = None,
    allow_unsafe: bool = False,
) -> Registered:
    """Sends what is missing; a second call sends nothing.

    Args:
        srs_sha256: of the ceremony's file; a real chain takes no artefact without.
    Raises:
        SrsError: on a real chain, see `check_powers`.
        ChainError, ContractError: VerifierMismatch where the artefact is not its modelId's.
    """
    if not allow_unsafe and transactions.chain.chain_id not in DEVELOPMENT_CHAIN_IDS:
        check_powers(artefact, srs_sha256)
    sent = []
    try:
        contracts.registry.model(artefact.model_id)
    except ContractError as error:
        if error.code != "UnknownModel":
            raise
        if _unless(
            transactions, contracts.registry.publish_model(artefact.model, artefact.name), "ModelAlreadyPublished"
        ):
            sent.append("publishModel")
    verifier = contracts.verifier.verifier_of(artefact.model_id)
    if verifier is None:
        made = transactions.send(Call(CREATE, artefact.creation, "Halo2Verifier"))
        verifier = created_at(made)
        sent.append("Halo2Verifier")
        call = contracts.verifier.register(artefact.model_id, verifier, artefact.program)
        if _unless(transactions, call, "VerifierAlreadyRegistered"):
            sent.append("register")
        else:
            verifier = contracts.verifier.verifier_of(artefact.model_id) or verifier
    return Registered(verifier, tuple(sent))


def _unless(transactions: Transactions, call: Call, code: str) -> bool:
    """Sends; False where somebody else was faster, which is as good: the modelId says what is right."""
    try:
        transactions.send(call)
    except ContractError as error:
        if error.code != code:
            raise
        return False
    return True
