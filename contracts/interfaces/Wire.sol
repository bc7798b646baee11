// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Every struct two parties or the chain must agree on (docs/protocol.md). A hash of one of them is its EIP-712
// `hashStruct`; all fields are static, so `keccak256(abi.encode(TYPEHASH, value))` is that hash. The same structs
// stand in market/types.py; tests/vectors/wire.json holds both to the same values.

/// @notice How the answer of a job is verified before money moves.
enum Mode {
    NONE,
    QUORUM,
    OPTIMISTIC,
    PROOF
}

/// @notice An immutable artefact; its `hashStruct` is the `modelId`. No domain: it means the same on every chain.
struct Model {
    bytes32 weightsRoot;
    bytes32 programRoot;
    bytes32 tablesRoot;
    bytes32 tokenizerHash;
    bytes32 templateHash;
}

/// @notice What the client asks for. `inputRoot` is the tokens root of the prompt's ids; `stopTokens` packs eight
/// ascending uint32, unused = 0xffffffff; sampler 0 = greedy (every sampling field and the seed are 0),
/// 1 = seeded by the request, 2 = seeded by the chain (the seed is 0: the subject has it).
struct Request {
    bytes32 modelId;
    bytes32 inputRoot;
    uint32 inputTokens;
    uint32 maxOutputTokens;
    bytes32 stopTokens;
    uint8 sampler;
    uint32 temperatureQ16;
    uint32 topK;
    uint32 topPQ16;
    bytes32 seed;
    bytes32 nonce;
}

/// @notice What a provider answers. finish: 1 stop token, 2 length, 3 cancelled by the client, 4 error.
struct Output {
    bytes32 outputRoot;
    uint32 outputTokens;
    uint8 finish;
}

/// @notice A provider's signed price. Prices per million tokens, in base units of `token`; `client` 0 = anyone;
/// `requestHash` 0 = any request of that model inside the two token limits.
struct Quote {
    address provider;
    address client;
    bytes32 modelId;
    bytes32 requestHash;
    uint8 mode;
    address token;
    uint128 baseFee;
    uint128 pricePerMInput;
    uint128 pricePerMOutput;
    uint128 killFee;
    uint128 missFee;
    uint128 bond;
    uint32 maxInputTokens;
    uint32 maxOutputTokens;
    uint64 validUntil;
    uint256 nonce;
}

/// @notice What a replica hides behind its commitment: the EIP-712 digest of this struct is the commitment.
struct Commitment {
    bytes32 jobId;
    address provider;
    bytes32 outputHash;
    bytes32 salt;
}

/// @notice A provider's signed statement "for this request, this is the output".
struct Receipt {
    bytes32 subjectId;
    uint64 index;
    bytes32 requestHash;
    bytes32 outputRoot;
    uint32 outputTokens;
    uint8 finish;
    uint128 charged;
    uint64 issuedAt;
}

/// @notice A provider's signed statement "I hold this request".
struct Acceptance {
    bytes32 subjectId;
    bytes32 requestHash;
    uint64 acceptedAt;
}
