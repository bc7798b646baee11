// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {Output} from "../interfaces/Wire.sol";
import {JobChecks} from "./JobChecks.sol";
import {Job, JobRecords, Replica} from "./JobRecords.sol";
import {Payout} from "./Payout.sol";
import {TokensRoot} from "./TokensRoot.sol";
import {WireHash} from "./WireHash.sol";

/// @title What becomes of an output that its provider withholds, and of a bond that is lost
/// @dev Linked to Jobs and run in its storage. A demand is beside the bond's state: a bond can be disputed while its
/// output is demanded. Moves no money itself. Time: a deadline's own second still belongs to it.
library Demands {
    using JobChecks for Job;
    using JobChecks for Replica;
    using JobRecords for Job;

    function open(Job storage job, bytes32 jobId, address provider, uint256 disputeWindow, uint256 demandWindow)
        external
    {
        job.need(jobId, JobState.SETTLED);
        // INVARIANT: nobody but the client brings a private answer into the open
        if (msg.sender != job.client && !job.inlineInput) revert IJobs.NotClient(jobId, msg.sender);
        uint256 index = job.indexOf(jobId, provider);
        Replica storage replica = job.replicas[index];
        // INVARIANT: an answer is demanded only of who was paid for it
        bool agreed = replica.state == ReplicaState.REVEALED && replica.digest == job.agreedOutput();
        if (!agreed && replica.state != ReplicaState.LATE) revert IJobs.NothingOwed(jobId, provider);
        // INVARIANT: a demand lengthens a bond's window once
        if (replica.demandDeadline != 0) revert IJobs.AlreadyDemanded(jobId, provider);
        replica.needHeldBond(jobId);
        JobChecks.notAfter(jobId, job.disputeEnd(replica, disputeWindow));

        uint40 deadline = uint40(block.timestamp + demandWindow);
        replica.demandDeadline = deadline;
        job.demanders[index] = msg.sender;
        emit IJobs.RevealDemanded(jobId, provider, msg.sender, deadline);
    }

    function publish(Job storage job, bytes32 jobId, bytes calldata ids) external {
        uint256 index = job.indexOf(jobId, msg.sender);
        Replica storage replica = job.replicas[index];
        _needDemand(job, jobId, index);
        JobChecks.notAfter(jobId, replica.demandDeadline);
        uint256 count = replica.outputTokens;
        // INVARIANT: what is published is the output that was revealed, in its one canonical form
        if (ids.length != TokensRoot.packedLength(count) || !TokensRoot.isFilled(ids, count)) {
            revert IJobs.OutputMalformed(count, ids.length);
        }
        Output memory output =
            Output({outputRoot: TokensRoot.root(ids), outputTokens: uint32(count), finish: replica.finish});
        bytes32 got = WireHash.outputInMemory(output);
        if (got != replica.digest) revert IJobs.OutputMismatch(replica.digest, got);

        _close(job, jobId, index, msg.sender);
        emit IJobs.OutputPublished(jobId, msg.sender, output, ids);
    }

    /// @notice Checks that a replica let a demand pass, and that no dispute about it can still be decided.
    /// @return index of the replica
    /// @return demander of its output
    function withheld(Job storage job, bytes32 jobId, address provider, uint256 resolveWindow)
        external
        view
        returns (uint256 index, address demander)
    {
        index = job.indexOf(jobId, provider);
        Replica storage replica = job.replicas[index];
        demander = _needDemand(job, jobId, index);
        // INVARIANT: the arbiter's word comes first, and its silence holds nothing up
        bool disputed = replica.bondState == BondState.DISPUTED;
        JobChecks.past(jobId, disputed ? job.disputeEnd(replica, resolveWindow) : replica.demandDeadline);
    }

    /// @notice Takes the bond of a replica, and ends a demand of its output that is still open.
    /// @return refund to the client
    /// @return reward to the challenger
    /// @return burnt the rest of the bond
    /// @return demander gets its fee back; 0 where nobody waits
    function slash(Job storage job, bytes32 jobId, uint256 index, address challenger, uint256 shareBps)
        external
        returns (uint256 refund, uint256 reward, uint256 burnt, address demander)
    {
        Replica storage replica = job.replicas[index];
        refund = Payout.payment(replica, job.state, job.agreedOutput(), job.inputTokens, job.maxOutputTokens);
        (reward, burnt) = Payout.slash(replica.terms.bond, refund, shareBps);
        // INVARIANT: a bond is lost once
        replica.bondState = BondState.SLASHED;
        emit IJobs.BondSlashed(jobId, replica.provider, challenger, refund, reward, burnt);
        demander = job.demanders[index];
        if (demander != address(0)) _close(job, jobId, index, demander);
    }

    function _needDemand(Job storage job, bytes32 jobId, uint256 index) private view returns (address demander) {
        demander = job.demanders[index];
        // INVARIANT: a demand is answered once, by publishing or by the bond
        if (demander == address(0)) revert IJobs.NotDemanded(jobId, job.replicas[index].provider);
    }

    function _close(Job storage job, bytes32 jobId, uint256 index, address feeTo) private {
        delete job.demanders[index];
        emit IJobs.DemandClosed(jobId, job.replicas[index].provider, feeTo);
    }
}
