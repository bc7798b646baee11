// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

import {LayerFormat, Shape} from "../interfaces/Trace.sol";
import {ModelTrees, Tensor} from "./ModelTrees.sol";
import {Openings} from "./Openings.sol";

/// @title The root of a llama program, leaf by leaf from its shapes (docs/numerics.md, section 7.2)
library ProgramRoot {
    uint256 private constant CHUNK = 64;
    uint256 private constant LAYER_OPERATIONS = 17;
    uint256 private constant OTHER_OPERATIONS = 4; // embedding, output_norm, logits, argmax

    // fields of a leaf, after the word whose last byte is the leaf's 0x00
    uint256 private constant KIND = 1;
    uint256 private constant LAYER = 2;
    uint256 private constant ROWS = 3;
    uint256 private constant COLUMNS = 4;
    uint256 private constant FIRST_WEIGHT_LEAF = 5;
    uint256 private constant EXPONENT = 6;
    uint256 private constant FRACTION_BITS = 7;
    uint256 private constant CONSTANT = 8;
    uint256 private constant CHUNK_LENGTH = 9;

    struct Builder {
        uint256[10] leaf;
        bytes32[] level; // leaf hashes, zeros up to a power of two
        uint256 count;
    }

    function build(Shape memory shape, LayerFormat[] memory layers) internal pure returns (bytes32) {
        uint256 operations = LAYER_OPERATIONS * layers.length + OTHER_OPERATIONS;
        Builder memory builder;
        builder.level = new bytes32[](1 << Openings.bitsFor(operations));
        builder.leaf[CHUNK_LENGTH] = CHUNK;

        _matrix(builder, 1, ModelTrees.embedding(shape), shape.embeddingExponent);
        for (uint256 i; i < layers.length; ++i) {
            builder.leaf[LAYER] = i;
            _attention(builder, shape, layers[i], i);
            _feedForward(builder, shape, layers[i], i);
        }
        builder.leaf[LAYER] = 0;
        _norm(builder, 19, ModelTrees.outputNorm(shape), shape.epsilon);
        _matrix(builder, 20, ModelTrees.head(shape), shape.headExponent);
        _add(builder, 21, 1, shape.vocabulary);
        return _root(builder.level);
    }

    function _attention(Builder memory builder, Shape memory shape, LayerFormat memory format, uint256 i) private pure {
        uint256[10] memory leaf = builder.leaf;
        _norm(builder, 2, ModelTrees.ofLayer(shape, i, ModelTrees.ATTENTION_NORM), shape.epsilon);
        _matrix(builder, 3, ModelTrees.ofLayer(shape, i, ModelTrees.QUERY), format.query);
        _matrix(builder, 4, ModelTrees.ofLayer(shape, i, ModelTrees.KEY), format.key);
        _matrix(builder, 5, ModelTrees.ofLayer(shape, i, ModelTrees.VALUE), format.value);
        leaf[FRACTION_BITS] = format.queryFraction;
        _add(builder, 6, shape.heads, shape.headSize);
        leaf[FRACTION_BITS] = format.keyFraction;
        _add(builder, 7, shape.kvHeads, shape.headSize);
        leaf[FRACTION_BITS] = format.valueFraction;
        _add(builder, 8, shape.kvHeads, shape.headSize);
        leaf[EXPONENT] = uint256(format.queryFraction) + format.keyFraction + 2;
        leaf[CONSTANT] = shape.scoreMultiplier;
        _add(builder, 9, shape.heads, shape.context);
        _add(builder, 10, shape.heads, shape.context);
        leaf[FRACTION_BITS] = format.valueFraction;
        _add(builder, 11, shape.heads, shape.headSize);
        _add(builder, 12, 1, uint256(shape.heads) * shape.headSize);
        Tensor memory output = ModelTrees.ofLayer(shape, i, ModelTrees.ATTENTION_OUTPUT);
        _matrix(builder, 13, output, format.attentionOutput);
    }

    function _feedForward(Builder memory builder, Shape memory shape, LayerFormat memory format, uint256 i)
        private
        pure
    {
        _norm(builder, 14, ModelTrees.ofLayer(shape, i, ModelTrees.FEED_FORWARD_NORM), shape.epsilon);
        _matrix(builder, 15, ModelTrees.ofLayer(shape, i, ModelTrees.GATE), format.gate);
        _matrix(builder, 16, ModelTrees.ofLayer(shape, i, ModelTrees.UP), format.up);
        _add(builder, 17, 1, shape.feedForward);
        _matrix(builder, 18, ModelTrees.ofLayer(shape, i, ModelTrees.DOWN), format.down);
    }

    function _matrix(Builder memory builder, uint256 kind, Tensor memory tensor, uint256 exponent) private pure {
        builder.leaf[FIRST_WEIGHT_LEAF] = tensor.firstLeaf;
        builder.leaf[EXPONENT] = exponent;
        _add(builder, kind, tensor.rows, tensor.columns);
    }

    function _norm(Builder memory builder, uint256 kind, Tensor memory tensor, uint256 epsilon) private pure {
        builder.leaf[FIRST_WEIGHT_LEAF] = tensor.firstLeaf;
        builder.leaf[CONSTANT] = epsilon;
        _add(builder, kind, 1, tensor.columns);
    }

    /// @dev Adds the leaf and clears what is particular to it.
    function _add(Builder memory builder, uint256 kind, uint256 rows, uint256 columns) private pure {
        uint256[10] memory leaf = builder.leaf;
        (leaf[KIND], leaf[ROWS], leaf[COLUMNS]) = (kind, rows, columns);
        bytes32 hash;
        assembly ("memory-safe") {
            hash := keccak256(add(leaf, 31), 289)
        }
        builder.level[builder.count++] = hash;
        (leaf[FIRST_WEIGHT_LEAF], leaf[EXPONENT], leaf[FRACTION_BITS], leaf[CONSTANT]) = (0, 0, 0, 0);
    }

    function _root(bytes32[] memory level) private pure returns (bytes32) {
        for (uint256 width = level.length; width > 1; width >>= 1) {
            for (uint256 i; i < width; i += 2) {
                level[i >> 1] = Hashes.efficientKeccak256(level[i], level[i + 1]);
            }
        }
        return level[0];
    }
}
