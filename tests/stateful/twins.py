"""Broken twins: the contracts with one rule removed or bent each. Every one must be caught."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from market.artefacts import LIBRARIES
from tests.unit.contracts.artefacts import artefacts
from tools.compiler import Artefact, compile_sources, read_sources

JOBS, VAULT, REGISTRY = "Jobs", "Vault", "Registry"
DRAWS, SEEDS, SETTLEMENTS, DEMANDS, VERDICTS = LIBRARIES
FOLDERS = dict.fromkeys(LIBRARIES, "libraries/")


@dataclass(frozen=True)
class Twin:
    """One replaced piece of source text, which must occur exactly once.

    Attributes:
        name: what the twin does wrong.
        contract: the deployed contract or library that changes; file: the source that does, without `.sol`.
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
        SETTLEMENTS,
        "libraries/Payout",
        "return Math.min(terms.killFee, price(",
        "return Math.max(terms.killFee, price(",
        slow=True,
    ),
    Twin("unagreed output paid", SETTLEMENTS, "libraries/Payout", " && replica.digest == agreed", ""),
    Twin(
        "remainder of miss fees kept",
        SETTLEMENTS,
        "libraries/Payout",
        "result.missFees - result.missShare * revealed",
        "0",
        slow=True,
    ),
    Twin(
        "miss fee not taken",
        SETTLEMENTS,
        "libraries/Payout",
        "replica.terms.bond - replica.terms.missFee;",
        "replica.terms.bond;",
        slow=True,
    ),
    Twin(
        "challenger may take it all",
        VERDICTS,
        "libraries/Payout",
        "(bond - refund) / 2",
        "bond - refund",
        slow=True,
    ),
    Twin(
        "slash without refund",
        VERDICTS,
        "libraries/Verdicts",
        "Payout.payment(replica, job.state, job.agreedOutput(), job.inputTokens, job.maxOutputTokens);",
        "0;",
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
        "libraries/JobChecks",
        "if (block.timestamp > deadline) revert",
        "if (block.timestamp >= deadline) revert",
        slow=True,
    ),
    Twin(
        "settled while some may reveal",
        SETTLEMENTS,
        "libraries/Settlements",
        "if (job.revealed == job.committed) return false;",
        "return false;",
    ),
    Twin(
        "late reveal makes agreement",
        JOBS,
        "Jobs",
        "if (record.agreedBy == 0) revert TooLate(jobId, block.timestamp, record.revealEnd());",
        "",
        slow=True,
    ),
    Twin(
        "bond let go in its window",
        SETTLEMENTS,
        "libraries/JobRecords",
        "return start + disputeWindow;",
        "return start;",
        slow=True,
    ),
    Twin("job settles twice", SETTLEMENTS, "libraries/Settlements", "        job.state = state;\n", ""),
    Twin(
        "nobody can settle",
        SETTLEMENTS,
        "libraries/Settlements",
        "bool lapsed = _needSettleable(job, jobId);",
        "bool lapsed; if (job.finalAt == 0) revert IJobs.UnknownJob(jobId);",
        slow=True,
    ),
    Twin(
        "anybody cancels",
        SETTLEMENTS,
        "libraries/Settlements",
        "if (msg.sender != job.client) revert IJobs.NotClient(jobId, msg.sender);",
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
    Twin("quorum of half", JOBS, "libraries/QuoteRules", "2 * quorum > replicas", "2 * quorum >= replicas", slow=True),
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
        "_stakes[owner].free = has - taken;",
        "_stakes[owner].free = has;",
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
        slow=True,
    ),
    Twin(
        "exit before its window",
        VAULT,
        "Vault",
        "if (block.timestamp < exit.readyAt)",
        "if (block.timestamp + 1 days < exit.readyAt)",
        slow=True,
    ),
    Twin(
        "deposit into a deprecated vault",
        VAULT,
        "Vault",
        "if (isDeprecated) revert VaultDeprecated();",
        "",
        slow=True,
    ),
    Twin(
        "draw known while its block lasts",
        DRAWS,
        "libraries/Draws",
        "if (block.number <= drawBlock) revert IJobs.DrawNotReady(jobId, drawBlock);",
        "",
    ),
    Twin(
        "draw that found too few starts",
        DRAWS,
        "libraries/Draws",
        "if (drawn.length < job.replicaCount)",
        "if (false)",
        slow=True,
    ),
    Twin(
        "a draw's deadline not kept",
        DRAWS,
        "libraries/Draws",
        "        JobChecks.notAfter(jobId, job.commitDeadline);\n",
        "",
        slow=True,
    ),
    Twin(
        "lapsed draw is free",
        SETTLEMENTS,
        "libraries/Settlements",
        "if (!job.drawing.failed) burnt",
        "if (false) burnt",
        slow=True,
    ),
    Twin(
        "failed draw is not free",
        SETTLEMENTS,
        "libraries/Settlements",
        "if (!job.drawing.failed) burnt",
        "burnt",
        slow=True,
    ),
    Twin(
        "draw without a fee",
        JOBS,
        "libraries/QuoteRules",
        "if (offered.quote.killFee < minimum)",
        "if (false)",
        slow=True,
    ),
    Twin(
        "escrow of one for all that are drawn",
        JOBS,
        "Jobs",
        "return (price * params.draw, digests);",
        "return (price, digests);",
        slow=True,
    ),
    Twin(
        "answer demanded of whoever revealed none",
        DEMANDS,
        "libraries/Demands",
        "if (replica.state != ReplicaState.REVEALED && replica.state != ReplicaState.LATE) {",
        "if (false) {",
        slow=True,
    ),
    Twin(
        "answer of the unpaid for the fee alone",
        DEMANDS,
        "libraries/Demands",
        "return unpaid ? Payout.price(",
        "return false ? Payout.price(",
        slow=True,
    ),
    Twin(
        "slashed liar keeps the price of its answer",
        VERDICTS,
        "libraries/Verdicts",
        "Demands.sold(job, jobId, index, false)",
        "Demands.sold(job, jobId, index, true)",
        slow=True,
    ),
    Twin(
        "honest minority is not paid for its answer",
        SETTLEMENTS,
        "libraries/Settlements",
        "Demands.sold(job, jobId, index, true)",
        "Demands.sold(job, jobId, index, false)",
        slow=True,
    ),
    Twin(
        "private answer demanded by anybody",
        DEMANDS,
        "libraries/Demands",
        "if (msg.sender != job.client && !job.inlineInput)",
        "if (msg.sender == address(0))",
        slow=True,
    ),
    Twin(
        "demanded twice",
        DEMANDS,
        "libraries/Demands",
        "if (replica.demandDeadline != 0) revert IJobs.AlreadyDemanded(jobId, provider);",
        "",
        slow=True,
    ),
    Twin(
        "any ids published",
        DEMANDS,
        "libraries/Demands",
        "if (got != replica.digest) revert IJobs.OutputMismatch(replica.digest, got);",
        "",
    ),
    Twin(
        "published too late",
        DEMANDS,
        "libraries/Demands",
        "        JobChecks.notAfter(jobId, replica.demandDeadline);\n",
        "",
        slow=True,
    ),
    Twin(
        "withheld bond slashed in a dispute",
        DEMANDS,
        "libraries/Demands",
        "disputed ? job.disputeEnd(replica, resolveWindow) : replica.demandDeadline",
        "replica.demandDeadline",
        slow=True,
    ),
    Twin(
        "withheld bond let go",
        SETTLEMENTS,
        "libraries/JobChecks",
        "if (replica.demandDeadline != 0 && job.demanders[index] != address(0))",
        "if (false)",
    ),
    Twin(
        "demand's fee kept by nobody",
        VERDICTS,  # which has the internal function in its own code
        "libraries/Demands",
        "if (demander != address(0)) _close(job, jobId, index, demander);",
        "",
        slow=True,
    ),
    Twin(
        "bond of what was published on demand let go early",
        SETTLEMENTS,
        "libraries/JobRecords",
        "if (start == 0) start = job.mode",
        "start = job.mode",
        slow=True,
    ),
    Twin(
        "list of now drawn from",
        REGISTRY,
        "Registry",
        "place.current.since <= wanted.drawBlock ? place.current : place.former",
        "place.current",
    ),
    Twin(
        "stake of now drawn with",
        REGISTRY,
        "Registry",
        "if (since > wanted.drawBlock) return address(0);",
        "",
        slow=True,
    ),
    Twin(
        "lost bond counts as stake",
        SETTLEMENTS,
        "libraries/Settlements",
        "            if (split.missFee[i] != 0) IVault(vault).forfeit(list[i].provider, split.missFee[i]);\n",
        "",
        slow=True,
    ),
    Twin(
        "slashed bond counts as stake",
        VERDICTS,
        "libraries/Verdicts",
        "        IVault(rules.vault).forfeit(replica.provider, replica.terms.bond);\n",
        "",
        slow=True,
    ),
    Twin(
        "returned bond makes a stake younger",
        VAULT,
        "Vault",
        "        _stakes[owner].free += returned;\n",
        "        (_stakes[owner].free, _stakes[owner].since) =\n"
        "            (_stakes[owner].free + returned, uint48(block.number));\n",
        slow=True,
    ),
    Twin(
        "place that does not rest",
        REGISTRY,
        "Registry",
        "if (block.number < readyBlock) revert ListBusy(modelId, readyBlock);",
        "",
        slow=True,
    ),
    Twin(
        "drawable pruned",
        REGISTRY,
        "Registry",
        "if (isDrawable(provider, modelId)) revert StillDrawable(provider, modelId);",
        "",
        slow=True,
    ),
    Twin("drawn below its list price", REGISTRY, "Registry", "wanted.baseFee >= offer.baseFee", "true", slow=True),
    Twin("client drawn for itself", REGISTRY, "Registry", " || provider == wanted.client", "", slow=True),
    Twin(
        "commit before the seed is known",
        JOBS,
        "Jobs",
        "        if (record.isSeeded) Seeds.fix(record, jobId);\n",
        "",
    ),
    Twin(
        "seed of a later block",
        SEEDS,
        "libraries/Seeds",
        "if (seed == 0) revert IJobs.SeedOutOfReach(jobId, seedBlock);",
        "if (seed == 0) seed = _computed(jobId, block.number - 1);",
        slow=True,
    ),
    Twin(
        "seed fixed before the draw",
        SEEDS,
        "libraries/Seeds",
        "        job.need(jobId, JobState.OPEN);\n",
        "",
        slow=True,
    ),
    Twin(
        "draw leaves the seed open",
        DRAWS,
        "libraries/Draws",
        "        if (job.isSeeded) Seeds.store(job, jobId, seed);\n",
        "",
        slow=True,
    ),
    Twin("arbiter not told the seed", VERDICTS, "libraries/Verdicts", "seed: job.seed", "seed: 0", slow=True),
    Twin("offers outlive their provider", REGISTRY, "Registry", "        ++provider.epoch;\n", ""),
)


