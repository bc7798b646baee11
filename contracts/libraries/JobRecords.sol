// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState, JobView, ReplicaState, ReplicaView} from "../interfaces/IJobs.sol";
import {Mode, Quote} from "../interfaces/Wire.sol";

uint256 constant MAX_REPLICAS = 7;

/// @dev What a quote promised, as long as money depends on it. Three slots.
struct Terms {
    uint128 baseFee;
    uint128 killFee;
    uint128 pricePerMInput;
    uint128 pricePerMOutput;
    uint128 missFee;
    uint128 bond;
}

/// @dev Five slots: everything that changes is in the first and the last.
struct Replica {
    address provider; // 0 until it is drawn
    ReplicaState state;
    BondState bondState;
    uint8 finish;
    uint32 outputTokens;
    uint40 demandDeadline; // 0 = the output was never demanded
    Terms terms;
    bytes32 digest; // first the commitment, then the output hash: once opened nobody needs the former
}

/// @dev What a draw depends on; only in drawn jobs, but for the block, which gives the seed too. One slot.
struct Drawing {
    uint40 drawBlock; // its hash draws the replicas and seeds the answer
    uint32 length; // of the drawable list when the draw was armed
    bool failed;
}

/// @dev Four slots, the replicas, and what only some jobs have. The escrow is not stored: it is the sum of the terms'
/// highest prices. The agreed output is named by a replica that revealed it. Seconds in 40 bits last 34,000 years.
struct Job {
    address client;
    JobState state;
    Mode mode;
    uint8 quorum;
    uint8 replicaCount;
    uint8 committed;
    uint8 revealed; // in time
    uint8 agreedBy; // index + 1 of the replica whose reveal completed the quorum, 0 = none
    uint40 finalAt;
    uint40 commitDeadline; // while DRAWING: the draw's
    uint40 revealDeadline;
    uint24 commitWindow;
    uint24 revealWindow;
    uint32 inputTokens;
    uint32 maxOutputTokens;
    bool isDrawn;
    bool inlineInput;
    uint40 revealedAt; // only where the money waits for it: OPTIMISTIC
    bool isSeeded; // by the chain: sampler 2
    bytes32 modelId;
    bytes32 requestHash;
    Replica[MAX_REPLICAS] replicas;
    Drawing drawing;
    bytes32 seed; // only where the chain gives it, 0 until then
    mapping(uint256 index => address) demanders; // who demanded a replica's output and waits for it
    mapping(uint256 index => address) buyers; // who paid the price of an output that the client did not pay for
}

/// @title Reading and writing the records of a job; no rules, no money
library JobRecords {
    function termsOf(Quote calldata quote) internal pure returns (Terms memory) {
        return Terms({
            baseFee: quote.baseFee,
            killFee: quote.killFee,
            pricePerMInput: quote.pricePerMInput,
            pricePerMOutput: quote.pricePerMOutput,
            missFee: quote.missFee,
            bond: quote.bond
        });
    }

    /// @return index of the provider's replica
    function indexOf(Job storage job, bytes32 jobId, address provider) internal view returns (uint256 index) {
        for (uint256 count = job.replicaCount; index < count; ++index) {
            if (job.replicas[index].provider == provider) return index;
        }
        // INVARIANT: only the providers the client chose take part
        revert IJobs.NotReplica(jobId, provider);
    }

    /// @return replicas a copy in memory, in the order of the quotes
    function load(Job storage job) internal view returns (Replica[] memory replicas) {
        replicas = new Replica[](job.replicaCount);
        for (uint256 i; i < replicas.length; ++i) {
            replicas[i] = job.replicas[i];
        }
    }

    /// @return 0 before agreement
    function agreedOutput(Job storage job) internal view returns (bytes32) {
        uint256 by = job.agreedBy;
        return by == 0 ? bytes32(0) : job.replicas[by - 1].digest;
    }

    /// @return last second in which a reveal is in time: fixed by the last commit, else it follows the commit window
    function revealEnd(Job storage job) internal view returns (uint256) {
        return job.state == JobState.OPEN ? uint256(job.commitDeadline) + job.revealWindow : job.revealDeadline;
    }

    /// @return last second in which the bond of a replica that revealed can be disputed: a window from settlement on, in
    /// OPTIMISTIC from the reveal on; what was published later can be for a whole window
    function disputeEnd(Job storage job, Replica storage replica, uint256 disputeWindow)
        internal
        view
        returns (uint256)
    {
        uint256 start = replica.demandDeadline;
        if (start == 0) start = job.mode == Mode.OPTIMISTIC ? job.revealedAt : job.finalAt;
        return start + disputeWindow;
    }

    function toView(Job storage job, uint256 escrow) internal view returns (JobView memory result) {
        result.client = job.client;
        result.state = job.state;
        result.mode = job.mode;
        result.quorum = job.quorum;
        result.replicas = job.replicaCount;
        result.committed = job.committed;
        result.revealed = job.revealed;
        result.inputTokens = job.inputTokens;
        result.maxOutputTokens = job.maxOutputTokens;
        result.revealWindow = job.revealWindow;
        result.commitDeadline = job.commitDeadline;
        result.revealDeadline = job.revealDeadline;
        result.finalAt = job.finalAt;
        result.escrow = uint128(escrow); // post refused more than the client's own uint128 cap
        result.modelId = job.modelId;
        result.requestHash = job.requestHash;
        result.outputHash = agreedOutput(job);
        result.inlineInput = job.inlineInput;
        if (job.isDrawn) (result.drawBlock, result.drawFailed) = (job.drawing.drawBlock, job.drawing.failed);
    }

    /// @param paid out of the escrow to this replica
    function viewOf(Replica memory replica, uint256 paid, address demander) internal pure returns (ReplicaView memory) {
        return ReplicaView({
            provider: replica.provider,
            state: replica.state,
            bondState: replica.bondState,
            finish: replica.finish,
            outputTokens: replica.outputTokens,
            baseFee: replica.terms.baseFee,
            pricePerMInput: replica.terms.pricePerMInput,
            pricePerMOutput: replica.terms.pricePerMOutput,
            killFee: replica.terms.killFee,
            missFee: replica.terms.missFee,
            bond: replica.terms.bond,
            paid: uint128(paid), // at most the escrow
            digest: replica.digest,
            demandDeadline: replica.demandDeadline,
            demander: demander
        });
    }
}
