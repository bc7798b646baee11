// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJudge} from "../interfaces/IJudge.sol";
import {Accusation, Claim, LayerFormat, OutputAccusation, Shape} from "../interfaces/Trace.sol";

/// @dev A judge without arithmetic, for the game alone: whoever sets it up says which places are wrong. Its tree has
/// 2 levels of groups, 5 of operations and 6 of leaves; it trusts openings, and payloads have 40 bytes. An id's logits
/// are leaf (id mod 64) of the second operation of group 2.
contract ToyJudge is IJudge {
    uint256 public constant GROUP_BITS = 2;
    uint256 public constant OPERATION_BITS = 7; // with the groups'
    uint256 public constant LEAF_BITS = 13; // with both
    uint256 public constant PAYLOAD_BYTES = 40;

    mapping(bytes32 programRoot => Shape) private _shapes;
    mapping(bytes32 programRoot => bool) public implementsProgram;
    mapping(bytes32 tablesRoot => bool) private _tables;
    mapping(bytes32 place => bool) public wrong;
    mapping(uint256 node => bool) public outside; // by 2^depth + index
    uint256 public roundsAsked = 5;

    function acceptProgram(Shape calldata shape, LayerFormat[] calldata) external returns (bytes32 programRoot) {
        programRoot = keccak256(abi.encode(shape));
        _shapes[programRoot] = shape;
        implementsProgram[programRoot] = true;
        emit ProgramAccepted(programRoot, shape);
    }

    function acceptTables(bytes32 tablesRoot, bytes32[] calldata) external {
        _tables[tablesRoot] = true;
        emit TablesAccepted(tablesRoot);
    }

    function acceptsTables(bytes32 programRoot, bytes32 tablesRoot) external view returns (bool) {
        return implementsProgram[programRoot] && _tables[tablesRoot];
    }

    function setRounds(uint256 rounds_) external {
        roundsAsked = rounds_;
    }

    /// @param place keccak256 of the encoded group, operation, row, slot and element, or position, output and rival
    function setWrong(bytes32 place, bool isWrong_) external {
        wrong[place] = isWrong_;
    }

    function setOutside(uint256 depth, uint256 index) external {
        outside[1 << depth | index] = true;
    }

    function shapeOf(bytes32 programRoot) external view returns (Shape memory) {
        return _shapes[programRoot];
    }

    function nodeAt(Claim calldata, uint256 depth, uint256 index)
        external
        view
        returns (uint256 levels, uint256 payloadBytes, bool inside)
    {
        if (depth > LEAF_BITS) return (0, 0, false);
        uint256 end = depth < GROUP_BITS ? GROUP_BITS : depth < OPERATION_BITS ? OPERATION_BITS : LEAF_BITS;
        levels = end - depth;
        inside = !outside[1 << depth | index];
        if (!inside) return (depth == GROUP_BITS || depth == OPERATION_BITS ? 0 : levels, 0, false);
        if (levels > 5) levels = 5;
        if (depth == LEAF_BITS) payloadBytes = PAYLOAD_BYTES;
    }

    function leafOf(Claim calldata, uint256 group, uint256 operation, uint256, uint256 slot)
        external
        pure
        returns (uint256, uint256)
    {
        return (LEAF_BITS, (group << 11) | (operation << 6) | slot);
    }

    function logitsLeafOf(Claim calldata, uint256, uint256 id) external pure returns (uint256, uint256) {
        return (LEAF_BITS, (2 << 11) | (1 << 6) | (id % 64));
    }

    function rounds(Claim calldata) external view returns (uint256) {
        return roundsAsked;
    }

    function isWrong(Claim calldata, bytes32, Accusation calldata accusation) external view returns (bool) {
        return wrong[
            keccak256(
                abi.encode(accusation.group, accusation.operation, accusation.row, accusation.slot, accusation.element)
            )
        ];
    }

    function isOutputWrong(Claim calldata, bytes32, OutputAccusation calldata accusation) external view returns (bool) {
        return wrong[keccak256(abi.encode(accusation.position, accusation.output, accusation.rival))];
    }
}