def broken(twin: Twin) -> dict[str, str]:
    """The sources of the twin's contract, under a folder of its own."""
    path = f"contracts/{twin.file}.sol"
    needed = artefacts()[twin.contract]["sources"]
    tree = {name: text for name, text in read_sources().items() if name in needed}
    assert tree[path].count(twin.old) == 1, f"{twin.name}: the text to break occurs {tree[path].count(twin.old)} times"
    changed = tree[path].replace(twin.old, twin.new)
    return {f"{_folder(twin)}/{name}": changed if name == path else text for name, text in tree.items()}


def compile_twins(slow: bool) -> dict[str, dict[str, Artefact]]:
    """Twin's name → all contracts, one of them broken. One run of the compiler for all that are (not) slow."""
    return compile_each([twin for twin in TWINS if twin.slow == slow])


def compile_each(twins: Sequence[Twin]) -> dict[str, dict[str, Artefact]]:
    """Twin's name → all contracts, one of them broken, in one run of the compiler.

    Raises:
        ValueError: a twin whose code is the honest one's, say of a library that others have in their own code.
    """
    sources: dict[str, str] = {}
    for twin in twins:
        sources |= broken(twin)
    paths = {
        twin.name: f"{_folder(twin)}/contracts/{FOLDERS.get(twin.contract, '')}{twin.contract}.sol" for twin in twins
    }
    selection = {paths[twin.name]: [twin.contract] for twin in twins}
    compiled = compile_sources(sources, selection, strict=False)
    for twin in twins:
        if _unlinked(compiled[paths[twin.name]][twin.contract]) == _unlinked(artefacts()[twin.contract]):
            raise ValueError(f"the twin “{twin.name}” is the honest {twin.contract}")
    return {twin.name: artefacts() | {twin.contract: compiled[paths[twin.name]][twin.contract]} for twin in twins}


def _unlinked(artefact: Artefact) -> str:
    """Its code without the names of its libraries, which say in which folder they were compiled."""
    return re.sub(r"__\$[0-9a-f]{34}\$__", "_" * 40, str(artefact["bytecode"]))


def _folder(twin: Twin) -> str:
    return f"twins/{twin.name.replace(' ', '-')}"
