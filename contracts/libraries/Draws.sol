// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJobs, JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {Draw, IRegistry} from "../interfaces/IRegistry.sol";
import {Quote} from "../interfaces/Wire.sol";
import {JobChecks} from "./JobChecks.sol";
import {Drawing, Job, JobRecords, Replica, Terms} from "./JobRecords.sol";
import {Seeds} from "./Seeds.sol";

/// @title How a job gets replicas that nobody chose
/// @dev Linked to Jobs and run in its storage, so that jobs with quotes pay nothing for it. Moves no money itself.
library Draws {
    using JobChecks for Job;

    /// @notice Writes the replicas of a job whose other fields are written, without providers, and arms the draw.
    function open(Job storage job, bytes32 jobId, Quote calldata terms, address registry) external {
        Terms memory promised = JobRecords.termsOf(terms);
        for (uint256 i; i < job.replicaCount; ++i) {
            job.replicas[i].state = ReplicaState.UNDRAWN;
            job.replicas[i].terms = promised;
        }
        (job.state, job.isDrawn) = (JobState.DRAWING, true);
        _arm(job, registry, false);
        emit IJobs.DrawOpened(jobId, terms);
    }

    function draw(Job storage job, bytes32 jobId, address registry, address token) external {
        job.need(jobId, JobState.DRAWING);
        JobChecks.notAfter(jobId, job.commitDeadline);
        uint256 drawBlock = job.drawing.drawBlock;
        // INVARIANT: nobody knows who is drawn before the block that decides it is over
        if (block.number <= drawBlock) revert IJobs.DrawNotReady(jobId, drawBlock);
        bytes32 source = blockhash(drawBlock);
        if (source == 0) return _rearm(job, jobId, registry, job.drawing.failed);
        bytes32 seed = Seeds.seedFrom(jobId, source);
        address[] memory drawn = IRegistry(registry).draw(_wanted(job, seed, token));
        // INVARIANT: a job starts with all its replicas or with none
        if (drawn.length < job.replicaCount) return _rearm(job, jobId, registry, true);

        uint40 commitDeadline = uint40(block.timestamp) + job.commitWindow;
        (job.state, job.commitDeadline) = (JobState.OPEN, commitDeadline);
        // one hash decides both: who answers, and with which seed; a draw that is armed anew arms the seed anew
        if (job.isSeeded) Seeds.store(job, jobId, seed);
        for (uint256 i; i < drawn.length; ++i) {
            (job.replicas[i].provider, job.replicas[i].state) = (drawn[i], ReplicaState.ASSIGNED);
            emit IJobs.ReplicaDrawn(jobId, drawn[i]);
        }
        emit IJobs.Drawn(jobId, commitDeadline);
    }

    function _rearm(Job storage job, bytes32 jobId, address registry, bool failed) private {
        _arm(job, registry, failed);
        emit IJobs.DrawArmed(jobId, block.number, failed);
    }

    function _arm(Job storage job, address registry, bool failed) private {
        uint256 length = IRegistry(registry).drawableLength(job.modelId);
        job.drawing = Drawing({drawBlock: uint40(block.number), length: uint32(length), failed: failed});
    }

    /// @dev All replicas have the same terms.
    function _wanted(Job storage job, bytes32 seed, address token) private view returns (Draw memory wanted) {
        Terms memory terms = job.replicas[0].terms;
        wanted.modelId = job.modelId;
        wanted.seed = seed;
        wanted.count = job.replicaCount;
        wanted.length = job.drawing.length;
        wanted.drawBlock = job.drawing.drawBlock;
        wanted.client = job.client;
        wanted.mode = uint8(job.mode);
        wanted.token = token;
        wanted.baseFee = terms.baseFee;
        wanted.pricePerMInput = terms.pricePerMInput;
        wanted.pricePerMOutput = terms.pricePerMOutput;
        wanted.bond = terms.bond;
        wanted.inputTokens = job.inputTokens;
        wanted.maxOutputTokens = job.maxOutputTokens;
    }
}
