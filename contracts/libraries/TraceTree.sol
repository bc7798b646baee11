// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IJudge} from "../interfaces/IJudge.sol";
import {Accusation, LayerFormat, Opening, Shape} from "../interfaces/Trace.sol";
import {Openings} from "./Openings.sol";

/// @notice What a step needs to know. The judge has opened the accused leaf before it asks a step: a step reads
/// `claimed` and the accused payload, and opens its inputs only.
struct Context {
    Shape shape;
    LayerFormat format; // of the accused layer; zeros for embedding and head
    bytes32 traceRoot;
    bytes32 weightsRoot;
    bytes32 tablesRoot;
    bytes32 inputRoot;
    bytes32 outputRoot;
    uint32 inputTokens;
    uint32 outputTokens;
    int256 claimed; // the accused element
}

/// @notice A leaf of the trace; with a slot that nobody reads, a row.
struct Place {
    uint256 group;
    uint256 operation;
    uint256 row;
    uint256 slot;
}

/// @notice How the leaves of a section are cut.
/// CHUNKS: a row's elements after each other, `chunk` a leaf, after the statistic where there is one.
/// POSITIONS: VALUE, a leaf is an element at 64 positions.
/// TOTALS: SOFTMAX, maximum, its index, and a sum for each block.
/// SCORES, SUMS: a leaf for each block of 64 positions up to the row's own.
enum Layout {
    CHUNKS,
    POSITIONS,
    TOTALS,
    SCORES,
    SUMS
}

/// @notice One operation of one group.
struct Section {
    Layout form;
    uint256 rows; // 0: the program has no such section
    uint256 slots; // of a row
    uint256 columns; // CHUNKS: elements of a row, statistic left out
    uint256 chunk; // elements of a full leaf
    uint256 width; // bytes of an element, statistics' aside
    uint256 statistic; // CHUNKS: fields in slot 0, 0: there is none
    uint256 rowBits;
    uint256 slotBits;
}

