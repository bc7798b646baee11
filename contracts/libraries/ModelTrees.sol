// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IJudge} from "../interfaces/IJudge.sol";
import {Opening, Shape} from "../interfaces/Trace.sol";
import {Openings} from "./Openings.sol";
import {TokensRoot} from "./TokensRoot.sol";
import {Context} from "./TraceTree.sol";

/// @notice A tensor under the weights root.
struct Tensor {
    uint256 number;
    uint256 firstLeaf;
    uint256 rows; // of a matrix
    uint256 columns;
}

/// @title Openings of weights, tables and ids: what a claim takes from its model and its receipt
/// @dev docs/numerics.md, section 7, and docs/protocol.md.
library ModelTrees {
    using Openings for Opening;
    using Openings for bytes;

    uint256 internal constant GAINS = 64; // of a leaf
    uint256 internal constant TABLE_ENTRIES = 256; // of a leaf
    uint256 internal constant HEADER_BYTES = 32;
    uint256 internal constant FIRST_ROPE_LEAF = 2; // after exp2_high and exp2_low

    // a layer's tensors in their order
    uint256 internal constant ATTENTION_NORM = 0;
    uint256 internal constant QUERY = 1;
    uint256 internal constant KEY = 2;
    uint256 internal constant VALUE = 3;
    uint256 internal constant ATTENTION_OUTPUT = 4;
    uint256 internal constant FEED_FORWARD_NORM = 5;
    uint256 internal constant GATE = 6;
    uint256 internal constant UP = 7;
    uint256 internal constant DOWN = 8;
    uint256 internal constant LAYER_TENSORS = 9;

    function embedding(Shape memory shape) internal pure returns (Tensor memory) {
        return Tensor(0, 0, shape.vocabulary, shape.hidden);
    }

    function ofLayer(Shape memory shape, uint256 layer, uint256 which) internal pure returns (Tensor memory tensor) {
        unchecked {
            uint256 query = uint256(shape.heads) * shape.headSize;
            uint256 key = uint256(shape.kvHeads) * shape.headSize;
            uint256 wide = shape.feedForward;
            tensor.number = 1 + LAYER_TENSORS * layer + which;
            tensor.columns = shape.hidden;
            if (which == ATTENTION_OUTPUT) tensor.columns = query;
            if (which == DOWN) tensor.columns = wide;
            uint256 gains = Math.ceilDiv(shape.hidden, GAINS);
            uint256[9] memory leaves =
                [gains, query, key, key, uint256(shape.hidden), gains, wide, wide, uint256(shape.hidden)];
            tensor.rows = leaves[which];
            uint256 first = shape.vocabulary + layer * _layerLeaves(shape);
            for (uint256 i; i < which; ++i) {
                first += leaves[i];
            }
            tensor.firstLeaf = first;
        }
    }

    function outputNorm(Shape memory shape) internal pure returns (Tensor memory) {
        unchecked {
            return Tensor(1 + LAYER_TENSORS * shape.layers, _leavesBeforeHead(shape) - _gains(shape), 1, shape.hidden);
        }
    }

    function head(Shape memory shape) internal pure returns (Tensor memory) {
        if (shape.tied) return embedding(shape);
        unchecked {
            return Tensor(2 + LAYER_TENSORS * shape.layers, _leavesBeforeHead(shape), shape.vocabulary, shape.hidden);
        }
    }

    /// @notice Checks the opening of a matrix's row.
    /// @return weights int8 each, zeros up to a multiple of 32
    /// @return multiplier of the row
    function weightRow(Context memory context, Tensor memory tensor, uint256 row, Opening calldata opening)
        internal
        pure
        returns (bytes calldata weights, uint256 multiplier)
    {
        // INVARIANT: a row of one matrix is not taken for one of another
        if (row >= tensor.rows) revert IJudge.ElementOutside(row, tensor.rows);
        bytes calldata payload = opening.check(
            context.weightsRoot,
            Openings.bitsFor(_leaves(context.shape)),
            tensor.firstLeaf + row,
            HEADER_BYTES + tensor.columns
        );
        multiplier = _header(payload, tensor.number, row);
        weights = payload[HEADER_BYTES:];
    }

    /// @notice Checks the opening of a leaf of gains.
    /// @return gain number `element`, Q12
    function gain(Context memory context, Tensor memory tensor, uint256 element, Opening calldata opening)
        internal
        pure
        returns (int256)
    {
        if (element >= tensor.columns) revert IJudge.ElementOutside(element, tensor.columns);
        uint256 row = element / GAINS;
        bytes calldata payload = opening.check(
            context.weightsRoot,
            Openings.bitsFor(_leaves(context.shape)),
            tensor.firstLeaf + row,
            HEADER_BYTES + 4 * GAINS
        );
        _header(payload, tensor.number, row);
        return Openings.element(payload[HEADER_BYTES:], element % GAINS, 4);
    }

    /// @notice Checks the opening of a leaf of rope_cos or rope_sin.
    /// @return value for pair `i` of a head's values at a position, Q15
    function rotary(Context memory context, bool sine, uint256 position, uint256 i, Opening calldata opening)
        internal
        pure
        returns (int256)
    {
        unchecked {
            uint256 entry = position * (context.shape.headSize / 2) + i;
            uint256 index = FIRST_ROPE_LEAF + (sine ? _rotaryLeaves(context.shape) : 0) + entry / TABLE_ENTRIES;
            uint256 depth = tablesDepth(context.shape);
            return opening.check(context.tablesRoot, depth, index, 4 * TABLE_ENTRIES).element(entry % TABLE_ENTRIES, 4);
        }
    }

    /// @return levels of the tree of tables
    function tablesDepth(Shape memory shape) internal pure returns (uint256) {
        unchecked {
            return Openings.bitsFor(FIRST_ROPE_LEAF + 2 * _rotaryLeaves(shape));
        }
    }

    /// @notice Checks the opening of the word that has the id at a position of prompt and output.
    function tokenAt(Context memory context, uint256 position, Opening calldata opening)
        internal
        pure
        returns (uint256 token)
    {
        bool answered = position >= context.inputTokens;
        uint256 place = answered ? position - context.inputTokens : position;
        uint256 count = answered ? context.outputTokens : context.inputTokens;
        if (place >= count) revert IJudge.ElementOutside(place, count);
        bytes calldata payload = opening.check(
            answered ? context.outputRoot : context.inputRoot,
            Openings.bitsFor(Math.ceilDiv(count, TokensRoot.TOKENS_PER_WORD)),
            place / TokensRoot.TOKENS_PER_WORD,
            32
        );
        token = uint32(uint256(payload.element(place % TokensRoot.TOKENS_PER_WORD, 4)));
    }

    function _header(bytes calldata payload, uint256 tensor, uint256 row) private pure returns (uint256 multiplier) {
        uint256 header = uint256(bytes32(payload[:HEADER_BYTES]));
        uint256 expected = (tensor << 32) | row;
        // INVARIANT: a leaf says itself which row of which tensor it is
        if (header >> 208 != expected) revert IJudge.HeaderMismatch(expected, header >> 208);
        multiplier = uint32(header >> 176);
    }

    function _rotaryLeaves(Shape memory shape) private pure returns (uint256) {
        unchecked {
            return Math.ceilDiv(uint256(shape.context) * (shape.headSize / 2), TABLE_ENTRIES);
        }
    }

    function _gains(Shape memory shape) private pure returns (uint256) {
        return Math.ceilDiv(shape.hidden, GAINS);
    }

    function _layerLeaves(Shape memory shape) private pure returns (uint256) {
        unchecked {
            uint256 heads = uint256(shape.heads) + 2 * uint256(shape.kvHeads);
            return 2 * (_gains(shape) + shape.hidden + uint256(shape.feedForward)) + heads * shape.headSize;
        }
    }

    function _leavesBeforeHead(Shape memory shape) private pure returns (uint256) {
        unchecked {
            return shape.vocabulary + shape.layers * _layerLeaves(shape) + _gains(shape);
        }
    }

    function _leaves(Shape memory shape) private pure returns (uint256) {
        unchecked {
            return _leavesBeforeHead(shape) + (shape.tied ? 0 : shape.vocabulary);
        }
    }
}
