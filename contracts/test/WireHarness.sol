// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Acceptance, Commitment, Model, Output, Quote, Receipt, Request} from "../interfaces/Wire.sol";
import {TokensRoot} from "../libraries/TokensRoot.sol";
import {WireHash} from "../libraries/WireHash.sol";

/// @dev Shows the libraries' hashes to the vectors' test. Digests are made with a domain of the test's choosing,
/// because a deployed contract cannot lie at the vectors' address.
contract WireHarness {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    function separator(string calldata name, string calldata version, uint256 chainId, address verifyingContract)
        external
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256(bytes(name)), keccak256(bytes(version)), chainId, verifyingContract)
        );
    }

    function tokensRoot(bytes calldata packed) external pure returns (bytes32) {
        return TokensRoot.root(packed);
    }

    function isFilled(bytes calldata packed, uint256 count) external pure returns (bool) {
        return TokensRoot.isFilled(packed, count);
    }

    function model(Model calldata value) external pure returns (bytes32) {
        return WireHash.model(value);
    }

    function request(Request calldata value) external pure returns (bytes32) {
        return WireHash.request(value);
    }

    function output(Output calldata value) external pure returns (bytes32) {
        return WireHash.output(value);
    }

    function quote(bytes32 domain, Quote calldata value) external pure returns (bytes32) {
        return _digest(domain, WireHash.quote(value));
    }

    function commitment(bytes32 domain, Commitment calldata value) external pure returns (bytes32) {
        return _digest(domain, WireHash.commitment(value));
    }

    function receipt(bytes32 domain, Receipt calldata value) external pure returns (bytes32) {
        return _digest(domain, WireHash.receipt(value));
    }

    function acceptance(bytes32 domain, Acceptance calldata value) external pure returns (bytes32) {
        return _digest(domain, WireHash.acceptance(value));
    }

    function _digest(bytes32 domain, bytes32 structHash) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
