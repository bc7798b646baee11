// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @dev Counts what a module takes in and pays out.
contract MoneyVault {
    address public constant stakeToken = address(0x7070);
    bool public isDeprecated;
    address public payer; // of the last fund
    uint256 public paidIn;
    uint256 public paidOut;
    uint256 public calls; // of any kind that moves money
    mapping(address to => uint256) public paidTo;

    function setDeprecated(bool value) external {
        isDeprecated = value;
    }

    function fund(address token, address from, uint256 amount, bytes calldata) external {
        require(token == stakeToken);
        payer = from;
        paidIn += amount;
        ++calls;
    }

    function pay(address token, address to, uint256 amount) external {
        require(token == stakeToken);
        paidTo[to] += amount;
        paidOut += amount;
        ++calls;
    }
}
