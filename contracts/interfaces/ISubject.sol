// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a subject says about an answer when its bond is frozen.
struct Frozen {
    bytes32 modelId;
    bytes32 requestHash;
    bytes32 outputHash;
    uint256 bond; // base units of the vault's stake token
    uint64 disputeEnd; // unix seconds, the last in which the answer can be disputed
    bytes32 seed; // what the chain gave the answer for (sampler 2); 0 where the subject has none
}

/// @title What can be disputed
/// @notice A subject (a job here, a session later) knows the money; the arbiter knows the game. A subject takes a verdict
/// for at least 7 days after `disputeEnd`.
interface ISubject {
    /// @notice Locks the provider's bond for a dispute and says what exactly is disputed. Only the arbiter.
    /// @param evidence abi.encode(Request) and whatever else shows the subject what is meant, one after the other
    function freeze(bytes32 subjectId, address provider, bytes calldata evidence) external returns (Frozen memory);

    /// @notice Ends the dispute: the bond is unlocked, or slashed (refund of the client first, then the challengers'
    /// share, the rest burnt). Only the arbiter, only after `freeze`.
    /// @param requester gets half of the challengers' share
    /// @param prover gets the other half, and the odd unit
    function resolve(bytes32 subjectId, address provider, bool guilty, address requester, address prover) external;

    /// @notice Whether `evidence` shows that the provider signed another output for the request that is frozen.
    function contradicts(bytes32 subjectId, address provider, bytes calldata evidence) external view returns (bool);
}
