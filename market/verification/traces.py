"""Traces of claims about models that this machine has. The last one stays in memory: docs/disputes.md says how much."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from market.errors import MarketError
from market.hashing import tokens_root, unpack_stop_tokens
from market.inference.engine import Engine, load_engine
from market.inference.sampling import Sampling
from market.models.pack import Pack
from market.types import Model, Output, Request
from market.verification.challenger import Challenger
from market.verification.model_trees import ModelTrees
from market.verification.products import Products
from market.verification.step import Step
from market.verification.structs import Claim, LayerFormat, Shape
from market.verification.trace import Trace

KEPT = 1


class ModelNotHere(MarketError):
    """The claim is about a model whose pack is not on this machine."""


class Traces:
    """See the module. Not for several threads at once; nor are the traces.

    Args:
        packs: the models that traces can be made of.
        kept: traces in memory at once.
    """

    def __init__(self, packs: Iterable[Pack], kept: int = KEPT) -> None:
        self._packs = {(p.roots.weights_root, p.roots.program_root, p.roots.tables_root): p for p in packs}
        self._kept = kept
        self._trees: dict[tuple[bytes, bytes, bytes], ModelTrees] = {}
        self._products: dict[tuple[bytes, bytes, bytes], Products] = {}
        self._traces: OrderedDict[Claim, Trace] = OrderedDict()
        self._engines: dict[tuple[bytes, bytes, bytes], Engine] = {}

    def knows(self, claim: Claim | Model) -> bool:
        """Whether the claim's model is here."""
        return _roots(claim) in self._packs

    def answer(
        self, model: Model, request: Request, input_ids: Sequence[int], chain_seed: bytes | None = None
    ) -> tuple[Output, tuple[int, ...]]:
        """What the model answers to a request, generated here: for where nobody's answer is known to be right.

        Args:
            chain_seed: as for `Sampling.of`.

        Raises:
            ModelNotHere. PromptError, SamplingError: the request is none that the model can answer.
        """
        pack, sampling = self.pack(model), Sampling.of(request, chain_seed)
        if _roots(model) not in self._engines:
            self._engines.clear()  # each holds its weights' products
            self._engines[_roots(model)] = load_engine(pack)
        made = self._engines[_roots(model)].generate(
            input_ids, request.max_output_tokens, unpack_stop_tokens(request.stop_tokens), sampling=sampling
        )
        return Output(tokens_root(made.ids), len(made.ids), made.finish), made.ids

    def pack(self, claim: Claim | Model) -> Pack:
        """The claim's model. Raises ModelNotHere."""
        pack = self._packs.get(_roots(claim))
        if pack is None:
            raise ModelNotHere(
                f"The dispute is about a model that is not here (weights 0x{claim.weights_root.hex()[:16]}…).",
                hint="Nothing was sent. Name the folder of the model's pack with --pack.",
                weights_root="0x" + claim.weights_root.hex(),
            )
        return pack

    def trace(self, claim: Claim, input_ids: Sequence[int], output_ids: Sequence[int]) -> Trace:
        """The trace that this side stands for; computed when something of it is asked for. Raises ModelNotHere."""
        if claim not in self._traces:
            pack = self.pack(claim)
            while len(self._traces) >= self._kept:
                self._traces.popitem(last=False)
            products = self._products.get(_roots(claim))
            if products is None:  # tested where a trace is first wanted: an agent that nobody disputes need not wait
                products = self._products[_roots(claim)] = Products.proved(pack.model)
            self._traces[claim] = self._make(pack, input_ids, output_ids, products)
        self._traces.move_to_end(claim)
        return self._traces[claim]

    def challenger(self, claim: Claim, input_ids: Sequence[int], output_ids: Sequence[int]) -> Challenger:
        """An honest challenger of the claim. Raises ModelNotHere."""
        pack = self.pack(claim)
        trees = self._trees.get(_roots(claim))
        if trees is None:
            trees = self._trees[_roots(claim)] = ModelTrees(pack.model, Shape.of(pack.program))
        step = Step(Shape.of(pack.program), LayerFormat.all_of(pack.program))
        return Challenger(claim, self.trace(claim, input_ids, output_ids), trees, step)

    def forget(self) -> None:
        """Lets go of every trace."""
        self._traces.clear()

    def _make(self, pack: Pack, input_ids: Sequence[int], output_ids: Sequence[int], products: Products) -> Trace:
        return Trace(pack.model, Shape.of(pack.program), input_ids, output_ids, products=products)


def _roots(claim: Claim | Model) -> tuple[bytes, bytes, bytes]:
    return claim.weights_root, claim.program_root, claim.tables_root
