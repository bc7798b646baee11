// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A token the vault takes, and the most of it that it may ever owe (base units).
struct TokenCap {
    address token;
    uint256 cap;
}

/// @title The only holder of tokens
/// @notice Credit, stake, unbonding and one total per module and token. No prices, no signatures, no clock but
/// unbonding and the block of each owner's last `stake`. A module pays out only what it holds; it is trusted to take credit, allowance or stake only of those who
/// called it or signed for it. The modules are fixed once, by `seal`, and listed by `modules`.
/// Warning: tokens must be plain ERC-20 (no fee on transfer, no rebasing, no transfer callbacks). The list and a cap
/// per token are fixed at deployment; a deposit whose measured difference is not the amount is refused.
interface IVault {
    /// @dev Tokens came in and are now credit of `to`.
    event Deposited(address indexed token, address indexed from, address indexed to, uint256 amount);
    /// @dev Credit of `owner` left to `to`.
    event Withdrawn(address indexed token, address indexed owner, address indexed to, uint256 amount);
    /// @dev credit of `owner` → stake of `owner`.
    event Staked(address indexed owner, uint256 amount);
    /// @dev stake of `owner` → exit of `owner`, which now holds `exiting` and is ready at `readyAt` (unix seconds).
    event UnstakeRequested(address indexed owner, uint256 amount, uint256 exiting, uint256 readyAt);
    /// @dev exit of `owner` → credit of `owner`: the whole of it.
    event Unstaked(address indexed owner, uint256 amount);
    /// @dev credit of `from` → held by `module`. What credit lacked was deposited first, in the same transaction, so a
    /// replay of the events never sees a negative credit.
    event Funded(address indexed module, address indexed token, address indexed from, uint256 amount);
    /// @dev held by `module` → credit of `to`.
    event Paid(address indexed module, address indexed token, address indexed to, uint256 amount);
    /// @dev stake of `owner` → held by `module`.
    event Bonded(address indexed module, address indexed owner, uint256 amount);
    /// @dev held by `module` → stake of `owner`.
    event Unbonded(address indexed module, address indexed owner, uint256 amount);
    /// @dev bond of `owner` is lost: held by `module`, which pays it to others.
    event Forfeited(address indexed module, address indexed owner, uint256 amount);
    /// @dev The modules are these, for ever.
    event Sealed(address[] modules);
    /// @dev From here on nothing comes in and everything can leave.
    event Deprecated();
    /// @dev Nobody can deprecate this vault any more.
    event GuardianRenounced();

    error NotGuardian(address caller);
    error NotModule(address caller);
    error NotSealed();
    error AlreadySealed();
    error AlreadyDeprecated();
    error VaultDeprecated();
    error ZeroAddress();
    error ZeroAmount();
    error TokenNotAllowed(address token);
    error TooManyTokens(uint256 count, uint256 limit);
    error DuplicateToken(address token);
    error CapExceeded(address token, uint256 total, uint256 cap);
    error CapTooLarge(address token, uint256 cap, uint256 maximum);
    error TokenAmountMismatch(address token, uint256 expected, uint256 received);
    error InsufficientCredit(address token, address owner, uint256 has, uint256 needs);
    error InsufficientStake(address owner, uint256 has, uint256 needs);
    error InsufficientBonds(address owner, uint256 has, uint256 needs);
    error InsufficientHeld(address module, address token, uint256 has, uint256 needs);
    error NothingExiting(address owner);
    error ExitNotReady(address owner, uint256 readyAt);
    error UnbondingTooLong(uint256 window, uint256 maximum);
    error MalformedPermit(uint256 length, uint256 expected);

    // --- anyone

