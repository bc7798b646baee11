// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {Mode, Output} from "../interfaces/Wire.sol";
import {JobChecks} from "./JobChecks.sol";
import {Job, JobRecords, Replica} from "./JobRecords.sol";
import {Payout} from "./Payout.sol";
import {TokensRoot} from "./TokensRoot.sol";
import {WireHash} from "./WireHash.sol";

/// @title What becomes of an output that its provider withholds
/// @dev Linked to Jobs and run in its storage. A demand is beside the bond's state: a bond can be disputed while its
/// output is demanded. Moves no money itself. Time: a deadline's own second still belongs to it.
library Demands {
    using JobChecks for Job;
    using JobChecks for Replica;
    using JobRecords for Job;

    /// @param feeOfTokens for every 512 tokens
    /// @return total of fee and price
    function open(
        Job storage job,
        bytes32 jobId,
        address provider,
        uint256 disputeWindow,
        uint256 demandWindow,
        uint256 feeOfTokens
    ) external returns (uint256 total) {
        // OPTIMISTIC pays after the window in which its answer can be looked at, the other modes before it
        if (job.mode == Mode.OPTIMISTIC) job.need(jobId, JobState.REVEALING);
        else if (job.finalAt == 0) revert IJobs.WrongState(jobId, job.state, JobState.SETTLED);
        // INVARIANT: nobody but the client brings a private answer into the open
        if (msg.sender != job.client && !job.inlineInput) revert IJobs.NotClient(jobId, msg.sender);
        uint256 index = job.indexOf(jobId, provider);
        Replica storage replica = job.replicas[index];
        // INVARIANT: only what was revealed can be published
        if (replica.state != ReplicaState.REVEALED && replica.state != ReplicaState.LATE) {
            revert IJobs.NothingOwed(jobId, provider);
        }
        // INVARIANT: a demand lengthens a bond's window once
        if (replica.demandDeadline != 0) revert IJobs.AlreadyDemanded(jobId, provider);
        replica.needHeldBond(jobId);
        JobChecks.notAfter(jobId, job.disputeEnd(replica, disputeWindow));

        uint40 deadline = uint40(block.timestamp + demandWindow);
        replica.demandDeadline = deadline;
        job.demanders[index] = msg.sender;
        uint256 price = _price(job, replica);
        // INVARIANT: nobody has an answer for less than its price, and no liar keeps it
        if (price != 0) job.buyers[index] = msg.sender;
        emit IJobs.RevealDemanded(jobId, provider, msg.sender, deadline, price);
        return Payout.demandFee(feeOfTokens, replica.outputTokens) + price;
    }

    /// @notice What demanding an output costs.
    /// @return fee to whoever publishes it
    /// @return price of an output that the client does not pay for, else 0
    function cost(Job storage job, bytes32 jobId, address provider, uint256 feeOfTokens)
        external
        view
        returns (uint256 fee, uint256 price)
    {
        Replica storage replica = job.replicas[job.indexOf(jobId, provider)];
        return (Payout.demandFee(feeOfTokens, replica.outputTokens), _price(job, replica));
    }

    /// @return fee of whoever asked for it; 0 where nobody did
    function publish(Job storage job, bytes32 jobId, bytes calldata ids, uint256 feeOfTokens)
        external
        returns (uint256 fee)
    {
        uint256 index = job.indexOf(jobId, msg.sender);
        Replica storage replica = job.replicas[index];
        bool demanded = !_isFree(job, replica);
        if (demanded) {
            _needDemand(job, jobId, index);
            JobChecks.notAfter(jobId, replica.demandDeadline);
        }
        uint256 count = replica.outputTokens;
        // INVARIANT: what is published is the output that was revealed, in its one canonical form
        if (ids.length != TokensRoot.packedLength(count) || !TokensRoot.isFilled(ids, count)) {
            revert IJobs.OutputMalformed(count, ids.length);
        }
        Output memory output =
            Output({outputRoot: TokensRoot.root(ids), outputTokens: uint32(count), finish: replica.finish});
        bytes32 got = WireHash.outputInMemory(output);
        if (got != replica.digest) revert IJobs.OutputMismatch(replica.digest, got);

        if (demanded) {
            _close(job, jobId, index, msg.sender);
            fee = Payout.demandFee(feeOfTokens, count);
        } else {
            // INVARIANT: what was published can be disputed for a whole window, and need not be published again
            replica.demandDeadline = uint40(block.timestamp);
        }
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

    /// @notice Ends a demand that is still open: its fee goes back to who made it.
    /// @return demander 0 where nobody waits
    function close(Job storage job, bytes32 jobId, uint256 index) internal returns (address demander) {
        demander = job.demanders[index];
        if (demander != address(0)) _close(job, jobId, index, demander);
    }

    /// @notice Says where the price of an output goes that the client did not pay for. The caller pays it, once: with the
    /// bond, which leaves once.
    /// @param toProvider else it goes back to who paid it
    /// @return to 0 where nothing was held
    /// @return price
    function sold(Job storage job, bytes32 jobId, uint256 index, bool toProvider)
        internal
        returns (address to, uint256 price)
    {
        to = job.buyers[index];
        if (to == address(0)) return (to, price);
        Replica storage replica = job.replicas[index];
        if (toProvider) to = replica.provider;
        price = _price(job, replica);
        emit IJobs.DemandPricePaid(jobId, replica.provider, to, price);
    }

    /// @dev Whether the provider may publish on its own: an OPTIMISTIC answer, once, while it can still be challenged.
    function _isFree(Job storage job, Replica storage replica) private view returns (bool) {
        return job.mode == Mode.OPTIMISTIC && job.finalAt == 0 && replica.state == ReplicaState.REVEALED
            && replica.demandDeadline == 0;
    }

    /// @dev Of an output that the client does not pay for.
    function _price(Job storage job, Replica storage replica) private view returns (uint256) {
        bool unpaid = replica.state == ReplicaState.REVEALED && replica.digest != job.agreedOutput();
        return unpaid ? Payout.price(replica.terms, job.inputTokens, replica.outputTokens) : 0;
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
