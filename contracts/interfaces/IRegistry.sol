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
}

/// @title Who offers which model where
/// @notice Holds no money and trusts nobody: everything a caller writes is about the caller, and a model is named by
/// the hash of its roots, so nobody can publish others under its id. Its name and URI are the first publisher's choice and
/// prove nothing. Local indexes are built from the events alone.
interface IRegistry {
    event ProviderSet(address indexed provider, string endpoint, bytes32 labels);
    event ProviderRemoved(address indexed provider);
    event ModelPublished(bytes32 indexed modelId, address indexed publisher, Model roots, string name, string uri);
    event OfferSet(address indexed provider, bytes32 indexed modelId, Offer offer);
    event OfferRemoved(address indexed provider, bytes32 indexed modelId);

    error EndpointLength(uint256 length, uint256 limit);
    error TextTooLong(uint256 length, uint256 limit);
    error UnknownProvider(address provider);
    error UnknownModel(bytes32 modelId);
    error UnknownOffer(address provider, bytes32 modelId);
    error ModelAlreadyPublished(bytes32 modelId);
    error BadOffer(bytes32 field);

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
    function setOffer(bytes32 modelId, Offer calldata offer) external;
    function removeOffer(bytes32 modelId) external;

    /// @return endpoint empty if `provider` is none
    function providers(address provider) external view returns (string memory endpoint, bytes32 labels);
    function models(bytes32 modelId) external view returns (Model memory);
    /// @return a zero offer (modes = 0) if there is none or its provider was removed
    function offers(address provider, bytes32 modelId) external view returns (Offer memory);
}