    /// @notice Moves `amount` of `token` from the caller into credit of `to`.
    /// Requirements: sealed, not deprecated, token allowed, cap not exceeded, measured difference equals amount.
    function deposit(address token, address to, uint256 amount) external;
    /// @notice Sends `amount` of the caller's own credit to `to`. Never pausable.
    function withdraw(address token, address to, uint256 amount) external;
    /// @notice Turns the caller's credit of the stake token into stake. The caller's whole stake counts as made in this
    /// block: it is not drawn for what was armed in an earlier one.
    function stake(uint256 amount) external;
    /// @notice Moves stake of the caller into its exit; a later request restarts the window of the caller's whole exit.
    function requestUnstake(uint256 amount) external;
    /// @notice Turns a ready exit of `owner` into credit of `owner`. Anyone may call it; only `owner` gains.
    function finishUnstake(address owner) external;

    // --- modules only

    /// @notice Takes `amount` from credit of `from`, topped up by an allowance to the vault (or an ERC-2612 permit).
    /// `permit` is empty or abi.encode(uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s); a permit that
    /// was already used by a front-runner is harmless: the allowance it set is used.
    /// Warning: the module must be sure that `from` called it or signed for it.
    function fund(address token, address from, uint256 amount, bytes calldata permit) external;
    /// @notice Moves `amount` from stake of `owner` to what the calling module holds; what is exiting does not count.
    /// Requirements: not deprecated, stake of `owner` at least `amount` (else InsufficientStake).
    /// Warning: the module must be sure that `owner` called it or signed for it.
    function bond(address owner, uint256 amount) external;
    /// @notice Moves `amount` of `token` from what the calling module holds to credit of `to`, who withdraws it itself:
    /// no payee can hold up another. Goes on in a deprecated vault.
    /// Requirements: the module holds at least `amount` (else InsufficientHeld).
    function pay(address token, address to, uint256 amount) external;
    /// @notice Moves `amount` of the stake token from what the calling module holds back to stake of `owner`, who can
    /// then request it out. Goes on in a deprecated vault.
    /// Requirements: the module holds at least `amount` (else InsufficientHeld), `owner` has as much in bonds (else
    /// InsufficientBonds).
    function unbond(address owner, uint256 amount) external;
    /// @notice `amount` of the bonds of `owner` is no longer its own. The module goes on holding it and pays it to
    /// others. Goes on in a deprecated vault.
    /// Requirements: `owner` has as much in bonds (else InsufficientBonds).
    function forfeit(address owner, uint256 amount) external;

    // --- guardian: two one-way moves, then nothing

    /// @notice Fixes the set of modules for ever. Before it, nothing can be deposited.
    function seal(address[] calldata modules) external;
    /// @notice No new deposit, stake, fund or bond; pay, unbond, forfeit, unstake and withdraw go on for ever.
    function deprecate() external;
    /// @notice Gives up the guardian's role; only after sealing.
    function renounceGuardian() external;

    // --- views

    function guardian() external view returns (address);
    function stakeToken() external view returns (address);
    /// @return seconds between requestUnstake and finishUnstake
    function unbondingWindow() external view returns (uint256);
    function MAX_TOKENS() external view returns (uint256);
    function MAX_UNBONDING_WINDOW() external view returns (uint256);
    /// @return the most that the cap of the stake token can be: 20 trillion whole tokens of 18 decimals
    function MAX_STAKE_CAP() external view returns (uint256);
    function isSealed() external view returns (bool);
    function isDeprecated() external view returns (bool);
    function isModule(address account) external view returns (bool);
    function cap(address token) external view returns (uint256);
    function total(address token) external view returns (uint256);
    function credit(address token, address owner) external view returns (uint256);
    /// @return free stake: what is neither bonded nor leaving
    function staked(address owner) external view returns (uint256);
    /// @return free stake that is neither bonded nor leaving
    /// @return bonded stake that modules hold and that is still the owner's, if it keeps its promises
    /// @return since block of the owner's last `stake`; 0 = never
    function stakeOf(address owner) external view returns (uint256 free, uint256 bonded, uint256 since);
    function exits(address owner) external view returns (uint256 amount, uint256 readyAt);
    function held(address module, address token) external view returns (uint256);
    /// @notice Every module, as sealed; empty before. Whoever deposits should know each of them.
    function modules() external view returns (address[] memory);
    /// @notice Tokens on the list, in the order of deployment.
    function tokens() external view returns (address[] memory);
}
