// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Frozen, ISubject} from "../interfaces/ISubject.sol";

/// @dev A subject that says what it is told to say, and may call somebody in the middle of it.
contract HostileSubject is ISubject {
    Frozen private _frozen;
    bool public refuses; // every verdict
    bool public says; // that anything contradicts anything
    address public target;
    bytes public data;
    bool public bubbles; // what the call in the middle reverted with
    bool public called; // whether the call in the middle went through

    function set(Frozen calldata frozen_, bool refuses_, bool says_) external {
        (_frozen, refuses, says) = (frozen_, refuses_, says_);
    }

    function setCallback(address target_, bytes calldata data_, bool bubbles_) external {
        (target, data, bubbles) = (target_, data_, bubbles_);
    }

    function freeze(bytes32, address, bytes calldata) external returns (Frozen memory) {
        _meddle();
        return _frozen;
    }

    function resolve(bytes32, address, bool, address, address) external {
        _meddle();
        require(!refuses);
    }

    function contradicts(bytes32, address, bytes calldata) external view returns (bool) {
        return says;
    }

    function _meddle() private {
        if (target == address(0)) return;
        bytes memory answer;
        (called, answer) = target.call(data);
        if (called || !bubbles) return;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }
}
