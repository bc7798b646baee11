// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DotProduct} from "../libraries/DotProduct.sol";
import {Openings} from "../libraries/Openings.sol";
import {NormRow} from "../steps/Norm.sol";

/// @dev What the steps do in assembly, one function each, for comparison with Python.
contract RowHarness {
    function dot(bytes calldata a, bytes calldata w) external pure returns (int256) {
        return DotProduct.sum(a, w);
    }

    function magnitudes(bytes calldata x, uint256 width) external pure returns (uint256) {
        return NormRow.magnitudes(x, width);
    }

    function squares(bytes calldata x, uint256 width, uint256 s) external pure returns (uint256) {
        return NormRow.squares(x, width, s);
    }

    function fold(bytes32 node, uint256 index, bytes32[] calldata path) external pure returns (bytes32) {
        return Openings.fold(node, index, path);
    }

    function leafHash(bytes calldata payload) external pure returns (bytes32) {
        return Openings.leafHash(payload);
    }

    function rowHash(bytes calldata payload, uint256 first, uint256 other, uint256 bits)
        external
        pure
        returns (bytes32)
    {
        return Openings.rowHash(payload, first, other, bits);
    }

    function isZeroFrom(bytes calldata payload, uint256 used) external pure returns (bool) {
        return Openings.isZeroFrom(payload, used);
    }

    function element(bytes calldata payload, uint256 index, uint256 width) external pure returns (int256) {
        return Openings.element(payload, index, width);
    }
}
