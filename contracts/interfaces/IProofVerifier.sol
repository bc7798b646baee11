// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Adapter of a zero-knowledge verifier
interface IProofVerifier {
    /// @notice Whether `proof` shows that the model answers this request with this output.
    /// Requirements: must not revert on a malformed proof but return false; callers treat a revert as false.
    function verify(bytes32 modelId, bytes32 requestHash, bytes32 outputHash, bytes calldata proof)
        external
        view
        returns (bool);
}
