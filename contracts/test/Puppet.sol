// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @dev A party that does whatever anybody tells it, and signs everything: in the middle of another call, too.
contract Puppet is IERC1271 {
    function run(address target, bytes calldata data) external returns (bytes memory) {
        (bool ok, bytes memory answer) = target.call(data);
        if (ok) return answer;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return IERC1271.isValidSignature.selector;
    }
}

/// @dev Asked for a signature, it says yes, but not before it has called somebody.
contract MeddlingWallet {
    address public target;
    bytes public data;

    function setCallback(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        (bool ok,) = target.call(data);
        require(ok);
        return IERC1271.isValidSignature.selector;
    }
}
