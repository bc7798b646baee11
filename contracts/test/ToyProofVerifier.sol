// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IProofVerifier} from "../interfaces/IProofVerifier.sol";

/// @dev Its "proof" is the hash of the statement: shows the seam, proves nothing.
contract ToyProofVerifier is IProofVerifier {
    function verify(bytes32 modelId, bytes32 requestHash, bytes32 outputHash, bytes calldata proof)
        external
        pure
        returns (bool)
    {
        return proof.length == 32 && bytes32(proof) == keccak256(abi.encode(modelId, requestHash, outputHash));
    }
}
