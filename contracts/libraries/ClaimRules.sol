// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DisputeParams, IDisputes} from "../interfaces/IDisputes.sol";
import {Frozen} from "../interfaces/ISubject.sol";
import {Claim} from "../interfaces/Trace.sol";
import {Output, Request} from "../interfaces/Wire.sol";
import {TokensRoot} from "./TokensRoot.sol";
import {WireHash} from "./WireHash.sol";

/// @title What token ids alone tell about an answer (docs/disputes.md, section 1), and whether they are the answer's
library ClaimRules {
    uint8 internal constant GREEDY = 0;
    uint8 internal constant SEEDED_BY_REQUEST = 1;
    uint8 internal constant SEEDED_BY_CHAIN = 2;
    uint8 internal constant FINISH_STOP = 1;
    uint8 internal constant FINISH_LENGTH = 2;
    uint256 private constant STOP_TOKENS = 8;
    uint32 private constant UNUSED = type(uint32).max;
    uint32 private constant WHOLE_Q16 = 65_536;

    /// @notice Whether the sampler has a step: greedy, or seeded without top-k and top-p.
    function hasStep(Request calldata request) internal pure returns (bool) {
        bool whole = request.topK == 0 && request.topPQ16 == WHOLE_Q16;
        bool seeded = request.sampler == SEEDED_BY_REQUEST || request.sampler == SEEDED_BY_CHAIN;
        return request.sampler == GREEDY || (seeded && whole);
    }

    function fits(Request calldata request, uint256 context) internal pure returns (bool) {
        return request.inputTokens != 0 && uint256(request.inputTokens) + request.maxOutputTokens <= context;
    }

    /// @notice The receipt under dispute, whole.
    /// @param chainSeed what the subject says that the chain gave for this answer
    function claimOf(DisputeParams calldata params, bytes32 chainSeed) internal pure returns (Claim memory claim) {
        claim.subject = params.subject;
        claim.subjectId = params.subjectId;
        claim.provider = params.provider;
        claim.weightsRoot = params.model.weightsRoot;
        claim.programRoot = params.model.programRoot;
        claim.tablesRoot = params.model.tablesRoot;
        claim.inputRoot = params.request.inputRoot;
        claim.outputRoot = params.output.outputRoot;
        claim.inputTokens = params.request.inputTokens;
        claim.outputTokens = params.output.outputTokens;
        claim.sampler = params.request.sampler;
        claim.temperatureQ16 = params.request.temperatureQ16;
        claim.topK = params.request.topK;
        claim.topPQ16 = params.request.topPQ16;
        claim.seed = params.request.seed;
        if (claim.sampler != SEEDED_BY_CHAIN) return claim;
        // INVARIANT: nobody is judged by a seed that nobody gave
        if (chainSeed == 0) revert IDisputes.NoSeed(params.subject, params.subjectId);
        claim.seed = chainSeed;
    }

    /// @notice Checks that request, model, output and ids are those that the subject froze.
    function checkHashes(DisputeParams calldata params, Frozen memory frozen) internal pure {
        _same("request", frozen.requestHash, WireHash.request(params.request));
        bytes32 modelId = WireHash.model(params.model);
        _same("model", frozen.modelId, modelId);
        _same("request's model", params.request.modelId, modelId);
        _same("output", frozen.outputHash, WireHash.output(params.output));
        _same("inputIds", params.request.inputRoot, TokensRoot.root(params.inputIds));
        if (params.outputIds.length % 32 != 0) revert IDisputes.IdsMalformed(params.outputIds.length);
        _same("outputIds", params.output.outputRoot, TokensRoot.root(params.outputIds));
    }

    /// @notice Checks that the prompt has a trace, whatever was answered.
    function checkTrace(Request calldata request, bytes calldata ids, uint256 vocabulary, uint256 context)
        internal
        pure
    {
        // INVARIANT: nobody is judged by a program that was not defined for the request
        if (!fits(request, context)) revert IDisputes.PromptWithoutTrace("context");
        if (!_isCanonical(ids, request.inputTokens)) revert IDisputes.PromptWithoutTrace("inputIds");
        for (uint256 i; i < request.inputTokens; ++i) {
            if (_id(ids, i) >= vocabulary) revert IDisputes.PromptWithoutTrace("vocabulary");
        }
    }

    /// @notice Whether the output breaks a rule that needs no computation. Its form is the provider's own doing.
    /// @param ids those that the output's root is of: whole words
    function isFaulty(Request calldata request, Output calldata output, bytes calldata ids, uint256 vocabulary)
        internal
        pure
        returns (bool)
    {
        uint256 count = output.outputTokens;
        if (count == 0 || count > request.maxOutputTokens || !_isCanonical(ids, count)) return true;
        (uint32[] memory stops, uint256 used) = _stops(request.stopTokens);
        for (uint256 i; i < count; ++i) {
            uint256 id = _id(ids, i);
            if (id >= vocabulary) return true;
            bool isStop;
            for (uint256 j; j < used; ++j) {
                if (stops[j] == id) isStop = true;
            }
            if (i + 1 < count) {
                if (isStop) return true;
            } else if (isStop ? output.finish != FINISH_STOP : output.finish != FINISH_LENGTH) {
                return true;
            }
        }
        return output.finish == FINISH_LENGTH && count != request.maxOutputTokens;
    }

    function _same(bytes32 field, bytes32 expected, bytes32 got) private pure {
        // INVARIANT: what is judged is what was asked and what was answered, and nothing that its opener chose
        if (got != expected) revert IDisputes.HashMismatch(field, expected, got);
    }

    function _isCanonical(bytes calldata ids, uint256 count) private pure returns (bool) {
        return ids.length == TokensRoot.packedLength(count) && TokensRoot.isFilled(ids, count);
    }

    function _id(bytes calldata ids, uint256 index) private pure returns (uint256 id) {
        assembly ("memory-safe") {
            id := shr(224, calldataload(add(ids.offset, shl(2, index))))
        }
    }

    function _stops(bytes32 packed) private pure returns (uint32[] memory stops, uint256 used) {
        stops = new uint32[](STOP_TOKENS);
        for (uint256 i; i < STOP_TOKENS; ++i) {
            uint32 stop = uint32(uint256(packed) >> (32 * (STOP_TOKENS - 1 - i)));
            if (stop != UNUSED) stops[used++] = stop;
        }
    }
}
