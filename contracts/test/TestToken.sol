// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The money of development and test chains: a faucet for everybody
/// @notice Warning: worthless by construction. Never list it in a vault that holds anything else.
contract TestToken is ERC20, ERC20Permit {
    /// @notice Most that one call of `faucet` gives, in base units
    uint256 public constant FAUCET_LIMIT = 10_000e6;
    uint256 private constant ANVIL = 31_337;
    uint256 private constant GANACHE = 1337;

    error FaucetLimit(uint256 amount, uint256 limit);
    error NotDevelopmentChain(uint256 chainId);

    constructor() ERC20("Test USD", "tUSD") ERC20Permit("Test USD") {}

    /// @notice Gives anybody up to FAUCET_LIMIT a call
    function faucet(address to, uint256 amount) external {
        // INVARIANT: a call of the faucet gives no more than its limit
        if (amount > FAUCET_LIMIT) revert FaucetLimit(amount, FAUCET_LIMIT);
        _mint(to, amount);
    }

    /// @notice Gives anybody any amount; on development chains only, where `assay up` endows its accounts
    function mint(address to, uint256 amount) external {
        // INVARIANT: where strangers share a chain, money comes out of the faucet alone
        if (block.chainid != ANVIL && block.chainid != GANACHE) revert NotDevelopmentChain(block.chainid);
        _mint(to, amount);
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
