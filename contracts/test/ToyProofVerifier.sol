// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IProofVerifier, Statement} from "../interfaces/IProofVerifier.sol";

/// @dev Its "proof" is the hash of the statement: shows the seam, proves nothing. Every model has one input and output.
contract ToyProofVerifier is IProofVerifier {
    function shapeOf(bytes32) external pure returns (uint32 inputs, uint32 outputs) {
        return (1, 1);
    }

    function verify(Statement calldata statement, bytes calldata ids, bytes calldata proof)
        external
        pure
        returns (bool)
    {
        return proof.length == 32 && bytes32(proof) == keccak256(abi.encode(statement, ids));
    }
}
