// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BondState, IJobs, JobState} from "../interfaces/IJobs.sol";
import {Job, Replica} from "./JobRecords.sol";

/// @title Checks that Jobs and the libraries linked to it share
library JobChecks {
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

    function notAfter(bytes32 jobId, uint256 deadline) internal view {
        // INVARIANT: what was due by a deadline is not done after it
        if (block.timestamp > deadline) revert IJobs.TooLate(jobId, block.timestamp, deadline);
    }

    function past(bytes32 jobId, uint256 deadline) internal view {
        // INVARIANT: a deadline's whole last second belongs to those it was given to
        if (block.timestamp <= deadline) revert IJobs.TooEarly(jobId, block.timestamp, deadline + 1);
    }
}