/// @title Where everything lies in a trace, and what it looks like (docs/disputes.md, section 2)
library TraceTree {
    using Openings for Opening;
    using Openings for bytes;

    uint256 internal constant OPERATION_BITS = 5;
    uint256 internal constant REVEAL_LEVELS = 5;
    uint256 internal constant BLOCK = 64; // positions
    uint256 internal constant CHUNK = 64; // elements
    uint256 internal constant LOGITS_CHUNK = 128;
    uint256 internal constant STATISTIC_WIDTH = 8;
    uint256 internal constant STATISTIC_BYTES = 32;

    // group 0
    uint256 internal constant EMBEDDING = 0;
    // groups 1 … L
    uint256 internal constant ATTENTION_NORM = 0;
    uint256 internal constant QUERY = 1;
    uint256 internal constant KEY = 2;
    uint256 internal constant ROTATE_QUERY = 3;
    uint256 internal constant ROTATE_KEY = 4;
    uint256 internal constant VALUE = 5;
    uint256 internal constant SCORES = 6;
    uint256 internal constant SOFTMAX = 7;
    uint256 internal constant MIX_SUM = 8;
    uint256 internal constant MIX = 9;
    uint256 internal constant QUANTISE_MIX = 10;
    uint256 internal constant ATTENTION_OUTPUT = 11;
    uint256 internal constant FEED_FORWARD_NORM = 12;
    uint256 internal constant GATE = 13;
    uint256 internal constant UP = 14;
    uint256 internal constant ACTIVATION = 15;
    uint256 internal constant DOWN = 16;
    // group L + 1
    uint256 internal constant OUTPUT_NORM = 0;
    uint256 internal constant LOGITS = 1;

    // where ATTENTION_NORM, FEED_FORWARD_NORM and OUTPUT_NORM have their statistic's fields; QUANTISE_MIX and ACTIVATION
    // have s′ and i′ only
    uint256 internal constant NORM_SHIFT = 0; // s
    uint256 internal constant NORM_INVERSE = 1; // v
    uint256 internal constant NORM_SCALE = 2; // s′
    uint256 internal constant NORM_LARGEST = 3; // i′
    uint256 internal constant SCALE = 0;
    uint256 internal constant LARGEST = 1;

    /// @notice Positions that the trace has; the last id needs no logits.
    function positions(Context memory context) internal pure returns (uint256) {
        unchecked {
            return uint256(context.inputTokens) + context.outputTokens - 1;
        }
    }

    function groupBits(Context memory context) internal pure returns (uint256) {
        return Openings.bitsFor(uint256(context.shape.layers) + 2);
    }

    /// @notice Bits that a block's number takes in the slots of SCORES and MIX_SUM.
    function blockBits(Context memory context) internal pure returns (uint256) {
        return Openings.bitsFor(Math.ceilDiv(positions(context), BLOCK));
    }

    /// @return operations of a group, 0 for a group outside the program
    function operations(Context memory context, uint256 group) internal pure returns (uint256) {
        if (group == 0) return 1;
        if (group <= context.shape.layers) return DOWN + 1;
        return group == uint256(context.shape.layers) + 1 ? LOGITS + 1 : 0;
    }

    function section(Context memory context, uint256 group, uint256 operation)
        internal
        pure
        returns (Section memory found)
    {
        if (operation >= operations(context, group)) return found;
        Shape memory shape = context.shape;
        found.rows = positions(context);
        if (group == 0) {
            _chunks(found, shape.hidden, CHUNK, 6, 0);
        } else if (group <= shape.layers) {
            _ofLayer(found, context, operation);
        } else {
            found.rows = context.outputTokens;
            if (operation == OUTPUT_NORM) _chunks(found, shape.hidden, CHUNK, 2, 4);
            else _chunks(found, shape.vocabulary, LOGITS_CHUNK, 4, 0);
        }
        found.rowBits = Openings.bitsFor(found.rows);
        found.slotBits = Openings.bitsFor(found.slots);
    }

    /// @notice What a leaf holds; no elements where it lies outside the program.
    /// @param width bytes of an element
    function contents(Context memory context, Section memory cut, uint256 row, uint256 slot)
        internal
        pure
        returns (uint256 elements, uint256 width)
    {
        unchecked {
            if (row >= cut.rows || slot >= cut.slots) return (0, 0);
            width = cut.width;
            if (cut.form == Layout.CHUNKS) {
                if (cut.statistic != 0) {
                    if (slot == 0) return (cut.statistic, STATISTIC_WIDTH);
                    --slot;
                }
                return (Math.min(cut.chunk, cut.columns - slot * cut.chunk), width);
            }
            if (cut.form == Layout.POSITIONS) return (Math.min(BLOCK, positions(context) - BLOCK * row), width);
            uint256 last = row / BLOCK;
            if (cut.form == Layout.TOTALS) return (3 + last, width);
            uint256 number = slot & ((1 << blockBits(context)) - 1);
            if (number > last) return (0, 0);
            return (cut.form == Layout.SUMS ? cut.chunk : Math.min(BLOCK, row + 1 - BLOCK * number), width);
        }
    }

    /// @notice Where a node lies; `IJudge.nodeAt` says what the values mean.
    /// @dev A node is inside if and only if its first leaf is: what is outside lies at the end of every level.
    function nodeAt(Context memory context, uint256 depth, uint256 index)
        internal
        pure
        returns (uint256 levels, uint256 payloadBytes, bool inside)
    {
        if (depth > 255 || index >> depth != 0) revert IJudge.NoSuchNode(depth, index);
        uint256 top = groupBits(context);
        if (depth <= top) {
            inside = operations(context, index << (top - depth)) != 0;
            levels = top - depth;
            if (inside) levels = levels == 0 ? OPERATION_BITS : Math.min(REVEAL_LEVELS, levels);
            return (levels, 0, inside);
        }
        uint256 known = operations(context, index >> (depth - top));
        // INVARIANT: nothing lies below what is outside as a whole
        if (known == 0) revert IJudge.NoSuchNode(depth, index);
        top += OPERATION_BITS;
        uint256 operation = depth < top ? index << (top - depth) : index >> (depth - top);
        operation &= (1 << OPERATION_BITS) - 1;
        if (depth < top) return (top - depth, 0, operation < known);
        if (operation >= known) {
            if (depth > top) revert IJudge.NoSuchNode(depth, index);
            return (0, 0, false);
        }
        return _below(
            context, section(context, index >> (depth - top + OPERATION_BITS), operation), depth, index, depth - top
        );
    }

    /// @return the most reveals of hashes below the root's own
    function rounds(Context memory context) internal pure returns (uint256) {
        // every other section has as many rows as one of these, and no more slots
        uint8[5] memory most =
            [uint8(ATTENTION_NORM), uint8(VALUE), uint8(SCORES), uint8(QUANTISE_MIX), uint8(ACTIVATION)];
        uint256 deepest = _bits(section(context, uint256(context.shape.layers) + 1, LOGITS));
        for (uint256 i; i < most.length; ++i) {
            deepest = Math.max(deepest, _bits(section(context, 1, most[i])));
        }
        // the operations are one reveal, the root's own shows the first levels of groups
        return Math.ceilDiv(groupBits(context), REVEAL_LEVELS) + Math.ceilDiv(deepest, REVEAL_LEVELS);
    }

    /// @notice Where a leaf lies in the tree.
    function leafOf(Context memory context, Place memory place) internal pure returns (uint256 depth, uint256 index) {
        Section memory cut = section(context, place.group, place.operation);
        _inside(context, cut, place);
        return (_depth(context, _bits(cut)), _leafIndex(cut, place));
    }

    /// @notice The leaf with the logit of an id.
    function logitsOf(Context memory context, uint256 position, uint256 id) internal pure returns (Place memory) {
        return Place(uint256(context.shape.layers) + 1, LOGITS, position, id / LOGITS_CHUNK);
    }

    /// @notice Checks the opening of a leaf.
    /// @return payload its elements are read with `Openings.element`
    function leaf(Context memory context, Place memory place, Opening calldata opening)
        internal
        pure
        returns (bytes calldata payload)
    {
        Section memory cut = section(context, place.group, place.operation);
        (uint256 elements, uint256 width) = _inside(context, cut, place);
        return opening.check(context.traceRoot, _depth(context, _bits(cut)), _leafIndex(cut, place), elements * width);
    }

    /// @notice Checks the opening of a leaf and reads one element of it.
    function elementAt(Context memory context, Place memory place, uint256 element, Opening calldata opening)
        internal
        pure
        returns (int256)
    {
        Section memory cut = section(context, place.group, place.operation);
        (uint256 elements, uint256 width) = _inside(context, cut, place);
        // INVARIANT: padding, and positions after the row's own, are no elements
        if (element >= elements) revert IJudge.ElementOutside(element, elements);
        return opening.check(context.traceRoot, _depth(context, _bits(cut)), _leafIndex(cut, place), elements * width)
            .element(element, width);
    }

    /// @notice Checks the opening of a whole row, statistic included. Its section's layout must be CHUNKS.
    /// @return payload the statistic in 32 bytes where there is one, then all elements without a gap
    function wholeRow(Context memory context, Place memory place, Opening calldata opening)
        internal
        pure
        returns (bytes calldata payload)
    {
        Section memory cut = section(context, place.group, place.operation);
        // INVARIANT: nothing outside the program is an input
        if (place.row >= cut.rows) revert IJudge.OutsideProgram(place.group, place.operation, place.row, 0);
        payload = opening.payload;
        uint256 first = cut.statistic == 0 ? cut.chunk * cut.width : STATISTIC_BYTES;
        uint256 used = cut.columns * cut.width + (cut.statistic == 0 ? 0 : STATISTIC_BYTES);
        payload.checkLength(Openings.padded(used));
        bool zero = payload.isZeroFrom(used);
        if (cut.statistic != 0) {
            zero = zero && Openings.isZeroFrom(payload[:STATISTIC_BYTES], cut.statistic * STATISTIC_WIDTH);
        }
        // INVARIANT: an input has one form only
        if (!zero) revert IJudge.PaddingNotZero();
        Openings.checkPath(
            payload.rowHash(first, cut.chunk * cut.width, cut.slotBits),
            context.traceRoot,
            _depth(context, cut.rowBits),
            _rowIndex(cut, place),
            opening.path
        );
    }

    /// @notice Checks the opening of the accused leaf, but for its padding.
    /// @return ofPadding whether the padding is accused: element number n of n
    /// @return value the accused element, or 1 where the accused padding is anything but zeros
    function accused(Context memory context, Accusation calldata accusation)
        internal
        pure
        returns (bool ofPadding, int256 value)
    {
        Place memory place = Place(accusation.group, accusation.operation, accusation.row, accusation.slot);
        Section memory cut = section(context, place.group, place.operation);
        (uint256 elements, uint256 width) = _inside(context, cut, place);
        if (accusation.element > elements) revert IJudge.ElementOutside(accusation.element, elements);
        bytes calldata payload = accusation.accused.payload;
        payload.checkLength(Openings.padded(elements * width));
        Openings.checkPath(
            payload.leafHash(),
            context.traceRoot,
            _depth(context, _bits(cut)),
            _leafIndex(cut, place),
            accusation.accused.path
        );
        ofPadding = accusation.element == elements;
        if (!ofPadding) value = payload.element(accusation.element, width);
        else if (!payload.isZeroFrom(elements * width)) value = 1;
    }

    /// @notice Checks that the accusation brings as many inputs as its step takes.
    function needInputs(Accusation calldata accusation, uint256 expected) internal pure {
        // INVARIANT: nothing is opened that no step reads
        if (accusation.inputs.length != expected) {
            revert IJudge.InputsMiscounted(expected, accusation.inputs.length);
        }
    }

    /// @notice Where the row of the residual stream is that a norm takes, and that the block's last matrix adds to.
    /// @param group of a norm, or of the ATTENTION_OUTPUT that adds
    function residualBefore(uint256 group, uint256 position, uint256 slot) internal pure returns (Place memory) {
        unchecked {
            return Place(group - 1, group == 1 ? EMBEDDING : DOWN, position, slot);
        }
    }

    function _below(Context memory context, Section memory cut, uint256 depth, uint256 index, uint256 below)
        private
        pure
        returns (uint256 levels, uint256 payloadBytes, bool inside)
    {
        levels = _bits(cut);
        if (below > levels) revert IJudge.NoSuchNode(depth, index);
        levels -= below;
        uint256 first = (index & ((1 << below) - 1)) << levels;
        (uint256 elements, uint256 width) =
            contents(context, cut, first >> cut.slotBits, first & ((1 << cut.slotBits) - 1));
        inside = elements != 0;
        if (inside && levels == 0) payloadBytes = Openings.padded(elements * width);
        if (inside) levels = Math.min(REVEAL_LEVELS, levels);
    }

    function _ofLayer(Section memory found, Context memory context, uint256 operation) private pure {
        Shape memory shape = context.shape;
        uint256 size = shape.headSize;
        uint256 heads = shape.heads;
        if (operation == ATTENTION_NORM || operation == FEED_FORWARD_NORM) {
            _chunks(found, shape.hidden, CHUNK, 2, 4);
        } else if (operation == QUERY || operation == MIX) {
            _chunks(found, heads * size, size, 4, 0);
        } else if (operation == KEY) {
            _chunks(found, shape.kvHeads * size, size, 4, 0);
        } else if (operation == ROTATE_QUERY) {
            _chunks(found, heads * size, size, 2, 0);
        } else if (operation == ROTATE_KEY) {
            _chunks(found, shape.kvHeads * size, size, 2, 0);
        } else if (operation == VALUE) {
            found.form = Layout.POSITIONS;
            (found.rows, found.slots) = (Math.ceilDiv(found.rows, BLOCK), shape.kvHeads * size);
            (found.chunk, found.width) = (BLOCK, 2);
        } else if (operation == SCORES) {
            found.form = Layout.SCORES;
            (found.slots, found.chunk, found.width) = (heads << blockBits(context), BLOCK, 5);
        } else if (operation == SOFTMAX) {
            found.form = Layout.TOTALS;
            (found.slots, found.width) = (heads, 8);
        } else if (operation == MIX_SUM) {
            found.form = Layout.SUMS;
            (found.slots, found.chunk, found.width) = (heads << blockBits(context), size, 6);
        } else if (operation == QUANTISE_MIX) {
            _chunks(found, heads * size, size, 2, 2);
        } else if (operation == ATTENTION_OUTPUT || operation == DOWN) {
            _chunks(found, shape.hidden, CHUNK, 6, 0);
        } else if (operation == ACTIVATION) {
            _chunks(found, shape.feedForward, CHUNK, 2, 2);
        } else {
            _chunks(found, shape.feedForward, CHUNK, 4, 0); // GATE, UP
        }
    }

    function _chunks(Section memory found, uint256 columns, uint256 chunk, uint256 width, uint256 statistic)
        private
        pure
    {
        (found.columns, found.chunk, found.width, found.statistic) = (columns, chunk, width, statistic);
        found.slots = Math.ceilDiv(columns, chunk) + (statistic == 0 ? 0 : 1);
    }

    function _inside(Context memory context, Section memory cut, Place memory place)
        private
        pure
        returns (uint256 elements, uint256 width)
    {
        (elements, width) = contents(context, cut, place.row, place.slot);
        // INVARIANT: nothing outside the program is accused or an input
        if (elements == 0) revert IJudge.OutsideProgram(place.group, place.operation, place.row, place.slot);
    }

    function _bits(Section memory cut) private pure returns (uint256) {
        return cut.rowBits + cut.slotBits;
    }

    function _depth(Context memory context, uint256 below) private pure returns (uint256) {
        unchecked {
            return groupBits(context) + OPERATION_BITS + below;
        }
    }

    function _rowIndex(Section memory cut, Place memory place) private pure returns (uint256) {
        return (((place.group << OPERATION_BITS) | place.operation) << cut.rowBits) | place.row;
    }

    function _leafIndex(Section memory cut, Place memory place) private pure returns (uint256) {
        return (_rowIndex(cut, place) << cut.slotBits) | place.slot;
    }
}
