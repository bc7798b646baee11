// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISubject} from "./ISubject.sol";

// What a dispute is about (docs/disputes.md). The same structs stand in market/verification.

/// @notice Shapes and constants of a llama-shaped program (docs/numerics.md, section 2).
struct Shape {
    uint32 vocabulary;
    uint32 context;
    uint32 hidden;
    uint32 feedForward;
    uint16 layers;
    uint16 heads;
    uint16 kvHeads;
    uint16 headSize;
    uint64 epsilon; // Q32
    uint64 scoreMultiplier; // Q18
    bool tied; // the embedding is the head
    uint8 embeddingExponent;
    uint8 headExponent; // the embedding's if tied
}

/// @notice Exponents of a layer's matrices and fraction bits of its cache.
struct LayerFormat {
    uint8 query;
    uint8 key;
    uint8 value;
    uint8 attentionOutput;
    uint8 gate;
    uint8 up;
    uint8 down;
    uint8 queryFraction;
    uint8 keyFraction;
    uint8 valueFraction;
}

/// @notice A receipt under dispute, whole: the game stores its hash and is given it back with every move that needs it.
struct Claim {
    ISubject subject;
    bytes32 subjectId;
    address provider;
    bytes32 weightsRoot;
    bytes32 programRoot;
    bytes32 tablesRoot;
    bytes32 inputRoot;
    bytes32 outputRoot;
    uint32 inputTokens;
    uint32 outputTokens;
    uint8 sampler;
    uint32 temperatureQ16;
    uint32 topK;
    uint32 topPQ16;
    bytes32 seed;
}

/// @notice A leaf's payload (or those of a whole row, one after the other) and its siblings up to the root, lowest first.
struct Opening {
    bytes payload;
    bytes32[] path;
}

/// @notice "This element of this leaf is wrong": the place in the trace, and openings in the order of section 3.
/// `witness` is the index that contradicts a maximum, else 0.
struct Accusation {
    uint32 group;
    uint32 operation;
    uint32 row;
    uint32 slot;
    uint32 element;
    uint32 witness;
    Opening accused;
    Opening[] inputs;
}

/// @notice "At output position `position` the rival beats the id that was returned": openings of two LOGITS leaves and of
/// the output's ids word.
struct OutputAccusation {
    uint32 position;
    uint32 output;
    uint32 rival;
    Opening ids;
    Opening outputLogits;
    Opening rivalLogits;
}
