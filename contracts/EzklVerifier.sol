// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklProgram, IEzklVerifier, IHalo2Verifier, InputForm} from "./interfaces/IEzklVerifier.sol";
import {Statement} from "./interfaces/IProofVerifier.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {Model} from "./interfaces/Wire.sol";
import {TokensRoot} from "./libraries/TokensRoot.sol";

/// @dev Calls generated code by static calls alone, so nothing reenters and nothing is written.
contract EzklVerifier is IEzklVerifier {
    struct Entry {
        address verifier;
        uint32 inputs;
        uint32 outputs;
        InputForm form;
        bytes32 weightsCommitment;
    }

    bytes32 private constant PROGRAM_TYPEHASH =
        keccak256("EzklProgram(uint32 inputs,uint32 outputs,uint8 form,bytes32 weightsCommitment)");
    /// @dev Order of the scalar field of BN254: instances are below it, a negative output is this less its amount.
    uint256 private constant FIELD =
        21_888_242_871_839_275_222_246_405_745_257_275_088_548_364_400_416_034_343_698_204_186_575_808_495_617;
    /// @dev Values lie between -END and END: twice their size, less one where negative, is an id, and never the filler.
    uint256 private constant END = 1 << 31;
    uint32 private constant MAX_IDS = 4096;

    address public immutable registry;

    mapping(bytes32 modelId => Entry) private _entries;

    constructor(address registry_) {
        registry = registry_;
    }

    function register(bytes32 modelId, address verifier, EzklProgram calldata program) external {
        // INVARIANT: a model's verifier never changes
        if (_entries[modelId].verifier != address(0)) revert VerifierAlreadyRegistered(modelId);
        Model memory roots = IRegistry(registry).models(modelId);
        // INVARIANT: the verifier is the one that the model's id names, whoever registers it
        _mustEqual(modelId, "weightsRoot", roots.weightsRoot, verifier.codehash);
        _mustEqual(modelId, "programRoot", roots.programRoot, hashProgram(program));
        if (program.inputs == 0 || program.inputs > MAX_IDS) revert BadProgram("inputs");
        if (program.outputs == 0 || program.outputs > MAX_IDS) revert BadProgram("outputs");
        // INVARIANT: an address without code answers no call; it verifies nothing
        if (verifier.code.length == 0) revert BadProgram("verifier");
        _entries[modelId] = Entry(verifier, program.inputs, program.outputs, program.form, program.weightsCommitment);
        emit VerifierRegistered(modelId, verifier, program);
    }

    function verify(Statement calldata statement, bytes calldata ids, bytes calldata proof)
        external
        view
        returns (bool)
    {
        Entry memory entry = _entries[statement.modelId];
        if (entry.verifier == address(0)) revert NoVerifier(statement.modelId);
        bool isPublic = entry.form == InputForm.PUBLIC;
        uint256 inputs = isPublic ? entry.inputs : 1;
        uint256 weights = entry.weightsCommitment == 0 ? 0 : 1;
        uint256 inputsAt = isPublic ? weights : 0;
        uint256 outputsAt = inputs + 1 + weights;
        uint256[] calldata instances = _instances(statement.modelId, proof, outputsAt + entry.outputs + 1);
        _checkJob(statement.jobId, entry.form, inputsAt + inputs, instances);
        _checkInput(statement, entry, instances[inputsAt:inputsAt + inputs]);
        // INVARIANT: what was proved is the output that is claimed
        bytes memory proved = abi.encodePacked(_words(instances[outputsAt:outputsAt + entry.outputs]));
        if (keccak256(ids) != keccak256(proved)) revert StatementMismatch(statement.jobId, "output");
        // INVARIANT: a key that fits many models proves nothing of one until the hash of its weights is compared
        if (weights == 1 && instances[isPublic ? 0 : 2] != uint256(entry.weightsCommitment)) {
            revert StatementMismatch(statement.jobId, "model");
        }
        return _accepts(entry.verifier, proof);
    }

    function shapeOf(bytes32 modelId) external view returns (uint32 inputs, uint32 outputs) {
        Entry storage entry = _entries[modelId];
        return (entry.inputs, entry.outputs);
    }

    function verifierOf(bytes32 modelId) external view returns (address verifier, EzklProgram memory program) {
        Entry storage entry = _entries[modelId];
        program = EzklProgram(entry.inputs, entry.outputs, entry.form, entry.weightsCommitment);
        return (entry.verifier, program);
    }

    function hashProgram(EzklProgram calldata program) public pure returns (bytes32) {
        return keccak256(abi.encode(PROGRAM_TYPEHASH, program));
    }

    function tagOf(bytes32 jobId) public pure returns (uint256) {
        return uint256(jobId) >> 8;
    }

    function _mustEqual(bytes32 modelId, bytes32 field, bytes32 expected, bytes32 got) private pure {
        if (expected != got) revert VerifierMismatch(modelId, field, expected, got);
    }

    function _checkJob(bytes32 jobId, InputForm form, uint256 tagAt, uint256[] calldata instances) private pure {
        uint256 tag = tagOf(jobId);
        // INVARIANT: a proof is for one job on one chain
        bool named = instances[instances.length - 1] == tag && (form == InputForm.HASHED || instances[tagAt] == tag);
        if (!named) revert StatementMismatch(jobId, "jobId");
    }

    function _checkInput(Statement calldata statement, Entry memory entry, uint256[] calldata instances) private pure {
        // INVARIANT: what was proved is the input that the client paid for
        bool asked = statement.inputTokens == entry.inputs && _rootOf(entry.form, instances) == statement.inputRoot;
        if (!asked) revert StatementMismatch(statement.jobId, "input");
    }

    /// @dev INVARIANT: what is compared here and what the verifier reads are the same words: one encoding is taken.
    function _instances(bytes32 modelId, bytes calldata proof, uint256 count)
        private
        pure
        returns (uint256[] calldata instances)
    {
        if (proof.length < 96) revert MalformedProof(modelId);
        uint256 length = uint256(bytes32(proof[64:96]));
        if (length % 32 != 0 || length > proof.length) revert MalformedProof(modelId);
        uint256 start = 96 + length;
        bool holds = uint256(bytes32(proof[:32])) == 64 && uint256(bytes32(proof[32:64])) == start
            && proof.length == start + 32 + 32 * count && uint256(bytes32(proof[start:start + 32])) == count;
        if (!holds) revert MalformedProof(modelId);
        assembly ("memory-safe") {
            instances.offset := add(add(proof.offset, start), 32)
            instances.length := count
        }
    }

    function _rootOf(InputForm form, uint256[] calldata instances) private pure returns (bytes32) {
        if (form == InputForm.HASHED) return bytes32(instances[0]);
        return TokensRoot.rootOfWords(_words(instances));
    }

    /// @return words eight ids each, filled up with 0xff…
    function _words(uint256[] calldata values) private pure returns (uint256[] memory words) {
        words = new uint256[](TokensRoot.packedLength(values.length) / 32);
        for (uint256 i; i < words.length; ++i) {
            uint256 word;
            for (uint256 j = 8 * i; j < 8 * i + 8; ++j) {
                word = word << 32 | (j < values.length ? _id(values[j]) : type(uint32).max);
            }
            words[i] = word;
        }
    }

    /// @dev INVARIANT: an instance outside of the values is no id, however its lowest bits look
    function _id(uint256 value) private pure returns (uint256) {
        if (value < END) return value << 1;
        if (value < FIELD && FIELD - value < END) return ((FIELD - value) << 1) - 1;
        revert NotAnId(value);
    }

    /// @dev INVARIANT: only the word `true` is a yes: a revert, false, and any other answer refuse the proof
    function _accepts(address verifier, bytes calldata proof) private view returns (bool) {
        (bool success, bytes memory answer) =
            verifier.staticcall(bytes.concat(IHalo2Verifier.verifyProof.selector, proof));
        return success && answer.length == 32 && uint256(bytes32(answer)) == 1;
    }
}
