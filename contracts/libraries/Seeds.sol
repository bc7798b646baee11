// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";
import {IJobs, JobState} from "../interfaces/IJobs.sol";
import {JobChecks} from "./JobChecks.sol";
import {Job} from "./JobRecords.sol";

/// @title The seed that the chain gives a job: nobody's choice, and everybody's to know from the next block on
/// @dev Linked to Jobs and run in its storage. A job whose replicas were drawn has its seed from the draw (Draws), whose
/// block is the seed's too. Any other has it from the hash of the posting block, and from no other: a later block would
/// let whoever waits choose between two answers.
library Seeds {
    using JobChecks for Job;

    /// @notice Stores the seed. What is stored stays.
    function fix(Job storage job, bytes32 jobId) external {
        if (!job.isSeeded) revert IJobs.NotSeededByChain(jobId);
        if (job.seed != 0) return;
        // INVARIANT: a seed never changes once somebody may have computed with it, and a final job never changes
        job.need(jobId, JobState.OPEN);
        uint256 seedBlock = job.drawing.drawBlock;
        // INVARIANT: nobody knows the seed before the block that decides it is over
        if (block.number <= seedBlock) revert IJobs.SeedNotReady(jobId, seedBlock);
        bytes32 seed = _computed(jobId, seedBlock);
        // INVARIANT: nobody answers with a seed that nobody can check
        if (seed == 0) revert IJobs.SeedOutOfReach(jobId, seedBlock);
        store(job, jobId, seed);
    }

    /// @return seed 0 where the chain gives none, not yet, or no longer
    /// @return seedBlock whose hash it comes from
    /// @return isFixed whether it is stored
    function seedOf(Job storage job, bytes32 jobId)
        external
        view
        returns (bytes32 seed, uint256 seedBlock, bool isFixed)
    {
        if (!job.isSeeded) return (0, 0, false);
        (seed, seedBlock) = (job.seed, job.drawing.drawBlock);
        isFixed = seed != 0;
        if (!isFixed && job.state == JobState.OPEN) seed = _computed(jobId, seedBlock);
    }

    function store(Job storage job, bytes32 jobId, bytes32 seed) internal {
        job.seed = seed;
        emit IJobs.SeedFixed(jobId, seed);
    }

    /// @dev The job is in it, so that two jobs of one block have two seeds.
    function seedFrom(bytes32 jobId, bytes32 blockHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(jobId, blockHash));
    }

    /// @dev 0 where the hash is out of reach: in the block itself, and 8,191 blocks on (256 without EIP-2935).
    function _computed(bytes32 jobId, uint256 seedBlock) private view returns (bytes32) {
        bytes32 blockHash = Blockhash.blockHash(seedBlock);
        return blockHash == 0 ? bytes32(0) : seedFrom(jobId, blockHash);
    }
}
