// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {Vault} from "../../../contracts/Vault.sol";
import {TokenCap} from "../../../contracts/interfaces/IVault.sol";
import {Spec} from "./Spec.sol";

contract PlainToken is ERC20 {
    constructor() ERC20("Plain", "PLAIN") {}
}

/// @dev Conservation, function by function, from any state whatever: the storage of vault and token is symbolic, so
/// nothing is assumed about how the state came about. Each check says what moved, by how much, and that nothing else
/// did: `other` is any account, `otherToken` any token, `otherModule` any module.
contract VaultSpec is Spec {
    /// @dev Everything the vault knows about one account, one token and one module.
    struct Money {
        uint256 credit;
        uint256 otherCredit; // the same account's, of another token
        uint256 staked;
        uint256 bonded;
        uint256 since; // block of the last `stake`
        uint256 exiting;
        uint256 readyAt;
        uint256 held;
        uint256 total;
        uint256 balance;
    }

    PlainToken internal token;
    Vault internal vault;
    address internal otherToken = address(0x7070);

    function setUp() public {
        token = new PlainToken();
        TokenCap[] memory list = new TokenCap[](2);
        list[0] = TokenCap(address(token), type(uint104).max);
        list[1] = TokenCap(otherToken, type(uint128).max);
        vault = new Vault(address(this), address(token), 1 days, list);
        svm.enableSymbolicStorage(address(vault));
        svm.enableSymbolicStorage(address(token));
        // Symbolic storage leaves a slot that the constructor wrote as it is: this one, with guardian and both flags.
        vm.store(address(vault), 0, bytes32(type(uint256).max));
        require(vault.isSealed() && vault.isDeprecated() && vault.guardian() == address(type(uint160).max));
        vm.store(address(vault), 0, svm.createBytes32("guardian and flags"));
        _anyTime();
    }

    function check_deposit(address caller, address to, uint256 amount, address other, address module) public {
        vm.assume(caller != address(vault)); // it has no code that deposits
        vm.assume(other != to);
        (Money memory a, Money memory b) = (_money(to, module), _money(other, module));
        vm.prank(caller);
        vault.deposit(address(token), to, amount);
        (a.credit, a.total, a.balance) = (a.credit + amount, a.total + amount, a.balance + amount);
        (b.total, b.balance) = (a.total, a.balance);
        _same(_money(to, module), a);
        _same(_money(other, module), b);
    }

    function check_withdraw(address caller, address to, uint256 amount, address other, address module) public {
        vm.assume(to != address(vault)); // whoever sends its own money to the vault loses it, nobody else does
        vm.assume(other != caller);
        (Money memory a, Money memory b) = (_money(caller, module), _money(other, module));
        vm.prank(caller);
        vault.withdraw(address(token), to, amount);
        (a.credit, a.total, a.balance) = (a.credit - amount, a.total - amount, a.balance - amount);
        (b.total, b.balance) = (a.total, a.balance);
        _same(_money(caller, module), a);
        _same(_money(other, module), b);
    }

    function check_stake(address caller, uint256 amount, address other, address module) public {
        vm.assume(other != caller);
        (Money memory a, Money memory b) = (_money(caller, module), _money(other, module));
        vm.assume(a.credit <= vault.MAX_STAKE_CAP()); // as every credit in a token with such a cap
        vm.prank(caller);
        vault.stake(amount);
        (a.credit, a.staked, a.since) = (a.credit - amount, a.staked + amount, block.number);
        _same(_money(caller, module), a);
        _same(_money(other, module), b);
    }

    function check_requestUnstake(address caller, uint256 amount, address other, address module) public {
        vm.assume(other != caller);
        (Money memory a, Money memory b) = (_money(caller, module), _money(other, module));
        vm.prank(caller);
        vault.requestUnstake(amount);
        (a.staked, a.exiting, a.readyAt) = (a.staked - amount, a.exiting + amount, block.timestamp + 1 days);
        _same(_money(caller, module), a);
        _same(_money(other, module), b);
    }

    function check_finishUnstake(address caller, address owner, address other, address module) public {
        vm.assume(other != owner);
        (Money memory a, Money memory b) = (_money(owner, module), _money(other, module));
        vm.prank(caller);
        vault.finishUnstake(owner);
        assert(a.exiting != 0 && block.timestamp >= a.readyAt);
        (a.credit, a.exiting, a.readyAt) = (a.credit + a.exiting, 0, 0);
        _same(_money(owner, module), a);
        _same(_money(other, module), b);
    }

    function check_fund(address caller, address from, uint256 amount, address other, address otherModule) public {
        vm.assume(from != address(vault)); // it has no code that posts
        vm.assume(other != from && otherModule != caller);
        (Money memory a, Money memory b) = (_money(from, caller), _money(other, otherModule));
        uint256 missing = amount > a.credit ? amount - a.credit : 0;
        vm.prank(caller);
        vault.fund(address(token), from, amount, "");
        assert(vault.isModule(caller) && !vault.isDeprecated());
        a.credit = a.credit + missing - amount;
        (a.held, a.total, a.balance) = (a.held + amount, a.total + missing, a.balance + missing);
        (b.total, b.balance) = (a.total, a.balance);
        _same(_money(from, caller), a);
        _same(_money(other, otherModule), b);
    }

    function check_bond(address caller, address owner, uint256 amount, address other, address otherModule) public {
        vm.assume(other != owner && otherModule != caller);
        (Money memory a, Money memory b) = (_money(owner, caller), _money(other, otherModule));
        vm.prank(caller);
        vault.bond(owner, amount);
        assert(vault.isModule(caller) && !vault.isDeprecated());
        (a.staked, a.bonded, a.held) = (a.staked - amount, a.bonded + amount, a.held + amount);
        _same(_money(owner, caller), a);
        _same(_money(other, otherModule), b);
    }

    function check_pay(address caller, address to, uint256 amount, address other, address otherModule) public {
        vm.assume(other != to && otherModule != caller);
        (Money memory a, Money memory b) = (_money(to, caller), _money(other, otherModule));
        vm.prank(caller);
        vault.pay(address(token), to, amount);
        assert(vault.isModule(caller));
        (a.credit, a.held) = (a.credit + amount, a.held - amount);
        _same(_money(to, caller), a);
        _same(_money(other, otherModule), b);
    }

    function check_unbond(address caller, address owner, uint256 amount, address other, address otherModule) public {
        vm.assume(other != owner && otherModule != caller);
        (Money memory a, Money memory b) = (_money(owner, caller), _money(other, otherModule));
        vm.prank(caller);
        vault.unbond(owner, amount);
        assert(vault.isModule(caller));
        (a.staked, a.bonded, a.held) = (a.staked + amount, a.bonded - amount, a.held - amount);
        _same(_money(owner, caller), a);
        _same(_money(other, otherModule), b);
    }

    function check_forfeit(address caller, address owner, uint256 amount, address other, address otherModule) public {
        vm.assume(other != owner && otherModule != caller);
        (Money memory a, Money memory b) = (_money(owner, caller), _money(other, otherModule));
        vm.prank(caller);
        vault.forfeit(owner, amount);
        assert(vault.isModule(caller));
        a.bonded -= amount;
        _same(_money(owner, caller), a);
        _same(_money(other, otherModule), b);
    }

    /// @dev Any call of any function, by anybody who is no module: nobody else's credit, stake, bonds or exit falls,
    /// nobody else's exit is put off or stake made younger, and no module's money moves.
    function check_nobodyMovesAnothersMoney(address caller, address victim, address module) public {
        vm.assume(caller != victim && !vault.isModule(caller));
        Money memory a = _money(victim, module);
        bytes memory data = svm.createCalldata("Vault");
        vm.prank(caller);
        (bool ok,) = address(vault).call(data);
        vm.assume(ok);
        Money memory b = _money(victim, module);
        assert(b.credit >= a.credit && b.otherCredit >= a.otherCredit && b.staked == a.staked && b.held == a.held);
        assert(b.bonded == a.bonded && b.since == a.since);
        bool untouched = b.exiting == a.exiting && b.readyAt == a.readyAt;
        bool finished = b.exiting == 0 && b.credit == a.credit + a.exiting && block.timestamp >= a.readyAt;
        assert(untouched || finished);
    }

    /// @dev Any call by anybody: sealed modules stay, deprecation stays, and only the guardian does either.
    function check_guardianMovesAreOneWay(address caller, address module) public {
        (bool wasSealed, bool wasDeprecated, bool wasModule) =
            (vault.isSealed(), vault.isDeprecated(), vault.isModule(module));
        address guardian = vault.guardian();
        bytes memory data = svm.createCalldata("Vault");
        vm.prank(caller);
        (bool ok,) = address(vault).call(data);
        vm.assume(ok);
        if (wasSealed) assert(vault.isSealed() && vault.isModule(module) == wasModule);
        if (wasDeprecated) assert(vault.isDeprecated());
        bool moved = vault.isSealed() != wasSealed || vault.isDeprecated() != wasDeprecated
            || vault.isModule(module) != wasModule || vault.guardian() != guardian;
        if (moved) assert(caller == guardian);
    }

    function _money(address owner, address module) private view returns (Money memory money) {
        money.credit = vault.credit(address(token), owner);
        money.otherCredit = vault.credit(otherToken, owner);
        (money.staked, money.bonded, money.since) = vault.stakeOf(owner);
        (money.exiting, money.readyAt) = vault.exits(owner);
        money.held = vault.held(module, address(token));
        money.total = vault.total(address(token));
        money.balance = token.balanceOf(address(vault));
    }

    function _same(Money memory a, Money memory b) private pure {
        assert(a.credit == b.credit);
        assert(a.otherCredit == b.otherCredit);
        assert(a.staked == b.staked);
        assert(a.bonded == b.bonded);
        assert(a.since == b.since);
        assert(a.exiting == b.exiting);
        assert(a.readyAt == b.readyAt);
        assert(a.held == b.held);
        assert(a.total == b.total);
        assert(a.balance == b.balance);
    }
}
