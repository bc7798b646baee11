// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IJobs, JobParams, SignedQuote} from "../interfaces/IJobs.sol";
import {Mode, Quote, Request} from "../interfaces/Wire.sol";
import {JobRecords, MAX_REPLICAS, Terms} from "./JobRecords.sol";
import {Payout} from "./Payout.sol";
import {TokensRoot} from "./TokensRoot.sol";

/// @title What `post` accepts: the rules about a request and about each quote, except those that need storage
library QuoteRules {
    uint8 internal constant GREEDY = 0;
    uint8 internal constant SEEDED_BY_REQUEST = 1;
    uint8 internal constant SEEDED_BY_CHAIN = 2;

    /// @dev A drawn job's replicas cost at least this much of their price from the draw on.
    uint256 internal constant DRAW_FEE_BPS = 1000;

    /// @return replicas how many the job has
    function checkQuorum(JobParams calldata params) internal pure returns (uint256 replicas) {
        uint256 quorum = params.quorum;
        replicas = params.quotes.length;
        if (params.draw != 0) {
            // INVARIANT: whoever is drawn works on the same terms
            if (replicas != 1) revert IJobs.BadDraw(params.draw, replicas);
            replicas = params.draw;
        }
        // INVARIANT: only modes that are enforced can be bought
        if (params.mode == Mode.PROOF) revert IJobs.ModeNotBuilt(params.mode);
        // INVARIANT: 2k > n, so at most one output is ever agreed; one replica is no quorum and is sold otherwise
        bool holds = params.mode == Mode.QUORUM
            ? quorum >= 2 && quorum <= replicas && 2 * quorum > replicas && replicas <= MAX_REPLICAS
            : quorum == 1 && replicas == 1;
        if (!holds) revert IJobs.BadQuorum(quorum, replicas);
    }

    function checkRequest(Request calldata request) internal pure {
        // INVARIANT: there is something to do and something to pay for
        if (request.inputTokens == 0) revert IJobs.EmptyInput();
        if (request.maxOutputTokens == 0) revert IJobs.NoOutputAsked();
        // INVARIANT: the answer is a function of request and chain: no sampler leaves the provider a choice
        bool plain = request.temperatureQ16 | request.topK | request.topPQ16 == 0;
        bool holds = request.sampler == SEEDED_BY_REQUEST
            || (request.seed == 0 && (request.sampler == SEEDED_BY_CHAIN || (request.sampler == GREEDY && plain)));
        if (!holds) revert IJobs.BadSampler(request.sampler);
    }

    /// @dev An inline input is the request's, whole and in its one canonical form.
    function checkInline(Request calldata request, bytes calldata ids) internal pure {
        // INVARIANT: the input that is published is the one that is priced and hashed
        uint256 length = TokensRoot.packedLength(request.inputTokens);
        if (ids.length != length) revert IJobs.InputLengthMismatch(length, ids.length);
        if (!TokensRoot.isFilled(ids, request.inputTokens)) revert IJobs.InputFillerMismatch(request.inputTokens);
        bytes32 root = TokensRoot.root(ids);
        if (root != request.inputRoot) revert IJobs.InputMismatch(request.inputRoot, root);
    }

    /// @notice Checks what is special about the terms of a drawn job: nobody's, unsigned, with a kill fee.
    /// @param price of one replica
    function checkDrawn(SignedQuote calldata offered, uint256 price) internal pure {
        address provider = offered.quote.provider;
        // INVARIANT: the client does not name whom the contract draws
        if (provider != address(0)) revert IJobs.QuoteMismatch(provider, "provider");
        if (offered.signature.length != 0) revert IJobs.BadSignature(provider);
        // INVARIANT: a client that dislikes who was drawn does not leave for nothing
        uint256 minimum = Math.ceilDiv(price * DRAW_FEE_BPS, Payout.BPS);
        if (offered.quote.killFee < minimum) revert IJobs.DrawFeeTooSmall(offered.quote.killFee, minimum);
    }

    /// @dev Compares the quote at `index` with those before it.
    function checkDistinct(SignedQuote[] calldata quotes, uint256 index) internal pure {
        address provider = quotes[index].quote.provider;
        for (uint256 i; i < index; ++i) {
            // INVARIANT: n replicas are n providers
            if (quotes[i].quote.provider == provider) revert IJobs.DuplicateProvider(provider);
        }
    }

    /// @notice Checks that `quote` sells exactly this job to the caller, and that its amounts are consistent.
    /// @return price of the job at its longest, what this replica adds to the escrow
    function check(
        Quote calldata quote,
        Request calldata request,
        Mode mode,
        bytes32 requestHash,
        address token,
        uint256 shareBps
    ) internal view returns (uint256 price) {
        checkSubject(quote, request, mode, requestHash, token);
        return checkAmounts(quote, request, shareBps);
    }

    /// @notice Checks that `quote` sells exactly this job to the caller.
    function checkSubject(Quote calldata quote, Request calldata request, Mode mode, bytes32 requestHash, address token)
        internal
        view
    {
        address provider = quote.provider;
        // INVARIANT: a quote binds only until its expiry, and only for what it names
        if (block.timestamp > quote.validUntil) {
            revert IJobs.QuoteExpired(provider, quote.validUntil, block.timestamp);
        }
        if (quote.client != address(0) && quote.client != msg.sender) revert IJobs.QuoteMismatch(provider, "client");
        if (quote.modelId != request.modelId) revert IJobs.QuoteMismatch(provider, "modelId");
        if (quote.requestHash != 0 && quote.requestHash != requestHash) {
            revert IJobs.QuoteMismatch(provider, "requestHash");
        }
        if (quote.mode != uint8(mode)) revert IJobs.QuoteMismatch(provider, "mode");
        // INVARIANT: prices and bonds are in one unit
        if (quote.token != token) revert IJobs.WrongToken(quote.token, token);
        // INVARIANT: a request is never longer than what was quoted
        if (request.inputTokens > quote.maxInputTokens) {
            revert IJobs.QuoteLimit(provider, "maxInputTokens", quote.maxInputTokens, request.inputTokens);
        }
        if (request.maxOutputTokens > quote.maxOutputTokens) {
            revert IJobs.QuoteLimit(provider, "maxOutputTokens", quote.maxOutputTokens, request.maxOutputTokens);
        }
    }

    function checkAmounts(Quote calldata quote, Request calldata request, uint256 shareBps)
        private
        pure
        returns (uint256 price)
    {
        Terms memory terms = JobRecords.termsOf(quote);
        price = Payout.price(terms, request.inputTokens, request.maxOutputTokens);
        // INVARIANT: a slashed bond covers the client's refund and the challenger's share
        uint256 needs = Payout.bondFor(Payout.price(terms, quote.maxInputTokens, quote.maxOutputTokens), shareBps);
        if (quote.bond < needs) revert IJobs.BondTooSmall(quote.provider, quote.bond, needs);
        // INVARIANT: a kill fee never exceeds the price, so the escrow covers either
        if (quote.killFee > price) revert IJobs.KillFeeTooLarge(quote.provider, quote.killFee, price);
        // INVARIANT: silence costs at least the price, and never more than the bond
        if (quote.missFee < price || quote.missFee > quote.bond) {
            revert IJobs.MissFeeOutOfRange(quote.provider, quote.missFee, price, quote.bond);
        }
    }
}
