// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISubject} from "./ISubject.sol";

/// @title Decides disputes about a subject
/// @notice The one address a subject trusts to call `freeze` and `resolve`.
interface IArbiter {
    event DisputeOpened(
        ISubject indexed subject, bytes32 indexed subjectId, address indexed provider, address challenger
    );
    event DisputeResolved(ISubject indexed subject, bytes32 indexed subjectId, address indexed provider, bool guilty);

    /// @notice Whether this arbiter can re-execute every step of the program; only such models can be slashed on.
    function implementsProgram(bytes32 programRoot) external view returns (bool);
    /// @notice Opens a dispute about what `provider` revealed. Anyone may call it.
    function dispute(ISubject subject, bytes32 subjectId, address provider, bytes calldata evidence) external;
}
