// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {IVault} from "../interfaces/IVault.sol";
import {Mode} from "../interfaces/Wire.sol";
import {Demands} from "./Demands.sol";
import {JobChecks} from "./JobChecks.sol";
import {Job, JobRecords, Replica} from "./JobRecords.sol";
import {Payout, Split} from "./Payout.sol";

/// @title How a job becomes final, and where its money goes then
/// @dev Linked to Jobs and run in its storage. All is written and emitted before the vault moves anything.
library Settlements {
    using JobChecks for Job;
    using JobChecks for Replica;
    using JobRecords for Job;

    address private constant BURNT = address(0xdead);

    function settle(Job storage job, bytes32 jobId, address vault, address token, uint256 disputeWindow) external {
        if (job.state == JobState.DRAWING) return _lapseDraw(job, jobId, vault, token);
        bool lapsed = _needSettleable(job, jobId);
        bool agreed = job.agreedBy != 0;
        // INVARIANT: an answer that is paid after its challenge window was not found wrong in it
        if (agreed && job.mode == Mode.OPTIMISTIC) job.needUndisputed(jobId, 0, disputeWindow);

        (Replica[] memory list, Split memory split) =
            _close(job, jobId, agreed ? JobState.SETTLED : JobState.EXPIRED, !lapsed);
        if (agreed) emit IJobs.Settled(jobId, job.agreedOutput(), split.totalPaid, split.refunded, split.missFees);
        else emit IJobs.Expired(jobId, split.totalPaid, split.refunded, split.missFees);
        _transfer(job.client, list, split, vault, token);
    }

    /// @notice Returns the bond of a replica that revealed, and pays it what was held for its output.
    function release(
        Job storage job,
        bytes32 jobId,
        address provider,
        address vault,
        address token,
        uint256 disputeWindow
    ) external {
        uint256 index = job.indexOf(jobId, provider);
        Replica storage replica = job.replicas[index];
        // INVARIANT: a bond leaves once, and only from a final job
        replica.needHeldBond(jobId);
        if (job.finalAt == 0) revert IJobs.WrongState(jobId, job.state, JobState.SETTLED);
        job.needUndisputed(jobId, index, disputeWindow);

        replica.bondState = BondState.RELEASED;
        uint256 amount = replica.terms.bond;
        emit IJobs.BondReleased(jobId, provider, amount);
        (address to, uint256 price) = Demands.sold(job, jobId, index, true);
        IVault(vault).unbond(provider, amount);
        _pay(to, price, vault, token);
    }

    function cancel(Job storage job, bytes32 jobId, address vault, address token) external {
        // INVARIANT: only the client takes its job back, and only while nobody has committed to it
        if (msg.sender != job.client) revert IJobs.NotClient(jobId, msg.sender);
        job.need(jobId, JobState.OPEN);
        if (job.committed != 0) revert IJobs.AlreadyCommitted(jobId, job.committed);
        JobChecks.notAfter(jobId, job.commitDeadline);

        (Replica[] memory list, Split memory split) = _close(job, jobId, JobState.CANCELLED, false);
        emit IJobs.Cancelled(jobId, split.totalPaid, split.refunded);
        _transfer(job.client, list, split, vault, token);
    }

    /// @dev Nobody was drawn in time. The draw fee is burnt: were it anybody's, a client could be that body.
    function _lapseDraw(Job storage job, bytes32 jobId, address vault, address token) private {
        JobChecks.past(jobId, job.commitDeadline);
        Replica[] memory list = job.load();
        uint256 burnt;
        // INVARIANT: who finds nobody to work pays nothing
        if (!job.drawing.failed) burnt = Payout.drawFee(list, job.inputTokens, job.maxOutputTokens);
        uint256 refunded = Payout.escrow(list, job.inputTokens, job.maxOutputTokens) - burnt;
        (job.state, job.finalAt) = (JobState.EXPIRED, uint40(block.timestamp));
        emit IJobs.DrawLapsed(jobId, refunded, burnt);
        _pay(job.client, refunded, vault, token);
        _pay(BURNT, burnt, vault, token);
    }

    /// @return lapsed whether the commit window ended short of a quorum
    function _needSettleable(Job storage job, bytes32 jobId) private view returns (bool lapsed) {
        if (job.state == JobState.OPEN) {
            JobChecks.past(jobId, job.commitDeadline);
            if (job.committed < job.quorum) return true;
        } else {
            // INVARIANT: no job settles twice
            job.need(jobId, JobState.REVEALING);
            if (job.revealed == job.committed) return false;
        }
        // INVARIANT: nobody is counted as silent before its deadline
        JobChecks.past(jobId, job.revealEnd());
    }

    /// @dev Makes the job final: decides the division, writes and emits it. The caller emits the summary and then
    /// lets `_transfer` move the money.
    /// @param missing whether those who committed and did not reveal were silent
    function _close(Job storage job, bytes32 jobId, JobState state, bool missing)
        private
        returns (Replica[] memory list, Split memory split)
    {
        list = job.load();
        for (uint256 i; missing && i < list.length; ++i) {
            if (list[i].state == ReplicaState.COMMITTED) list[i].state = ReplicaState.MISSED;
        }
        split = Payout.split(list, state, job.agreedOutput(), job.inputTokens, job.maxOutputTokens);

        // INVARIANT: a final job never changes
        job.state = state;
        job.finalAt = uint40(block.timestamp);
        for (uint256 i; i < list.length; ++i) {
            _recordReplica(jobId, job.replicas[i], list[i], split, i);
        }
        if (split.missFees != 0) emit IJobs.MissFeesShared(jobId, split.missShare, split.burnt);
    }

    function _recordReplica(
        bytes32 jobId,
        Replica storage stored,
        Replica memory replica,
        Split memory split,
        uint256 index
    ) private {
        if (replica.state == ReplicaState.MISSED || replica.state == ReplicaState.COMMITTED) {
            (stored.state, stored.bondState) = (replica.state, BondState.RELEASED);
            if (replica.state == ReplicaState.MISSED) {
                emit IJobs.ReplicaMissed(jobId, replica.provider, split.missFee[index]);
            }
            emit IJobs.BondReleased(jobId, replica.provider, split.returned[index]);
        }
        if (split.paid[index] != 0) emit IJobs.ReplicaPaid(jobId, replica.provider, split.paid[index]);
    }

    function _transfer(address client, Replica[] memory list, Split memory split, address vault, address token)
        private
    {
        for (uint256 i; i < list.length; ++i) {
            bool shares = list[i].state == ReplicaState.REVEALED;
            _pay(list[i].provider, split.paid[i] + (shares ? split.missShare : 0), vault, token);
            if (split.returned[i] != 0) IVault(vault).unbond(list[i].provider, split.returned[i]);
            if (split.missFee[i] != 0) IVault(vault).forfeit(list[i].provider, split.missFee[i]);
        }
        _pay(client, split.refunded, vault, token);
        _pay(BURNT, split.burnt, vault, token);
    }

    function _pay(address to, uint256 amount, address vault, address token) private {
        if (amount != 0) IVault(vault).pay(token, to, amount);
    }
}
