// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Gumbel} from "../libraries/Gumbel.sol";

/// @dev The sampler of docs/numerics.md, section 10, as a dispute computes it: what one token's noise costs, and that
/// the EVM gives the published vectors.
contract SamplingHarness {
    function draw(bytes32 seed, uint32 position) external pure returns (uint256) {
        return Gumbel.draw(seed, position);
    }

    function tokenHash(uint256 number, uint32 token) external pure returns (uint256) {
        return Gumbel.tokenHash(number, token);
    }

    function minusLn(uint256 x, uint256 fraction) external pure returns (int256) {
        return Gumbel.minusLn(x, fraction);
    }

    function gumbel(uint256 h) external pure returns (int256) {
        return Gumbel.noise(h);
    }

    /// @return whether token j would have been taken rather than token o
    function beats(bytes32 seed, uint32 position, uint32 temperature, uint32 j, int256 logitJ, uint32 o, int256 logitO)
        external
        pure
        returns (bool)
    {
        uint256 number = Gumbel.draw(seed, position);
        int256 keyJ = Gumbel.key(number, temperature, j, logitJ);
        int256 keyO = Gumbel.key(number, temperature, o, logitO);
        return keyJ > keyO || (keyJ == keyO && j < o);
    }
}
