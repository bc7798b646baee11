// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IVault, TokenCap} from "./interfaces/IVault.sol";

/// @dev Per token: balance ≥ total = Σ credit + Σ held (+ Σ staked + Σ exits for the stake token). Tokens are called
/// last, and while one is called every function that moves money is shut. Σ bonded ≤ Σ held of the stake token.
contract Vault is IVault, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Exit {
        uint256 amount;
        uint256 readyAt;
    }

    /// @dev One slot, so that who asks about a draw pays for one. Amounts are at most the cap of the stake token.
    struct Stake {
        uint104 free;
        uint104 bonded; // part of what modules hold
        uint48 since; // block of the last `stake`
    }

    uint256 public constant MAX_TOKENS = 4;
    uint256 public constant MAX_UNBONDING_WINDOW = 365 days;
    uint256 public constant MAX_STAKE_CAP = type(uint104).max;
    uint256 private constant PERMIT_LENGTH = 5 * 32;

    address public immutable stakeToken;
    uint256 public immutable unbondingWindow;

    address public guardian;
    bool public isSealed;
    bool public isDeprecated;
    address[] private _tokens;
    address[] private _modules;
    mapping(address account => bool) public isModule;
    mapping(address token => uint256) public cap;
    mapping(address token => uint256) public total;
    mapping(address token => mapping(address owner => uint256)) public credit;
    mapping(address owner => Stake) private _stakes;
    mapping(address owner => Exit) public exits;
    mapping(address module => mapping(address token => uint256)) public held;

    /// @param tokens_ at most MAX_TOKENS, among them `stakeToken_`
    constructor(address guardian_, address stakeToken_, uint256 unbondingWindow_, TokenCap[] memory tokens_) {
        // INVARIANT: somebody can seal the vault
        if (guardian_ == address(0)) revert ZeroAddress();
        // INVARIANT: an exit ends
        if (unbondingWindow_ > MAX_UNBONDING_WINDOW) revert UnbondingTooLong(unbondingWindow_, MAX_UNBONDING_WINDOW);
        if (tokens_.length > MAX_TOKENS) revert TooManyTokens(tokens_.length, MAX_TOKENS);
        for (uint256 i; i < tokens_.length; ++i) {
            _list(tokens_[i]);
        }
        // INVARIANT: stake is in a token the vault takes
        if (cap[stakeToken_] == 0) revert TokenNotAllowed(stakeToken_);
        // INVARIANT: whatever is staked can be counted
        if (cap[stakeToken_] > MAX_STAKE_CAP) revert CapTooLarge(stakeToken_, cap[stakeToken_], MAX_STAKE_CAP);
        guardian = guardian_;
        stakeToken = stakeToken_;
        unbondingWindow = unbondingWindow_;
    }

    modifier onlyGuardian() {
        // INVARIANT: the guardian's moves are the guardian's
        if (msg.sender != guardian) revert NotGuardian(msg.sender);
        _;
    }

    modifier onlyModule() {
        // INVARIANT: only sealed modules move what users entrusted to them
        if (!isModule[msg.sender]) revert NotModule(msg.sender);
        _;
    }

    modifier whileOpen() {
        // INVARIANT: nothing new comes into a deprecated vault; everything can leave
        if (isDeprecated) revert VaultDeprecated();
        _;
    }

    // ------------------------------------------------------------------------------------------------- anyone

    function deposit(address token, address to, uint256 amount) external nonReentrant whileOpen {
        // INVARIANT: no money before the modules are fixed
        if (!isSealed) revert NotSealed();
        if (to == address(0)) revert ZeroAddress();
        if (amount == 0) revert ZeroAmount();
        credit[token][to] += amount;
        _admit(token, msg.sender, to, amount);
        _pull(token, msg.sender, amount);
    }

    function withdraw(address token, address to, uint256 amount) external nonReentrant {
        if (to == address(0)) revert ZeroAddress();
        if (amount == 0) revert ZeroAmount();
        _debit(token, msg.sender, amount);
        total[token] -= amount;
        emit Withdrawn(token, msg.sender, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    function stake(uint256 amount) external nonReentrant whileOpen {
        if (amount == 0) revert ZeroAmount();
        _debit(stakeToken, msg.sender, amount);
        Stake storage own = _stakes[msg.sender];
        own.free += uint104(amount); // it was credit, which is never above the cap
        // INVARIANT: only its owner makes a stake younger; bonds that come back leave it as old as it was
        own.since = uint48(block.number);
        emit Staked(msg.sender, amount);
    }

    function requestUnstake(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _unstake(msg.sender, amount);
        Exit storage exit = exits[msg.sender];
        uint256 exiting = exit.amount + amount;
        // INVARIANT: what leaves waits a whole window, and only its owner can restart it
        uint256 readyAt = block.timestamp + unbondingWindow;
        (exit.amount, exit.readyAt) = (exiting, readyAt);
        emit UnstakeRequested(msg.sender, amount, exiting, readyAt);
    }

    function finishUnstake(address owner) external nonReentrant {
        Exit memory exit = exits[owner];
        // INVARIANT: an exit ends once, and not before its window is over
        if (exit.amount == 0) revert NothingExiting(owner);
        if (block.timestamp < exit.readyAt) revert ExitNotReady(owner, exit.readyAt);
        delete exits[owner];
        credit[stakeToken][owner] += exit.amount;
        emit Unstaked(owner, exit.amount);
    }

    // ------------------------------------------------------------------------------------------------ modules

    function fund(address token, address from, uint256 amount, bytes calldata permit)
        external
        nonReentrant
        onlyModule
        whileOpen
    {
        uint256 missing = amount - Math.min(amount, credit[token][from]);
        if (missing != 0) _admit(token, from, from, missing); // told before it is spent: credit is never below 0
        _debit(token, from, amount - missing);
        held[msg.sender][token] += amount;
        emit Funded(msg.sender, token, from, amount);
        if (missing == 0) return;
        if (permit.length != 0) _permit(token, from, permit);
        _pull(token, from, missing);
    }

    function bond(address owner, uint256 amount) external nonReentrant onlyModule whileOpen {
        uint104 bonded = _unstake(owner, amount);
        _stakes[owner].bonded += bonded;
        held[msg.sender][stakeToken] += amount;
        emit Bonded(msg.sender, owner, amount);
    }

    function pay(address token, address to, uint256 amount) external nonReentrant onlyModule {
        _release(token, amount);
        credit[token][to] += amount;
        emit Paid(msg.sender, token, to, amount);
    }

    function unbond(address owner, uint256 amount) external nonReentrant onlyModule {
        _release(stakeToken, amount);
        uint104 returned = _dissolve(owner, amount);
        _stakes[owner].free += returned;
        emit Unbonded(msg.sender, owner, amount);
    }

    function forfeit(address owner, uint256 amount) external nonReentrant onlyModule {
        _dissolve(owner, amount);
        emit Forfeited(msg.sender, owner, amount);
    }

    // ----------------------------------------------------------------------------------------------- guardian

    function seal(address[] calldata modules_) external onlyGuardian {
        // INVARIANT: the modules are fixed once
        if (isSealed) revert AlreadySealed();
        isSealed = true;
        _modules = modules_;
        for (uint256 i; i < modules_.length; ++i) {
            if (modules_[i] == address(0)) revert ZeroAddress();
            isModule[modules_[i]] = true;
        }
        emit Sealed(modules_);
    }

    function deprecate() external onlyGuardian {
        // INVARIANT: a vault is deprecated once and for ever
        if (isDeprecated) revert AlreadyDeprecated();
        isDeprecated = true;
        emit Deprecated();
    }

    function renounceGuardian() external onlyGuardian {
        // INVARIANT: the guardian goes only when nothing is left that needs one
        if (!isSealed) revert NotSealed();
        guardian = address(0);
        emit GuardianRenounced();
    }

    function staked(address owner) external view returns (uint256) {
        return _stakes[owner].free;
    }

    function stakeOf(address owner) external view returns (uint256 free, uint256 bonded, uint256 since) {
        Stake storage found = _stakes[owner];
        return (found.free, found.bonded, found.since);
    }

    function tokens() external view returns (address[] memory) {
        return _tokens;
    }

    function modules() external view returns (address[] memory) {
        return _modules;
    }

    // ------------------------------------------------------------------------------------------------ private

    function _list(TokenCap memory entry) private {
        if (entry.token == address(0)) revert ZeroAddress();
        if (entry.cap == 0) revert ZeroAmount();
        // INVARIANT: a token has one cap
        if (cap[entry.token] != 0) revert DuplicateToken(entry.token);
        cap[entry.token] = entry.cap;
        _tokens.push(entry.token);
    }

    /// @dev Counts `amount` in; the caller credits or spends it, and pulls it once all is written.
    function _admit(address token, address from, address to, uint256 amount) private {
        uint256 limit = cap[token];
        // INVARIANT: only tokens on the list come in
        if (limit == 0) revert TokenNotAllowed(token);
        uint256 sum = total[token] + amount;
        // INVARIANT: the vault never owes more of a token than its cap
        if (sum > limit) revert CapExceeded(token, sum, limit);
        total[token] = sum;
        emit Deposited(token, from, to, amount);
    }

    function _pull(address token, address from, uint256 amount) private {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(from, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        // INVARIANT: what is credited has arrived
        if (received != amount) revert TokenAmountMismatch(token, amount, received);
    }

    /// @dev A permit that somebody else has submitted fails here, but the allowance it set stands.
    function _permit(address token, address owner, bytes calldata permit) private {
        if (permit.length != PERMIT_LENGTH) revert MalformedPermit(permit.length, PERMIT_LENGTH);
        (uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) =
            abi.decode(permit, (uint256, uint256, uint8, bytes32, bytes32));
        try IERC20Permit(token).permit(owner, address(this), value, deadline, v, r, s) {} catch {}
    }

    function _debit(address token, address owner, uint256 amount) private {
        uint256 has = credit[token][owner];
        // INVARIANT: nobody spends credit it does not have
        if (has < amount) revert InsufficientCredit(token, owner, has, amount);
        credit[token][owner] = has - amount;
    }

    /// @return taken the amount, which fits
    function _unstake(address owner, uint256 amount) private returns (uint104 taken) {
        uint104 has = _stakes[owner].free;
        // INVARIANT: what is bonded or leaving is no longer staked
        if (has < amount) revert InsufficientStake(owner, has, amount);
        taken = uint104(amount);
        _stakes[owner].free = has - taken;
    }

    /// @return taken the amount, which fits
    function _dissolve(address owner, uint256 amount) private returns (uint104 taken) {
        uint104 has = _stakes[owner].bonded;
        // INVARIANT: a bond comes back, or is lost, once
        if (has < amount) revert InsufficientBonds(owner, has, amount);
        taken = uint104(amount);
        _stakes[owner].bonded = has - taken;
    }

    function _release(address token, uint256 amount) private {
        uint256 has = held[msg.sender][token];
        // INVARIANT: a module moves only what it holds
        if (has < amount) revert InsufficientHeld(msg.sender, token, has, amount);
        held[msg.sender][token] = has - amount;
    }
}
