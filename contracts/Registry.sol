// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRegistry, Offer} from "./interfaces/IRegistry.sol";
import {Model} from "./interfaces/Wire.sol";
import {WireHash} from "./libraries/WireHash.sol";

contract Registry is IRegistry {
    struct Provider {
        string endpoint;
        bytes32 labels;
        uint256 epoch; // counts removals: offers of an earlier epoch are void
    }

    uint256 public constant MAX_ENDPOINT = 256;
    uint256 public constant MAX_NAME = 64;
    uint256 public constant MAX_URI = 256;
    uint8 private constant MODES_END = 1 << 4;

    mapping(address provider => Provider) private _providers;
    mapping(bytes32 modelId => Model) private _models;
    mapping(bytes32 modelId => bool) private _published;
    mapping(address provider => mapping(uint256 epoch => mapping(bytes32 modelId => Offer))) private _offers;

    function setProvider(string calldata endpoint, bytes32 labels) external {
        uint256 length = bytes(endpoint).length;
        // INVARIANT: a provider can be reached: an empty endpoint means there is none
        if (length == 0 || length > MAX_ENDPOINT) revert EndpointLength(length, MAX_ENDPOINT);
        Provider storage provider = _providers[msg.sender];
        provider.endpoint = endpoint;
        provider.labels = labels;
        emit ProviderSet(msg.sender, endpoint, labels);
    }

    function removeProvider() external {
        Provider storage provider = _provider(msg.sender);
        delete provider.endpoint;
        delete provider.labels;
        ++provider.epoch;
        emit ProviderRemoved(msg.sender);
    }

    function publishModel(Model calldata roots, string calldata name, string calldata uri)
        external
        returns (bytes32 modelId)
    {
        if (bytes(name).length > MAX_NAME) revert TextTooLong(bytes(name).length, MAX_NAME);
        if (bytes(uri).length > MAX_URI) revert TextTooLong(bytes(uri).length, MAX_URI);
        modelId = WireHash.model(roots);
        // INVARIANT: a model is published once and never changes
        if (_published[modelId]) revert ModelAlreadyPublished(modelId);
        _published[modelId] = true;
        _models[modelId] = roots;
        emit ModelPublished(modelId, msg.sender, roots, name, uri);
    }

    function setOffer(bytes32 modelId, Offer calldata offer) external {
        Provider storage provider = _provider(msg.sender);
        // INVARIANT: an offer can be bought
        if (!_published[modelId]) revert UnknownModel(modelId);
        if (offer.token == address(0)) revert BadOffer("token");
        if (offer.maxInputTokens == 0) revert BadOffer("maxInputTokens");
        if (offer.maxOutputTokens == 0) revert BadOffer("maxOutputTokens");
        if (offer.modes == 0 || offer.modes >= MODES_END) revert BadOffer("modes");
        _offers[msg.sender][provider.epoch][modelId] = offer;
        emit OfferSet(msg.sender, modelId, offer);
    }

    function removeOffer(bytes32 modelId) external {
        Offer storage offer = _offers[msg.sender][_providers[msg.sender].epoch][modelId];
        if (offer.modes == 0) revert UnknownOffer(msg.sender, modelId);
        delete _offers[msg.sender][_providers[msg.sender].epoch][modelId];
        emit OfferRemoved(msg.sender, modelId);
    }

    function providers(address provider) external view returns (string memory endpoint, bytes32 labels) {
        return (_providers[provider].endpoint, _providers[provider].labels);
    }

    function models(bytes32 modelId) external view returns (Model memory) {
        if (!_published[modelId]) revert UnknownModel(modelId);
        return _models[modelId];
    }

    function offers(address provider, bytes32 modelId) external view returns (Offer memory) {
        return _offers[provider][_providers[provider].epoch][modelId];
    }

    function _provider(address account) private view returns (Provider storage provider) {
        provider = _providers[account];
        // INVARIANT: only a provider that can be reached offers anything
        if (bytes(provider.endpoint).length == 0) revert UnknownProvider(account);
    }
}
