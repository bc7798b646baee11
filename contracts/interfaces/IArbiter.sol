// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISubject} from "./ISubject.sol";
import {Model, Request} from "./Wire.sol";

/// @title Decides disputes about a subject
/// @notice The one address a subject trusts to call `freeze` and `resolve`. How a dispute goes is the arbiter's own.
interface IArbiter {
    event DisputeOpened(
        ISubject indexed subject, bytes32 indexed subjectId, address indexed provider, address challenger
    );
    event DisputeResolved(ISubject indexed subject, bytes32 indexed subjectId, address indexed provider, bool guilty);

    /// @notice Whether any wrong answer to `request` by this model can be proved wrong: the program and its tables are
    /// accepted, the sampler has a step, and the longest answer fits into the context. Only such answers are sold as
    /// OPTIMISTIC.
    function canJudge(Model calldata model, Request calldata request) external view returns (bool);
}
