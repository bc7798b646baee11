// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EXP2_NODE} from "../libraries/Exp2Table.sol";
import {StepMath} from "../libraries/StepMath.sol";

/// @dev What the steps compute with, one function each, for comparison with Python.
contract StepMathHarness {
    function rsr(int256 a, int256 n) external pure returns (int256) {
        return StepMath.rsr(a, n);
    }

    function floorDiv(int256 a, int256 b) external pure returns (int256) {
        return StepMath.floorDiv(a, b);
    }

    function abs(int256 a) external pure returns (uint256) {
        return StepMath.abs(a);
    }

    function bits(uint256 a) external pure returns (uint256) {
        return StepMath.bits(a);
    }

    function isqrt(uint256 a) external pure returns (uint256) {
        return StepMath.isqrt(a);
    }

    function clamp(int256 a, int256 limit) external pure returns (int256) {
        return StepMath.clamp(a, limit);
    }

    function normShift(uint256 largest) external pure returns (uint256) {
        return StepMath.normShift(largest);
    }

    function inverseRoot(uint256 squares, uint256 width, uint256 epsilon, uint256 s) external pure returns (uint256) {
        return StepMath.inverseRoot(squares, width, epsilon, s);
    }

    function normalised(int256 x, int256 s, int256 v, int256 gain) external pure returns (int256) {
        return StepMath.normalised(x, s, v, gain);
    }

    function quantiseShift(int256 y) external pure returns (int256) {
        return StepMath.quantiseShift(y);
    }

    function quantised(int256 y, int256 s) external pure returns (int256) {
        return StepMath.quantised(y, s);
    }

    function toCache(int256 z, uint256 fraction) external pure returns (int256) {
        return StepMath.toCache(z, fraction);
    }

    function exp2Table() external pure returns (bytes memory table, bytes32 node) {
        return (StepMath.exp2Table(), EXP2_NODE);
    }

    function exp2neg(uint256 d) external pure returns (uint256) {
        return StepMath.exp2neg(d, StepMath.exp2Table());
    }

    function weight(int256 score, int256 maximum) external pure returns (int256) {
        return StepMath.weight(score, maximum, StepMath.exp2Table());
    }

    function mixed(int256 num, int256 total, uint256 fraction) external pure returns (int256) {
        return StepMath.mixed(num, total, fraction);
    }

    function silu(int256 x) external pure returns (int256) {
        return StepMath.silu(x, StepMath.exp2Table());
    }

    function gated(int256 gate, int256 up) external pure returns (int256) {
        return StepMath.gated(gate, up, StepMath.exp2Table());
    }
}
