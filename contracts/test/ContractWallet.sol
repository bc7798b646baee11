// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @dev A provider that is a contract: signs by ERC-1271, or misbehaves when it is asked to.
contract ContractWallet is IERC1271 {
    enum Behaviour {
        HONEST,
        REVERTING,
        BURNING,
        BOMBING
    }

    address public immutable owner;
    Behaviour public behaviour;

    constructor(address owner_) {
        owner = owner_;
    }

    function behave(Behaviour behaviour_) external {
        behaviour = behaviour_;
    }

    function execute(address target, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == owner);
        (bool ok, bytes memory answer) = target.call(data);
        if (ok) return answer;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (behaviour == Behaviour.REVERTING) revert();
        if (behaviour == Behaviour.BURNING) {
            while (true) {}
        }
        if (behaviour == Behaviour.BOMBING) {
            assembly ("memory-safe") {
                return(0, 1000000)
            }
        }
        return ECDSA.recover(hash, signature) == owner ? this.isValidSignature.selector : bytes4(0);
    }
}
