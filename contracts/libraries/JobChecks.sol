// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState} from "../interfaces/IJobs.sol";
import {Job, JobRecords, Replica} from "./JobRecords.sol";

/// @title Checks that Jobs and the libraries linked to it share
library JobChecks {
    using JobRecords for Job;

    /// @dev How long after the dispute window an arbiter may still decide.
    uint256 internal constant DISPUTE_DEADLINE = 7 days;

    function need(Job storage job, bytes32 jobId, JobState needs) internal view {
        // INVARIANT: a job moves along its states and never back
        if (job.state != needs) revert IJobs.WrongState(jobId, job.state, needs);
    }

    function needBond(Replica storage replica, bytes32 jobId, BondState needs) internal view {
        // INVARIANT: a bond moves along its states and never back
        if (replica.bondState != needs) {
            revert IJobs.WrongBondState(jobId, replica.provider, replica.bondState, needs);
        }
    }

    /// @dev The bond is still there, disputed or not.
    function needHeldBond(Replica storage replica, bytes32 jobId) internal view {
        if (replica.bondState != BondState.DISPUTED) needBond(replica, jobId, BondState.LOCKED);
    }

    /// @dev For money that waits until nobody can doubt the answer any more.
    function needUndisputed(Job storage job, bytes32 jobId, uint256 index, uint256 disputeWindow) internal view {
        Replica storage replica = job.replicas[index];
        // INVARIANT: every revealed bond stays locked through the dispute window, the majority's too; a disputed one
        // until the arbiter's deadline, so that a silent arbiter keeps no money
        uint256 end = job.disputeEnd(replica, disputeWindow);
        past(jobId, replica.bondState == BondState.LOCKED ? end : end + DISPUTE_DEADLINE);
        // INVARIANT: who withholds an output that was demanded gets no bond back
        if (replica.demandDeadline != 0 && job.demanders[index] != address(0)) {
            revert IJobs.DemandOpen(jobId, replica.provider, replica.demandDeadline);
        }
    }

    function notAfter(bytes32 jobId, uint256 deadline) internal view {
        // INVARIANT: what was due by a deadline is not done after it
        if (block.timestamp > deadline) revert IJobs.TooLate(jobId, block.timestamp, deadline);
    }

    function past(bytes32 jobId, uint256 deadline) internal view {
        // INVARIANT: a deadline's whole last second belongs to those it was given to
        if (block.timestamp <= deadline) revert IJobs.TooEarly(jobId, block.timestamp, deadline + 1);
    }
}
