// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

interface Vm {
    function assume(bool condition) external pure;
    function prank(address sender) external;
    function chainId(uint256 id) external;
    function store(address target, bytes32 slot, bytes32 value) external;
    function warp(uint256 timestamp) external;
}

interface Svm {
    function enableSymbolicStorage(address target) external;
    function createCalldata(string memory contractName) external pure returns (bytes memory);
    function createBytes32(string memory name) external pure returns (bytes32);
    function createUint(uint256 bits, string memory name) external pure returns (uint256);
}

/// @dev What halmos understands. A `check_…` function is proved for all values of its arguments; a path that reverts
/// proves nothing and refutes nothing.
abstract contract Spec {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    Svm internal constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));

    /// @dev At second 1, where halmos begins, no window is over, and what waits for one would be proved of nothing.
    function _anyTime() internal {
        vm.warp(svm.createUint(40, "now"));
    }
}
