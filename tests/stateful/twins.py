"""Broken twins: the contracts with one rule removed or bent each. Every one must be caught."""

from __future__ import annotations

from dataclasses import dataclass

from tests.unit.contracts.artefacts import artefacts
from tools.compiler import Artefact, compile_sources, read_sources

JOBS, VAULT, REGISTRY = "Jobs", "Vault", "Registry"


@dataclass(frozen=True)
class Twin:
    """One replaced piece of source text, which must occur exactly once.

    Attributes:
        name: what the twin does wrong.
        contract: the deployed contract that changes; file: the source that does, without `.sol`.
        slow: left to the long run: its kind is represented by another twin.
    """

    name: str
    contract: str
    file: str
    old: str
    new: str
    slow: bool = False


TWINS = (
    Twin(
        "price rounds down",
        JOBS,
        "libraries/Payout",
        "Math.ceilDiv(inputTokens * terms.pricePerMInput + outputTokens * terms.pricePerMOutput, MILLION)",
        "(inputTokens * terms.pricePerMInput + outputTokens * terms.pricePerMOutput) / MILLION",
    ),
    Twin(
        "kill fee above the price",
        JOBS,
        "libraries/Payout",
        "return Math.min(terms.killFee, price(",
        "return Math.max(terms.killFee, price(",
        slow=True,
    ),
    Twin("unagreed output paid", JOBS, "libraries/Payout", " && replica.digest == agreed", ""),
    Twin(
        "remainder of miss fees kept",
        JOBS,
        "libraries/Payout",
        "result.missFees - result.missShare * revealed",
        "0",
    ),
    Twin(
        "miss fee not taken",
        JOBS,
        "libraries/Payout",
        "replica.terms.bond - replica.terms.missFee;",
        "replica.terms.bond;",
        slow=True,
    ),
    Twin(
        "challenger may take it all",
        JOBS,
        "libraries/Payout",
        "(bond - refund) / 2",
        "bond - refund",
        slow=True,
    ),
    Twin(
        "slash without refund",
        JOBS,
        "Jobs",
        "uint256 refund = _payment(record, replica);",
        "uint256 refund = 0;",
    ),
    Twin(
        "bond below the refund",
        JOBS,
        "libraries/QuoteRules",
        "if (quote.bond < needs)",
        "if (false)",
        slow=True,
    ),
    Twin(
        "reveal late by one second",
        JOBS,
        "Jobs",
        "bool late = block.timestamp > record",
        "bool late = block.timestamp >= record",
    ),
    Twin(
        "deadline's second not counted",
        JOBS,
        "Jobs",
        "if (block.timestamp > deadline) revert",
        "if (block.timestamp >= deadline) revert",
        slow=True,
    ),
    Twin(
        "settled while some may reveal",
        JOBS,
        "Jobs",
        "if (record.revealed == record.committed) return false;",
        "return false;",
    ),
    Twin(
        "late reveal makes agreement",
        JOBS,
        "Jobs",
        "if (record.agreedBy == 0) revert TooLate(jobId, block.timestamp, record.revealEnd());",
        "",
    ),
    Twin(
        "bond let go in its window",
        JOBS,
        "Jobs",
        "uint256(record.finalAt) + disputeWindow;",
        "uint256(record.finalAt);",
    ),
    Twin("job settles twice", JOBS, "Jobs", "        record.state = state;\n", ""),
    Twin(
        "nobody can settle",
        JOBS,
        "Jobs",
        "bool lapsed = _needSettleable(jobId, record);",
        "bool lapsed; if (record.finalAt == 0) revert UnknownJob(jobId);",
    ),
    Twin(
        "anybody cancels",
        JOBS,
        "Jobs",
        "if (msg.sender != record.client) revert NotClient(jobId, msg.sender);",
        "",
        slow=True,
    ),
    Twin("anybody arbitrates", JOBS, "Jobs", "if (msg.sender != arbiter) revert NotArbiter(msg.sender);", ""),
    Twin("any output opens a commitment", JOBS, "Jobs", "if (opened != replica.digest)", "if (opened == 0)"),
    Twin(
        "quote used for ever",
        JOBS,
        "Jobs",
        "        quoteUsed[digest][msg.sender] = true;\n",
        "",
        slow=True,
    ),
    Twin(
        "one vote too few",
        JOBS,
        "Jobs",
        "if (equal < record.quorum) return;",
        "if (equal + 1 < record.quorum) return;",
        slow=True,
    ),
    Twin("quorum of half", JOBS, "libraries/QuoteRules", "2 * quorum > replicas", "2 * quorum >= replicas"),
    Twin(
        "commitment without a bond",
        JOBS,
        "Jobs",
        "        IVault(vault).bond(msg.sender, replica.terms.bond);\n",
        "",
        slow=True,
    ),
    Twin(
        "anybody is a module",
        VAULT,
        "Vault",
        "if (!isModule[msg.sender]) revert NotModule(msg.sender);",
        "",
    ),
    Twin(
        "withdrawn credit stays",
        VAULT,
        "Vault",
        "credit[token][owner] = has - amount;",
        "credit[token][owner] = has;",
    ),
    Twin(
        "bonded stake stays",
        VAULT,
        "Vault",
        "staked[owner] = has - amount;",
        "staked[owner] = has;",
        slow=True,
    ),
    Twin(
        "paid money stays held",
        VAULT,
        "Vault",
        "held[msg.sender][token] = has - amount;",
        "held[msg.sender][token] = has;",
        slow=True,
    ),
    Twin("cap not kept", VAULT, "Vault", "if (sum > limit) revert", "if (limit == 0) revert", slow=True),
    Twin(
        "fee on transfer credited",
        VAULT,
        "Vault",
        "if (received != amount) revert",
        "if (received == 0) revert",
    ),
    Twin(
        "exit before its window",
        VAULT,
        "Vault",
        "if (block.timestamp < exit.readyAt)",
        "if (block.timestamp + 1 days < exit.readyAt)",
    ),
    Twin(
        "deposit into a deprecated vault",
        VAULT,
        "Vault",
        "if (isDeprecated) revert VaultDeprecated();",
        "",
        slow=True,
    ),
    Twin("offers outlive their provider", REGISTRY, "Registry", "        ++provider.epoch;\n", ""),
)


def broken(twin: Twin) -> dict[str, str]:
    """The twin's whole source tree, under a folder of its own."""
    path = f"contracts/{twin.file}.sol"
    tree = {name: text for name, text in read_sources().items() if not name.startswith("contracts/test/")}
    assert tree[path].count(twin.old) == 1, f"{twin.name}: the text to break occurs {tree[path].count(twin.old)} times"
    changed = tree[path].replace(twin.old, twin.new)
    return {f"{_folder(twin)}/{name}": changed if name == path else text for name, text in tree.items()}


def compile_twins(slow: bool) -> dict[str, dict[str, Artefact]]:
    """Twin's name → all contracts, one of them broken. One run of the compiler for all that are (not) slow."""
    twins = [twin for twin in TWINS if twin.slow == slow]
    sources: dict[str, str] = {}
    for twin in twins:
        sources |= broken(twin)
    paths = {twin.name: f"{_folder(twin)}/contracts/{twin.contract}.sol" for twin in twins}
    selection = {paths[twin.name]: [twin.contract] for twin in twins}
    compiled = compile_sources(sources, selection, strict=False)
    return {twin.name: artefacts() | {twin.contract: compiled[paths[twin.name]][twin.contract]} for twin in twins}


def _folder(twin: Twin) -> str:
    return f"twins/{twin.name.replace(' ', '-')}"
