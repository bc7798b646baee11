// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJudge} from "./interfaces/IJudge.sol";
import {Accusation, Claim, LayerFormat, OutputAccusation, Shape} from "./interfaces/Trace.sol";
import {EXP2_NODE} from "./libraries/Exp2Table.sol";
import {ModelTrees} from "./libraries/ModelTrees.sol";
import {Openings} from "./libraries/Openings.sol";
import {ProgramRoot} from "./libraries/ProgramRoot.sol";
import {Context, Place, TraceTree} from "./libraries/TraceTree.sol";
import {Activation} from "./steps/Activation.sol";
import {Choice} from "./steps/Choice.sol";
import {Embedding} from "./steps/Embedding.sol";
import {Matrix} from "./steps/Matrix.sol";
import {Mix} from "./steps/Mix.sol";
import {MixSum} from "./steps/MixSum.sol";
import {Norm} from "./steps/Norm.sol";
import {QuantiseMix} from "./steps/QuantiseMix.sol";
import {Rotary} from "./steps/Rotary.sol";
import {Scores} from "./steps/Scores.sol";
import {Softmax} from "./steps/Softmax.sol";

/// @title Knows programs and re-executes single elements of their traces; no money, no clock
/// @dev Nobody has a right here that others lack, and nothing is ever changed: a root names one program for good.
/// docs/disputes.md is normative. The steps are linked libraries, one file per family.
contract Judge is IJudge {
    uint256 private constant FORMAT_BITS = 80; // ten fields of a byte
    uint256 private constant FORMATS_IN_WORD = 3;

    mapping(bytes32 programRoot => Shape) private _shapes;
    mapping(bytes32 programRoot => mapping(uint256 word => uint256)) private _formats;

    mapping(bytes32 tablesRoot => uint256) private _tablesDepth; // 0: not accepted

    // ---- what can be judged

    /// @inheritdoc IJudge
    function acceptProgram(Shape calldata shape, LayerFormat[] calldata layers) external returns (bytes32 programRoot) {
        _needLimits(shape, layers);
        programRoot = ProgramRoot.build(shape, layers);
        if (implementsProgram(programRoot)) return programRoot;
        _shapes[programRoot] = shape;
        uint256 word;
        for (uint256 i; i < layers.length; ++i) {
            word |= _pack(layers[i]) << (FORMAT_BITS * (i % FORMATS_IN_WORD));
            if (i % FORMATS_IN_WORD == FORMATS_IN_WORD - 1 || i == layers.length - 1) {
                _formats[programRoot][i / FORMATS_IN_WORD] = word;
                word = 0;
            }
        }
        emit ProgramAccepted(programRoot, shape);
    }

    /// @inheritdoc IJudge
    function acceptTables(bytes32 tablesRoot, bytes32[] calldata path) external {
        bytes32 got = Openings.fold(EXP2_NODE, 0, path);
        // INVARIANT: a step's own tables are those of every claim it judges
        if (got != tablesRoot) revert TablesMismatch(tablesRoot, got);
        if (_tablesDepth[tablesRoot] != 0) return;
        _tablesDepth[tablesRoot] = path.length + 1;
        emit TablesAccepted(tablesRoot);
    }

    /// @inheritdoc IJudge
    function acceptsTables(bytes32 programRoot, bytes32 tablesRoot) external view returns (bool) {
        // INVARIANT: no step asks for a leaf of the tables that nobody can open
        return
            implementsProgram(programRoot) && _tablesDepth[tablesRoot] == ModelTrees.tablesDepth(_shapes[programRoot]);
    }

    /// @inheritdoc IJudge
    function implementsProgram(bytes32 programRoot) public view returns (bool) {
        return _shapes[programRoot].layers != 0;
    }

    /// @inheritdoc IJudge
    function shapeOf(bytes32 programRoot) public view returns (Shape memory shape) {
        shape = _shapes[programRoot];
        // INVARIANT: only programs whose root was computed here are judged
        if (shape.layers == 0) revert UnknownProgram(programRoot);
    }

    // ---- where things lie

    /// @inheritdoc IJudge
    function nodeAt(Claim calldata claim, uint256 depth, uint256 index) external view returns (uint256, uint256, bool) {
        return TraceTree.nodeAt(_context(claim), depth, index);
    }

    /// @inheritdoc IJudge
    function rounds(Claim calldata claim) external view returns (uint256) {
        return TraceTree.rounds(_context(claim));
    }

    /// @inheritdoc IJudge
    function leafOf(Claim calldata claim, uint256 group, uint256 operation, uint256 row, uint256 slot)
        external
        view
        returns (uint256, uint256)
    {
        return TraceTree.leafOf(_context(claim), Place(group, operation, row, slot));
    }

    /// @inheritdoc IJudge
    function logitsLeafOf(Claim calldata claim, uint256 position, uint256 id) external view returns (uint256, uint256) {
        Context memory context = _context(claim);
        return TraceTree.leafOf(context, TraceTree.logitsOf(context, position, id));
    }

    // ---- what is wrong

    /// @inheritdoc IJudge
    function isWrong(Claim calldata claim, bytes32 root, Accusation calldata accusation) external view returns (bool) {
        Context memory context = _context(claim);
        context.traceRoot = root;
        bool ofPadding;
        (ofPadding, context.claimed) = TraceTree.accused(context, accusation);
        // INVARIANT: a right element with anything but zeros behind it cannot hide a leaf from its proof
        if (ofPadding) {
            TraceTree.needInputs(accusation, 0);
            return context.claimed != 0;
        }
        if (accusation.group == 0) return Embedding.isWrong(context, accusation);
        if (accusation.group > context.shape.layers) {
            if (accusation.operation == TraceTree.OUTPUT_NORM) return Norm.isWrong(context, accusation);
            return Matrix.isWrong(context, accusation);
        }
        context.format = _formatOf(claim.programRoot, accusation.group - 1);
        return _isLayerWrong(context, accusation);
    }

    /// @inheritdoc IJudge
    function isOutputWrong(Claim calldata claim, bytes32 root, OutputAccusation calldata accusation)
        external
        view
        returns (bool)
    {
        Context memory context = _context(claim);
        context.traceRoot = root;
        return Choice.isWrong(context, claim, accusation);
    }

    function _isLayerWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        uint256 operation = accusation.operation;
        if (operation == TraceTree.ATTENTION_NORM || operation == TraceTree.FEED_FORWARD_NORM) {
            return Norm.isWrong(context, accusation);
        }
        if (operation == TraceTree.ROTATE_QUERY || operation == TraceTree.ROTATE_KEY) {
            return Rotary.isWrong(context, accusation);
        }
        if (operation == TraceTree.SCORES) return Scores.isWrong(context, accusation);
        if (operation == TraceTree.SOFTMAX) return Softmax.isWrong(context, accusation);
        if (operation == TraceTree.MIX_SUM) return MixSum.isWrong(context, accusation);
        if (operation == TraceTree.MIX) return Mix.isWrong(context, accusation);
        if (operation == TraceTree.QUANTISE_MIX) return QuantiseMix.isWrong(context, accusation);
        if (operation == TraceTree.ACTIVATION) return Activation.isWrong(context, accusation);
        return Matrix.isWrong(context, accusation);
    }

    // ---- claims and programs

    function _context(Claim calldata claim) private view returns (Context memory context) {
        Shape memory shape = shapeOf(claim.programRoot);
        uint256 tokens = uint256(claim.inputTokens) + claim.outputTokens;
        // INVARIANT: what has no trace is not judged by one
        if (claim.inputTokens == 0 || claim.outputTokens == 0 || tokens > shape.context) {
            revert NoTrace(claim.inputTokens, claim.outputTokens);
        }
        context.shape = shape;
        context.weightsRoot = claim.weightsRoot;
        context.tablesRoot = claim.tablesRoot;
        context.inputRoot = claim.inputRoot;
        context.outputRoot = claim.outputRoot;
        context.inputTokens = claim.inputTokens;
        context.outputTokens = claim.outputTokens;
    }

    /// @dev The limits that geometry and steps rely on, as far as they follow from shapes. Sums and scores fit their types
    /// by these; that everything else does depends on the weights and is proved when packing (numerics, section 6).
    function _needLimits(Shape calldata shape, LayerFormat[] calldata layers) private pure {
        // rows that a step opens whole: int48 of D, int16 and a weight of F and of H·S; beyond, a step takes more than
        // 500,000 gas
        bool sized = shape.vocabulary != 0 && shape.context != 0 && shape.context <= 4096 && shape.hidden != 0
            && shape.hidden <= 1536 && shape.feedForward != 0 && shape.feedForward <= 2048;
        bool headed = shape.heads != 0 && shape.heads <= 64 && shape.kvHeads != 0 && shape.heads % shape.kvHeads == 0
            && shape.headSize != 0 && shape.headSize % 16 == 0 && shape.headSize <= 64
            && uint256(shape.heads) * shape.headSize <= 2048;
        bool layered = layers.length != 0 && layers.length <= 254 && layers.length == shape.layers;
        bool constant_ = shape.epsilon != 0 && (!shape.tied || shape.headExponent == shape.embeddingExponent);
        // INVARIANT: a program beyond the limits of docs/disputes.md is judged by nobody
        if (!sized || !headed || !layered || !constant_) revert ProgramBeyondLimits();
        uint256 largest = uint256(shape.headSize) * uint256(32_767 ** 2) * shape.scoreMultiplier;
        for (uint256 i; i < layers.length; ++i) {
            LayerFormat calldata format = layers[i];
            if (format.queryFraction > 15 || format.keyFraction > 15 || format.valueFraction > 15) {
                revert ProgramBeyondLimits();
            }
            // INVARIANT: every score of an honest provider fits an int40
            uint256 shift = uint256(format.queryFraction) + format.keyFraction + 2;
            if ((largest + (1 << (shift - 1))) >> shift >= 1 << 39) revert ProgramBeyondLimits();
        }
    }

    function _pack(LayerFormat calldata format) private pure returns (uint256 packed) {
        packed = uint256(format.query) | uint256(format.key) << 8 | uint256(format.value) << 16;
        packed |= uint256(format.attentionOutput) << 24 | uint256(format.gate) << 32 | uint256(format.up) << 40;
        packed |= uint256(format.down) << 48 | uint256(format.queryFraction) << 56;
        packed |= uint256(format.keyFraction) << 64 | uint256(format.valueFraction) << 72;
    }

    function _formatOf(bytes32 programRoot, uint256 layer) private view returns (LayerFormat memory) {
        uint256 packed = _formats[programRoot][layer / FORMATS_IN_WORD] >> (FORMAT_BITS * (layer % FORMATS_IN_WORD));
        return LayerFormat({
            query: uint8(packed),
            key: uint8(packed >> 8),
            value: uint8(packed >> 16),
            attentionOutput: uint8(packed >> 24),
            gate: uint8(packed >> 32),
            up: uint8(packed >> 40),
            down: uint8(packed >> 48),
            queryFraction: uint8(packed >> 56),
            keyFraction: uint8(packed >> 64),
            valueFraction: uint8(packed >> 72)
        });
    }
}
