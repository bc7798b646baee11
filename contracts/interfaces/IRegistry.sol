// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Model} from "./Wire.sol";

/// @notice A provider's standing list price for one model. Prices per million tokens, base units of `token`.
/// An offer advertises; only a signed quote binds.
struct Offer {
    address token;
    uint128 baseFee;
    uint128 pricePerMInput;
    uint128 pricePerMOutput;
    uint32 maxInputTokens;
    uint32 maxOutputTokens;
    uint8 modes; // bit i set = mode i (Mode in Wire.sol) is offered
    uint128 maxBond; // most this provider locks in a job it is drawn for; 0 = it is not drawn, and works for quotes only
}

/// @notice What a draw looks for, and the list as it stood when the draw was armed.
struct Draw {
    bytes32 modelId;
    bytes32 seed;
    uint8 count;
    uint32 length; // of the drawable list when the draw was armed
    uint64 drawBlock; // the list counts as it stood at the end of this block
    address client; // never drawn for its own job
    uint8 mode;
    address token;
    uint128 baseFee; // the terms offered, see Quote; `bond` is what each drawn provider must lock
    uint128 pricePerMInput;
    uint128 pricePerMOutput;
    uint128 bond;
    uint32 inputTokens;
    uint32 maxOutputTokens;
}

/// @title Who offers which model where
/// @notice Holds no money and trusts nobody: everything a caller writes is about the caller, and a model is named by
/// the hash of its roots, so nobody can publish others under its id. Its name and URI are the first publisher's choice and
/// prove nothing. Local indexes are built from the events alone.
/// Per model there is a list of providers that a contract may draw. What a place of it held at the end of any of the last
/// LIST_REST blocks can be told (a place changes once in so many), and a stake that was added to since counts for nothing,
/// so nobody who knows a block's hash can still change what is drawn with it; at most a provider takes itself out of the
/// running. Stake that is locked in bonds counts as stake.
interface IRegistry {
    event ProviderSet(address indexed provider, string endpoint, bytes32 labels);
    event ProviderRemoved(address indexed provider);
    event ModelPublished(bytes32 indexed modelId, address indexed publisher, Model roots, string name, string uri);
    event OfferSet(address indexed provider, bytes32 indexed modelId, Offer offer);
    event OfferRemoved(address indexed provider, bytes32 indexed modelId);
    /// @dev The provider can be drawn from the next block on, with probability `weight` / 65,536 when it is picked.
    event OfferListed(address indexed provider, bytes32 indexed modelId, uint256 weight);
    /// @dev It left the drawable list; an offer it may still have is for quotes only until it is set again.
    event OfferPruned(address indexed provider, bytes32 indexed modelId);

    error EndpointLength(uint256 length, uint256 limit);
    error TextTooLong(uint256 length, uint256 limit);
    error UnknownProvider(address provider);
    error UnknownModel(bytes32 modelId);
    error UnknownOffer(address provider, bytes32 modelId);
    error ModelAlreadyPublished(bytes32 modelId);
    error BadOffer(bytes32 field);
    error StakeCapTooSmall(uint256 cap, uint256 minimum);
    error StakeTooSmall(address provider, uint256 staked, uint256 minimum);
    error ListBusy(bytes32 modelId, uint256 readyBlock);
    error NotListed(address provider, bytes32 modelId);
    error StillDrawable(address provider, bytes32 modelId);

    /// @notice Announces or changes the caller's endpoint (1 to 256 bytes, an http or https URL) and labels
    /// (free bytes32: region or privacy class, compared by clients, meaningless to the contracts).
    function setProvider(string calldata endpoint, bytes32 labels) external;
    /// @notice Removes the caller; its offers end with it.
    function removeProvider() external;
    /// @notice Publishes the roots of a model under their hash.
    function publishModel(Model calldata roots, string calldata name, string calldata uri)
        external
        returns (bytes32 modelId);
    /// @notice Sets the caller's offer. Requirements: caller is a provider, model published, limits and modes not 0.
    /// With a `maxBond` the caller also enters the drawable list, which takes a stake of drawStakeCap / 16 and a place
    /// at its end that has rested (else ListBusy: try again at the block it names), or raises its weight there to its
    /// present stake, where its place has rested.
    function setOffer(bytes32 modelId, Offer calldata offer) external;
    function removeOffer(bytes32 modelId) external;
    /// @notice Takes an entry that can no longer be drawn (offer gone or without maxBond, stake with its bonds below the
    /// minimum) off the list; the last entry takes its place. Anyone. Draws already armed are not changed by it.
    function prune(bytes32 modelId, address provider) external;

    /// @return endpoint empty if `provider` is none
    function providers(address provider) external view returns (string memory endpoint, bytes32 labels);
    function models(bytes32 modelId) external view returns (Model memory);
    /// @return a zero offer (modes = 0) if there is none or its provider was removed
    function offers(address provider, bytes32 modelId) external view returns (Offer memory);

    /// @notice The providers that `wanted` draws: up to DRAW_TRIES times an index of the list, uniform from the seed,
    /// whose entry is taken with probability min(stake, drawStakeCap) / drawStakeCap if it can do the job: no provider
    /// twice, never the client, its offer takes the terms, it has not staked since the draw block, and its free stake
    /// covers the bond.
    /// @return drawn fewer than `wanted.count` where so many were not found
    function draw(Draw calldata wanted) external view returns (address[] memory drawn);
    /// @return places of the drawable list in use
    function drawableLength(bytes32 modelId) external view returns (uint256);
    /// @return provider nobody where 0
    /// @return since the block at whose end it stood there first
    /// @return weight of 65,536: the chance that it is taken when its place is picked
    function drawableAt(bytes32 modelId, uint256 index)
        external
        view
        returns (address provider, uint256 since, uint256 weight);
    /// @notice Whether the provider's offer and stake allow it to be drawn (it may still have to be listed).
    function isDrawable(address provider, bytes32 modelId) external view returns (bool);
    function vault() external view returns (address);
    /// @return the stake above which a provider's chance to be drawn no longer grows; the minimum is a 16th of it
    function drawStakeCap() external view returns (uint256);
    function DRAW_TRIES() external view returns (uint256);
    /// @return blocks that a place of the list rests after a change: as many as a block hash can be asked for
    function LIST_REST() external view returns (uint256);
}
