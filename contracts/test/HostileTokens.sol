// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @dev What a token may do to a vault. The vault's deployer is asked to list none of them; these show what happens
/// if it does.
contract FreeToken is ERC20 {
    constructor() ERC20("Hostile", "HOST") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @dev Keeps one percent of every transfer.
contract FeeToken is FreeToken {
    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount / 100;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(0), fee);
    }
}

/// @dev Says false where others revert.
contract FalseToken is FreeToken {
    function transfer(address, uint256) public pure override returns (bool) {
        return false;
    }

    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// @dev Returns nothing from its transfers, as some of the oldest tokens do. Harmless.
contract SilentToken {
    mapping(address owner => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @dev Refuses to move anything of or to whoever is on its list.
contract BlockingToken is FreeToken {
    error Blocked(address account);

    mapping(address account => bool) public blocked;

    function block_(address account) external {
        blocked[account] = true;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (blocked[from]) revert Blocked(from);
        if (blocked[to]) revert Blocked(to);
        super._update(from, to, amount);
    }
}

/// @dev Calls somebody in the middle of a transfer or a permit, as ERC-777 tokens call their holders. As msg.sender of
/// that call it can be a module, too. It hands a revert on, or swallows it and remembers what happened.
contract CallbackToken is FreeToken {
    address public target;
    bytes public data;
    bool public swallows;
    bool public ok;
    bytes public answer;

    function setCallback(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    /// @dev Like setCallback, but whoever called the token never notices.
    function setAttempt(address target_, bytes calldata data_) external {
        (target, data, swallows) = (target_, data_, true);
    }

    /// @dev Grants any allowance, whatever the signature.
    function permit(address owner, address spender, uint256 value, uint256, uint8, bytes32, bytes32) external {
        _approve(owner, spender, value);
        _call();
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        _call();
    }

    function _call() private {
        if (target == address(0)) return;
        (ok, answer) = target.call(data);
        if (ok || swallows) return;
        bytes memory reason = answer;
        assembly ("memory-safe") {
            revert(add(reason, 0x20), mload(reason))
        }
    }
}

/// @dev Changes everybody's balance at once, up or down.
contract RebasingToken {
    uint256 private constant ONE = 1e18;
    uint256 public scale = ONE;
    mapping(address owner => uint256) private _shares;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function rebase(uint256 numerator, uint256 denominator) external {
        scale = scale * numerator / denominator;
    }

    function balanceOf(address owner) public view returns (uint256) {
        return _shares[owner] * scale / ONE;
    }

    function mint(address to, uint256 amount) external {
        _shares[to] += _toShares(amount);
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        _shares[from] -= _toShares(amount);
        _shares[to] += _toShares(amount);
        return true;
    }

    function _toShares(uint256 amount) private view returns (uint256) {
        return amount * ONE / scale;
    }
}
