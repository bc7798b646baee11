// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IProofVerifier} from "./IProofVerifier.sol";

/// @notice How a request's input stands among the public instances of a proof.
enum InputForm {
    PUBLIC, // one instance an id
    HASHED // one instance: the Poseidon hash of ids and blinding, which is the request's inputRoot
}

/// @notice What a proof of one model looks like. Its `hashStruct` is the model's programRoot.
/// Instances, in this order: the weights' hash, where there is one and the input is PUBLIC; the input in its form; the
/// job's tag, as it went in (HASHED: a hash of it, not looked at); the weights' hash, where there is one and the input is
/// HASHED; the outputs; the tag again, as it came out.
struct EzklProgram {
    uint32 inputs; // ids: 2v for a value v of 0 and more, -2v - 1 for a negative one, |v| < 2^31
    uint32 outputs; // likewise
    InputForm form;
    bytes32 weightsCommitment; // 0: the weights are in the verifier's code; else their Poseidon hash
}

/// @title Adapter of the verifiers that ezkl generates
/// @notice Whoever registers a verifier proves nothing and is trusted with nothing: a model's `weightsRoot` is the hash of
/// its verifier's runtime code, in which the verifying key is a constant, and its `programRoot` the hash of its
/// `EzklProgram`. So a modelId names one verifier, the same on every chain, and there is nobody to ask for another.
interface IEzklVerifier is IProofVerifier {
    event VerifierRegistered(bytes32 indexed modelId, address indexed verifier, EzklProgram program);

    error VerifierAlreadyRegistered(bytes32 modelId);
    /// @dev The code at that address, or the program, is not the one that the modelId names.
    error VerifierMismatch(bytes32 modelId, bytes32 field, bytes32 expected, bytes32 got);
    error BadProgram(bytes32 field);
    error NoVerifier(bytes32 modelId);
    /// @dev The proof is not encoded as abi.encode(bytes, uint256[]) of this model's lengths.
    error MalformedProof(bytes32 modelId);
    /// @dev The proof is about something else: another "jobId", "input", "output" or, with a commitment, "model".
    error StatementMismatch(bytes32 jobId, bytes32 field);
    error NotAnId(uint256 instance);

    /// @notice Names the verifier of a published model. Anyone, once a model.
    function register(bytes32 modelId, address verifier, EzklProgram calldata program) external;

    /// @return verifier 0 where none is registered
    function verifierOf(bytes32 modelId) external view returns (address verifier, EzklProgram memory program);
    function hashProgram(EzklProgram calldata program) external pure returns (bytes32);
    /// @return the instance by which a proof names its job: the upper 248 bits of the id, which fit a field element
    function tagOf(bytes32 jobId) external pure returns (uint256);
    function registry() external view returns (address);
}

/// @notice What ezkl generates. It reverts on most wrong proofs and may return false.
interface IHalo2Verifier {
    function verifyProof(bytes calldata proof, uint256[] calldata instances) external returns (bool);
}
