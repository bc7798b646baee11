// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation, Claim, LayerFormat, OutputAccusation, Shape} from "./Trace.sol";

/// @title Knows programs and re-executes single elements of their traces; no money, no clock
interface IJudge {
    /// @notice The shape breaks a limit of docs/disputes.md, section 2, or the layers are not as many as it says.
    error ProgramBeyondLimits();
    error UnknownProgram(bytes32 programRoot);
    error TablesMismatch(bytes32 tablesRoot, bytes32 actual);
    /// @notice No trace has these lengths: nothing put in, nothing put out, or more than the context.
    error NoTrace(uint256 inputTokens, uint256 outputTokens);
    error NoSuchNode(uint256 depth, uint256 index);
    error OutsideProgram(uint256 group, uint256 operation, uint256 row, uint256 slot);
    error ElementOutside(uint256 element, uint256 elements);
    error InputsMiscounted(uint256 expected, uint256 actual);
    error PayloadMisfit(uint256 expected, uint256 actual);
    error PaddingNotZero();
    error PathMisfit(uint256 expected, uint256 actual);
    error OpeningMismatch(bytes32 root, bytes32 actual);
    /// @notice A leaf of weights is that of another row or tensor: uint16 tensor ‖ uint32 row.
    error HeaderMismatch(uint256 expected, uint256 actual);
    /// @notice The id at this output position is another one.
    error IdMismatch(uint256 expected, uint256 actual);
    error SamplerWithoutStep(uint8 sampler);

    event ProgramAccepted(bytes32 indexed programRoot, Shape shape);
    event TablesAccepted(bytes32 indexed tablesRoot);

    /// @notice Computes the root of the llama program of these shapes and remembers it. Anyone, once.
    function acceptProgram(Shape calldata shape, LayerFormat[] calldata layers) external returns (bytes32 programRoot);

    /// @notice Remembers a tables root whose leaves 0 and 1 are the exp2 tables that the steps use, and how deep they lie.
    /// Anyone, once.
    /// @param path siblings of the node above leaves 0 and 1, lowest first
    function acceptTables(bytes32 tablesRoot, bytes32[] calldata path) external;

    function implementsProgram(bytes32 programRoot) external view returns (bool);
    /// @notice Whether the program is known, and the tables are accepted and as deep as the program's.
    function acceptsTables(bytes32 programRoot, bytes32 tablesRoot) external view returns (bool);
    function shapeOf(bytes32 programRoot) external view returns (Shape memory);

    /// @notice Where a node lies.
    /// @return levels that a reveal shows, 0 for a leaf; of a node outside the program, k of the EMPTY_k that it must be
    /// @return payloadBytes of a leaf, else 0
    /// @return inside whether the node is part of the program at all
    function nodeAt(Claim calldata claim, uint256 depth, uint256 index)
        external
        view
        returns (uint256 levels, uint256 payloadBytes, bool inside);

    /// @notice Where a leaf that `isWrong` opened lies.
    function leafOf(Claim calldata claim, uint256 group, uint256 operation, uint256 row, uint256 slot)
        external
        view
        returns (uint256 depth, uint256 index);

    /// @notice Where the LOGITS leaf with an id lies that `isOutputWrong` opened.
    function logitsLeafOf(Claim calldata claim, uint256 position, uint256 id)
        external
        view
        returns (uint256 depth, uint256 index);

    /// @notice The most reveals of hashes on a way from the root to a leaf, the root's own left out.
    function rounds(Claim calldata claim) external view returns (uint256);

    /// @notice Whether the accused element differs from what its inputs give. Reverts if an opening does not hold.
    function isWrong(Claim calldata claim, bytes32 root, Accusation calldata accusation) external view returns (bool);

    /// @notice Whether the rival beats the id that was returned. Reverts if an opening does not hold.
    function isOutputWrong(Claim calldata claim, bytes32 root, OutputAccusation calldata accusation)
        external
        view
        returns (bool);
}
