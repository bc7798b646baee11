// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Acceptance, Commitment, Model, Output, Quote, Receipt, Request} from "../interfaces/Wire.sol";

/// @title hashStruct of every struct in Wire.sol (EIP-712)
/// @dev All fields are static, so one `abi.encode` of type hash and struct is the encoding that EIP-712 asks for.
library WireHash {
    bytes32 internal constant MODEL_TYPEHASH = keccak256(
        "Model(bytes32 weightsRoot,bytes32 programRoot,bytes32 tablesRoot,bytes32 tokenizerHash,bytes32 templateHash)"
    );
    bytes32 internal constant REQUEST_TYPEHASH = keccak256(
        "Request(bytes32 modelId,bytes32 inputRoot,uint32 inputTokens,uint32 maxOutputTokens,bytes32 stopTokens,uint8 sampler,uint32 temperatureQ16,uint32 topK,uint32 topPQ16,bytes32 seed,bytes32 nonce)"
    );
    bytes32 internal constant OUTPUT_TYPEHASH =
        keccak256("Output(bytes32 outputRoot,uint32 outputTokens,uint8 finish)");
    bytes32 internal constant QUOTE_TYPEHASH = keccak256(
        "Quote(address provider,address client,bytes32 modelId,bytes32 requestHash,uint8 mode,address token,uint128 baseFee,uint128 pricePerMInput,uint128 pricePerMOutput,uint128 killFee,uint128 missFee,uint128 bond,uint32 maxInputTokens,uint32 maxOutputTokens,uint64 validUntil,uint256 nonce)"
    );
    bytes32 internal constant COMMITMENT_TYPEHASH =
        keccak256("Commitment(bytes32 jobId,address provider,bytes32 outputHash,bytes32 salt)");
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 subjectId,uint64 index,bytes32 requestHash,bytes32 outputRoot,uint32 outputTokens,uint8 finish,uint128 charged,uint64 issuedAt)"
    );
    bytes32 internal constant ACCEPTANCE_TYPEHASH =
        keccak256("Acceptance(bytes32 subjectId,bytes32 requestHash,uint64 acceptedAt)");

    function model(Model calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(MODEL_TYPEHASH, value));
    }

    function request(Request calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(REQUEST_TYPEHASH, value));
    }

    /// @notice The request hash of `abi.encode(Request)`. Bytes that are no such encoding hash to no request's hash,
    /// so a match proves every field without decoding one.
    function encodedRequest(bytes calldata encoded) internal pure returns (bytes32) {
        return keccak256(bytes.concat(REQUEST_TYPEHASH, encoded));
    }

    function output(Output calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(OUTPUT_TYPEHASH, value));
    }

    function outputInMemory(Output memory value) internal pure returns (bytes32) {
        return keccak256(abi.encode(OUTPUT_TYPEHASH, value));
    }

    function quote(Quote calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(QUOTE_TYPEHASH, value));
    }

    function commitment(Commitment memory value) internal pure returns (bytes32) {
        return keccak256(abi.encode(COMMITMENT_TYPEHASH, value));
    }

    function receipt(Receipt calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, value));
    }

    function receiptInMemory(Receipt memory value) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, value));
    }

    function acceptance(Acceptance calldata value) internal pure returns (bytes32) {
        return keccak256(abi.encode(ACCEPTANCE_TYPEHASH, value));
    }
}
