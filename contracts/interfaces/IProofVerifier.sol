// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a proof must show: this model, given this input for this job, answers as claimed.
struct Statement {
    bytes32 jobId;
    bytes32 modelId;
    bytes32 inputRoot; // of the request: the tokens root of its ids, or what the model's input form makes of them
    uint32 inputTokens;
}

/// @title Adapter of a proving system
/// @notice Knows, per model, the verifier that the model's roots name, and reads what its proofs say.
interface IProofVerifier {
    /// @notice What a job of this model looks like.
    /// @return inputs ids of its input, 0 where no verifier of the model is known
    /// @return outputs ids of its output
    function shapeOf(bytes32 modelId) external view returns (uint32 inputs, uint32 outputs);

    /// @notice Whether `proof` shows `statement` with exactly the output `ids` (uint32 big-endian, the last word padded
    /// with 0xff…).
    /// Requirements: false, or a revert that says what differs, for everything that is no such proof. Callers move
    /// nothing in either case.
    function verify(Statement calldata statement, bytes calldata ids, bytes calldata proof) external view returns (bool);
}
