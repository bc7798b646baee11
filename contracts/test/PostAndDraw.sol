// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IJobs, JobParams} from "../interfaces/IJobs.sol";

/// @dev A client that would like to know who is drawn before it has paid for good: it posts, looks, and would revert.
contract PostAndDraw {
    IJobs public immutable jobs;
    bytes32 public jobId;
    bytes32 public seen; // the hash that decides, as far as the posting transaction knows it

    constructor(IJobs jobs_) {
        jobs = jobs_;
    }

    function post(JobParams calldata params) public {
        IERC20(jobs.stakeToken()).approve(jobs.vault(), params.maxEscrow);
        jobId = jobs.post(params);
        seen = blockhash(jobs.job(jobId).drawBlock);
    }

    function postAndDraw(JobParams calldata params) external {
        post(params);
        jobs.draw(jobId);
    }
}
