// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Draw, IRegistry, Offer} from "./interfaces/IRegistry.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Model} from "./interfaces/Wire.sol";
import {WireHash} from "./libraries/WireHash.sol";

/// @dev Reenters nowhere: the one contract it calls is the vault, for reading.
contract Registry is IRegistry {
    struct Provider {
        string endpoint;
        bytes32 labels;
        uint256 epoch; // counts removals: offers of an earlier epoch are void
    }

    /// @dev Who stands at a place of a list since the end of block `since`; nobody where `provider` is 0. One slot.
    struct Entry {
        address provider;
        uint40 since;
        uint32 weight; // of WEIGHTS
    }

    struct Place {
        Entry current;
        Entry former; // what stood here before `current`
    }

    /// @dev Places from `length` on are out of use, but keep what they held for draws that were armed before.
    struct List {
        uint256 length;
        mapping(uint256 index => Place) places;
        mapping(address provider => uint256) position; // index + 1, 0 = not listed
    }

    uint256 public constant MAX_ENDPOINT = 256;
    uint256 public constant MAX_NAME = 64;
    uint256 public constant MAX_URI = 256;
    uint256 public constant DRAW_TRIES = 64;
    uint256 public constant LIST_REST = 256;
    uint8 private constant MODES_END = 1 << 4;
    uint256 private constant WEIGHTS = 1 << 16;
    /// @dev So that entries are worth trying: a list of the poorest providers still gives four of them in 64 tries.
    uint256 private constant STAKE_SHARE = 16;

    address public immutable vault;
    uint256 public immutable drawStakeCap;

    mapping(address provider => Provider) private _providers;
    mapping(bytes32 modelId => Model) private _models;
    mapping(bytes32 modelId => bool) private _published;
    mapping(address provider => mapping(uint256 epoch => mapping(bytes32 modelId => Offer))) private _offers;
    mapping(bytes32 modelId => List) private _lists;

    /// @param drawStakeCap_ base units of the vault's stake token
    constructor(address vault_, uint128 drawStakeCap_) {
        // INVARIANT: being drawn takes a stake
        if (drawStakeCap_ < STAKE_SHARE) revert StakeCapTooSmall(drawStakeCap_, STAKE_SHARE);
        vault = vault_;
        drawStakeCap = drawStakeCap_;
    }

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
        if (offer.maxBond != 0) _enter(modelId);
    }

    function removeOffer(bytes32 modelId) external {
        Offer storage offer = _offers[msg.sender][_providers[msg.sender].epoch][modelId];
        if (offer.modes == 0) revert UnknownOffer(msg.sender, modelId);
        delete _offers[msg.sender][_providers[msg.sender].epoch][modelId];
        emit OfferRemoved(msg.sender, modelId);
    }

    function prune(bytes32 modelId, address provider) external {
        List storage list = _lists[modelId];
        uint256 position = list.position[provider];
        if (position == 0) revert NotListed(provider, modelId);
        // INVARIANT: nobody takes another's chance away
        if (isDrawable(provider, modelId)) revert StillDrawable(provider, modelId);
        uint256 last = list.length;
        if (position != last) {
            Entry memory moved = list.places[last - 1].current;
            _put(modelId, position - 1, moved.provider, moved.weight);
            list.position[moved.provider] = position;
        }
        _put(modelId, last - 1, address(0), 0);
        list.length = last - 1;
        delete list.position[provider];
        emit OfferPruned(provider, modelId);
    }

    function draw(Draw calldata wanted) external view returns (address[] memory drawn) {
        drawn = new address[](wanted.count);
        uint256 found;
        for (uint256 i; i < DRAW_TRIES && found < wanted.count; ++i) {
            address provider = _try(wanted, uint256(keccak256(abi.encode(wanted.seed, i))));
            if (provider == address(0) || _isAmong(drawn, found, provider) || !_takes(provider, wanted)) continue;
            drawn[found++] = provider;
        }
        assembly ("memory-safe") {
            mstore(drawn, found)
        }
    }

    function drawableLength(bytes32 modelId) external view returns (uint256) {
        return _lists[modelId].length;
    }

    function drawableAt(bytes32 modelId, uint256 index)
        external
        view
        returns (address provider, uint256 since, uint256 weight)
    {
        Entry storage entry = _lists[modelId].places[index].current;
        return (entry.provider, entry.since, entry.weight);
    }

    function isDrawable(address provider, bytes32 modelId) public view returns (bool) {
        Offer storage offer = _offers[provider][_providers[provider].epoch][modelId];
        if (offer.maxBond == 0) return false;
        (uint256 free, uint256 bonded,) = IVault(vault).stakeOf(provider);
        return free + bonded >= drawStakeCap / STAKE_SHARE;
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

    /// @dev Puts the caller on the list, or raises its weight there. A lower stake needs no entry: it is looked at when
    /// the provider is drawn.
    function _enter(bytes32 modelId) private {
        (uint256 free, uint256 bonded,) = IVault(vault).stakeOf(msg.sender);
        uint256 staked = free + bonded;
        uint256 minimum = drawStakeCap / STAKE_SHARE;
        // INVARIANT: a chance to be drawn has a price, so a list cannot be flooded for nothing
        if (staked < minimum) revert StakeTooSmall(msg.sender, staked, minimum);
        uint256 weight = Math.min(staked, drawStakeCap) * WEIGHTS / drawStakeCap;

        List storage list = _lists[modelId];
        uint256 position = list.position[msg.sender];
        if (position == 0) {
            _put(modelId, list.length, msg.sender, weight);
            list.position[msg.sender] = ++list.length;
        } else {
            Place storage place = list.places[position - 1];
            if (weight <= place.current.weight || block.number < _readyBlock(place)) return;
            _put(modelId, position - 1, msg.sender, weight);
        }
        emit OfferListed(msg.sender, modelId, weight);
    }

    function _put(bytes32 modelId, uint256 index, address provider, uint256 weight) private {
        Place storage place = _lists[modelId].places[index];
        // INVARIANT: what a place held can be told for as long as a block hash: it changes once in that time
        uint256 readyBlock = _readyBlock(place);
        if (block.number < readyBlock) revert ListBusy(modelId, readyBlock);
        place.former = place.current;
        place.current = Entry({provider: provider, since: uint40(block.number), weight: uint32(weight)});
    }

    function _readyBlock(Place storage place) private view returns (uint256) {
        uint256 since = place.current.since;
        return since == 0 ? 0 : since + LIST_REST + 1;
    }

    /// @return provider at the place that `word` picks, 0 where nobody stands there, is the client or loses the toss
    function _try(Draw calldata wanted, uint256 word) private view returns (address provider) {
        Place storage place = _lists[wanted.modelId].places[(word >> 128) * wanted.length >> 128];
        // INVARIANT: nobody enters a list, or gains weight in it, once the block hash that draws from it is known
        Entry memory entry = place.current.since <= wanted.drawBlock ? place.current : place.former;
        provider = entry.provider;
        uint256 toss = word % WEIGHTS;
        if (provider == address(0) || provider == wanted.client || toss >= entry.weight) return address(0);
        (uint256 free, uint256 bonded, uint256 since) = IVault(vault).stakeOf(provider);
        uint256 staked = free + bonded;
        // INVARIANT: no money is put behind an entry once the block hash that draws from it is known
        if (since > wanted.drawBlock) return address(0);
        // INVARIANT: who is drawn still has the stake that its chance came from, and can lock the bond
        bool holds =
            toss * drawStakeCap < staked * WEIGHTS && staked >= drawStakeCap / STAKE_SHARE && free >= wanted.bond;
        if (!holds) return address(0);
    }

    function _isAmong(address[] memory list, uint256 count, address provider) private pure returns (bool) {
        for (uint256 i; i < count; ++i) {
            if (list[i] == provider) return true;
        }
        return false;
    }

    /// @return whether the provider's offer takes the terms
    function _takes(address provider, Draw calldata wanted) private view returns (bool) {
        Offer storage offer = _offers[provider][_providers[provider].epoch][wanted.modelId];
        // INVARIANT: nobody is drawn for less than its list price, or for more than it said it takes
        return offer.modes >> wanted.mode & 1 == 1 && wanted.inputTokens <= offer.maxInputTokens
            && wanted.maxOutputTokens <= offer.maxOutputTokens && wanted.pricePerMOutput >= offer.pricePerMOutput
            && offer.maxBond != 0 && wanted.bond <= offer.maxBond && wanted.baseFee >= offer.baseFee
            && wanted.pricePerMInput >= offer.pricePerMInput && wanted.token == offer.token;
    }
}
