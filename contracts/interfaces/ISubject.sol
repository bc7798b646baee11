// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What can be disputed
/// @notice A subject (a job here, a session later) knows the money; the arbiter knows the game.
interface ISubject {
    /// @notice Locks the provider's bond for a dispute and says what exactly is disputed. Only the arbiter.
    /// @param evidence abi.encode(Request): the subject checks it against the request hash it stored
    function freeze(bytes32 subjectId, address provider, bytes calldata evidence)
        external
        returns (bytes32 modelId, bytes32 requestHash, bytes32 outputHash, uint256 bond);

    /// @notice Ends the dispute: the bond is unlocked, or slashed (refund of the client first, then the challenger's
    /// share, the rest burnt). Only the arbiter, only after `freeze`.
    function resolve(bytes32 subjectId, address provider, bool guilty, address challenger) external;
}
