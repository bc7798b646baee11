// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJudge} from "../interfaces/IJudge.sol";
import {Claim, Opening, OutputAccusation} from "../interfaces/Trace.sol";
import {Gumbel} from "../libraries/Gumbel.sol";
import {ModelTrees} from "../libraries/ModelTrees.sol";
import {Context, TraceTree} from "../libraries/TraceTree.sol";

/// @title Whether an id that was returned is the one that the logits give (docs/numerics.md, sections 3.10 and 10)
library Choice {
    uint8 private constant GREEDY = 0;
    uint8 private constant SEEDED_BY_REQUEST = 1;
    uint8 private constant SEEDED_BY_CHAIN = 2; // the claim has that seed
    uint32 private constant ALL = 65_536; // topPQ16 that leaves everything

    function isWrong(Context memory context, Claim calldata claim, OutputAccusation calldata accusation)
        external
        pure
        returns (bool)
    {
        uint256 position = uint256(context.inputTokens) + accusation.position;
        // INVARIANT: the id that loses is the one that the receipt binds at this position
        uint256 id = ModelTrees.tokenAt(context, position, accusation.ids);
        if (id != accusation.output) revert IJudge.IdMismatch(accusation.output, id);
        int256 own = _logit(context, accusation.position, accusation.output, accusation.outputLogits);
        int256 rival = _logit(context, accusation.position, accusation.rival, accusation.rivalLogits);
        if (_isSeeded(context, claim)) {
            uint256 number = Gumbel.draw(claim.seed, accusation.position);
            own = Gumbel.key(number, claim.temperatureQ16, accusation.output, own);
            rival = Gumbel.key(number, claim.temperatureQ16, accusation.rival, rival);
        }
        // INVARIANT: of equal keys the lowest id is taken
        return rival > own || (rival == own && accusation.rival < accusation.output);
    }

    function _isSeeded(Context memory context, Claim calldata claim) private pure returns (bool) {
        if (claim.sampler == GREEDY) return false;
        // INVARIANT: nobody is judged by a rule that two logits do not decide
        bool seeded = claim.sampler == SEEDED_BY_REQUEST || claim.sampler == SEEDED_BY_CHAIN;
        if (!seeded) revert IJudge.SamplerWithoutStep(claim.sampler);
        if (claim.temperatureQ16 == 0) return false;
        bool all = claim.topPQ16 == ALL && (claim.topK == 0 || claim.topK >= context.shape.vocabulary);
        if (!all) revert IJudge.SamplerWithoutStep(claim.sampler);
        return true;
    }

    function _logit(Context memory context, uint256 position, uint256 id, Opening calldata opening)
        private
        pure
        returns (int256)
    {
        return TraceTree.elementAt(
            context, TraceTree.logitsOf(context, position, id), id % TraceTree.LOGITS_CHUNK, opening
        );
    }
}
