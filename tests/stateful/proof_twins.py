"""Broken twins of proof mode (see tests.stateful.twins)."""

from __future__ import annotations

from tests.stateful.twins import Twin

JOBS, ADAPTER = "ProofJobs", "EzklVerifier"

PROOF_TWINS = (
    Twin(
        "a seen proof pays its thief",
        JOBS,
        JOBS,
        "if (msg.sender != record.provider) revert NotTheProver(jobId, msg.sender, record.provider);",
        "",
        slow=True,
    ),
    Twin(
        "a proof is paid twice",
        JOBS,
        JOBS,
        "(record.state, record.outputHash) = (ProofJobState.SETTLED, outputHash);",
        "record.outputHash = outputHash;",
    ),
    Twin("an escrow comes back twice", JOBS, JOBS, "record.state = ProofJobState.EXPIRED;", "", slow=True),
    Twin(
        "a late proof is paid", JOBS, JOBS, "if (block.timestamp > record.proofDeadline) {", "if (false) {", slow=True
    ),
    Twin(
        "an escrow comes back in the deadline's second",
        JOBS,
        JOBS,
        "if (block.timestamp <= record.proofDeadline) {",
        "if (block.timestamp < record.proofDeadline) {",
        slow=True,
    ),
    Twin(
        "an escrow comes back to whoever asks",
        JOBS,
        JOBS,
        "IVault(vault).pay(stakeToken, record.client, refunded);",
        "IVault(vault).pay(stakeToken, msg.sender, refunded);",
    ),
    Twin(
        "another request is proved",
        JOBS,
        JOBS,
        "if (requestHash != record.requestHash) revert RequestMismatch(jobId, record.requestHash, requestHash);",
        "",
        slow=True,
    ),
    Twin(
        "no proof is paid",
        JOBS,
        JOBS,
        "if (!IProofVerifier(verifier).verify(statement, ids, proof)) revert ProofRefused(jobId);",
        "IProofVerifier(verifier).verify(statement, ids, proof);",
    ),
    Twin("a quote is used for ever", JOBS, JOBS, "quoteUsed[digest][msg.sender] = true;", "", slow=True),
    Twin(
        "a cap is not kept",
        JOBS,
        JOBS,
        "if (price > params.maxEscrow) revert IJobs.EscrowAboveCap(price, params.maxEscrow);",
        "",
        slow=True,
    ),
    Twin("a proof of another job", ADAPTER, ADAPTER, "if (!named) revert", "if (instances.length == 0) revert"),
    Twin(
        "a proof of another input", ADAPTER, ADAPTER, "if (!asked) revert", "if (entry.inputs == 0) revert", slow=True
    ),
    Twin(
        "another output than the proved one",
        ADAPTER,
        ADAPTER,
        "if (keccak256(ids) != keccak256(proved)) revert",
        "if (proved.length == 0) revert",
        slow=True,
    ),
    Twin(
        "a number outside of 32 bits",
        ADAPTER,
        ADAPTER,
        "        revert NotAnId(value);\n",
        "        return uint256(uint32(value));\n",
        slow=True,
    ),
    Twin(
        "whatever the verifier says",
        ADAPTER,
        ADAPTER,
        "return success && answer.length == 32 && uint256(bytes32(answer)) == 1;",
        "return success || answer.length == 0;",
        slow=True,
    ),
    Twin(
        "any verifier for a model",
        ADAPTER,
        ADAPTER,
        "if (expected != got) revert VerifierMismatch(modelId, field, expected, got);",
        "",
        slow=True,
    ),
)
