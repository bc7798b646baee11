"""The game of a dispute with a judge that is told what is wrong: deployed contracts, a tree, and one dispute in as few
words as a test needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from eth_abi import encode
from eth_account.signers.local import LocalAccount

from market.hashing import ZERO32, keccak256, leaf_hash, pack_stop_tokens, pack_tokens, tokens_root
from market.signing import Domain, sign
from market.types import Model, Output, Receipt, Request
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.world import CLIENT, DAY, REPLICAS, STRANGER, World

WINDOW = 3_600
ROOT_FEE = 501
REQUEST_FEE = 303
BOND = 10_000
CHARGED = 1_000
LOGITS_LEAF = 2 << 11 | 1 << 6 | 40  # of id 40, says the toy judge
SHARE_BPS = 3_000
ROUNDS = 6  # the toy judge's five and the payload's
PROVIDER = REPLICAS[0]
OPENER, OTHER = STRANGER, CLIENT
SESSION = keccak256(b"session")
VOCABULARY, CONTEXT = 1_000, 64
SHAPE = (VOCABULARY, CONTEXT, 64, 128, 2, 1, 1, 64, 42, 43, True, 1, 1)
_SHAPE_TYPES = ["uint32"] * 4 + ["uint16"] * 4 + ["uint64"] * 2 + ["bool"] + ["uint8"] * 2
MODEL = Model(
    keccak256(b"weights"),
    keccak256(encode(_SHAPE_TYPES, list(SHAPE))),
    keccak256(b"tables"),
    keccak256(b"tokenizer"),
    keccak256(b"template"),
)
PROMPT = [5, 6, 7]
ANSWER = [11, 12, 13, 2]
STOP = 2

GROUP_BITS, OPERATION_BITS, LEAF_BITS = 2, 7, 13
PAYLOAD_BYTES = 40
OUTSIDE = ((2, 3), (7, 31), (11, 15), (12, 31), (13, 63))  # roots of what is outside, or lies in it
"""Group 3, operation 31 of group 0, and the last four leaves of its operation 0."""
CLAIM_TYPES = [
    "address",
    "bytes32",
    "address",
    *["bytes32"] * 5,
    "uint32",
    "uint32",
    "uint8",
    *["uint32"] * 3,
    "bytes32",
]


def request(**changes: Any) -> Request:
    plain = Request(
        model_id=MODEL.model_id,
        input_root=tokens_root(PROMPT),
        input_tokens=len(PROMPT),
        max_output_tokens=8,
        stop_tokens=pack_stop_tokens([STOP]),
        sampler=0,
        temperature_q16=0,
        top_k=0,
        top_p_q16=0,
        seed=ZERO32,
        nonce=keccak256(b"nonce"),
    )
    return dataclasses.replace(plain, **changes)


class Tree:
    """A trace of the toy judge: 8,192 leaves of 40 bytes, less what is outside.

    Args:
        lie: index of a leaf that a liar changed.
        hidden: a node outside the program that a liar filled.
    """

    def __init__(self, lie: int | None = None, hidden: tuple[int, int] | None = None) -> None:
        self.lie = lie
        leaves = [leaf_hash(self.payload(i)) for i in range(1 << LEAF_BITS)]
        leaves[60:64] = [ZERO32] * 4
        self._levels = {LEAF_BITS: leaves}
        for depth in range(LEAF_BITS, 0, -1):
            level = self._levels[depth]
            if depth == OPERATION_BITS:
                level[31] = ZERO32
            if depth == GROUP_BITS:
                level[3] = ZERO32
            if hidden is not None and hidden[0] == depth:
                level[hidden[1]] = keccak256(b"hidden")
            self._levels[depth - 1] = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]

    def payload(self, index: int) -> bytes:
        label = b"lie" if index == self.lie else b"leaf"
        return (keccak256(label + index.to_bytes(4)) + index.to_bytes(8)).ljust(64, b"\0")

    def node(self, depth: int, index: int) -> bytes:
        return self._levels[depth][index]

    def hashes(self, depth: int, index: int) -> list[bytes]:
        """What a reply shows."""
        levels = levels_at(depth)
        return self._levels[depth + levels][index << levels : (index + 1) << levels]

    def path(self, depth: int, index: int, up: int) -> list[bytes]:
        return [self._levels[depth - i][(index >> i) ^ 1] for i in range(up)]


@cache
def honest() -> Tree:
    return Tree()


def levels_at(depth: int) -> int:
    end = next(bits for bits in (GROUP_BITS, OPERATION_BITS, LEAF_BITS, LEAF_BITS + 1) if bits > depth)
    return 0 if depth == LEAF_BITS else min(5, end - depth)


def above(depth: int) -> int:
    """How far above a node of that depth the next one is whose reply shows it, where all replies are asked for."""
    return next(depth - at for at in (12, 7, 2, 0) if at < depth)


class DisputeWorld(World):
    """Disputes is the arbiter of the jobs, and of sessions whose receipts can be disputed."""

    judge: Contract
    receipts: Contract

    def _deploy_arbiter(self) -> Contract:
        self.judge = self.deploy("ToyJudge")
        self.judge.acceptProgram(SHAPE, [])
        self.judge.acceptTables(MODEL.tables_root, [])
        for depth, index in OUTSIDE:
            self.judge.setOutside(depth, index)
        self.judge.setOutside(13, 60)
        arguments = (self.vault.address, self.judge.address, WINDOW, ROOT_FEE, REQUEST_FEE)
        return self.deploy("Disputes", *arguments)

    def _more_modules(self) -> list[str]:
        self.receipts = self.deploy("ReceiptSubject", self.vault.address, self.arbiter.address)
        return [self.arbiter.address, self.receipts.address]

    @property
    def disputes(self) -> Contract:
        return self.arbiter

    def held_by(self, module: Contract) -> int:
        return int(self.vault.held(module.address, self.token.address))


@dataclass
class Game:
    """One receipt and the dispute about it. Fields can be changed before the dispute is opened."""

    world: DisputeWorld
    request: Request = field(default_factory=request)
    ids: list[int] = field(default_factory=lambda: list(ANSWER))
    prompt: list[int] = field(default_factory=lambda: list(PROMPT))
    finish: int = 1
    index: int = 0
    tree: Tree = field(default_factory=honest)
    packed: bytes | None = None  # the output's ids, where they are not what `ids` packs to
    output_tokens: int | None = None
    model: Model = MODEL

    @property
    def domain(self) -> Domain:
        return Domain(self.world.chain.chain_id, self.world.receipts.address, "Assay Receipts")

    @property
    def output_ids(self) -> bytes:
        return pack_tokens(self.ids) if self.packed is None else self.packed

    @property
    def output(self) -> Output:
        words = [self.output_ids[i : i + 32] for i in range(0, len(self.output_ids) // 32 * 32, 32)]
        count = len(self.ids) if self.output_tokens is None else self.output_tokens
        return Output(root_of(words), count, self.finish)

    @property
    def receipt(self) -> Receipt:
        return self.receipt_for(self.output)

    def receipt_for(self, output: Output, **changes: Any) -> Receipt:
        plain = Receipt(
            subject_id=SESSION,
            index=self.index,
            request_hash=self.request.request_hash,
            output_root=output.output_root,
            output_tokens=output.output_tokens,
            finish=output.finish,
            charged=CHARGED,
            issued_at=1,
        )
        return dataclasses.replace(plain, **changes)

    def signed(self, receipt: Receipt, signer: LocalAccount = PROVIDER) -> bytes:
        kinds = f"({','.join(kind for _, _, kind in Receipt.members())})"
        return encode([kinds, "bytes"], [receipt.values(), sign(self.domain, receipt, signer)])

    @property
    def evidence(self) -> bytes:
        kinds = [kind for _, _, kind in Request.members()]
        return encode(kinds, list(self.request.values())) + self.signed(self.receipt)

    @property
    def subject_id(self) -> bytes:
        return self.domain.digest(self.receipt)

    @property
    def triple(self) -> tuple[str, bytes, str]:
        return self.world.receipts.address, self.subject_id, PROVIDER.address

    @property
    def id(self) -> bytes:
        return keccak256(encode(["address", "bytes32", "address"], list(self.triple)))

    @property
    def claim(self) -> tuple[Any, ...]:
        asked, output = self.request, self.output
        return (
            *self.triple,
            *(self.model.weights_root, self.model.program_root, self.model.tables_root),
            *(asked.input_root, output.output_root, asked.input_tokens, output.output_tokens),
            *(asked.sampler, asked.temperature_q16, asked.top_k, asked.top_p_q16, asked.seed),
        )

    def params(self, **changes: Any) -> tuple[Any, ...]:
        values = {
            "subject": self.triple[0],
            "subjectId": self.triple[1],
            "provider": self.triple[2],
            "request": self.request.values(),
            "proof": self.signed(self.receipt),
            "model": self.model.values(),
            "output": self.output.values(),
            "inputIds": pack_tokens(self.prompt),
            "outputIds": self.output_ids,
            "permit": b"",
        }
        assert values.keys() >= changes.keys()
        return tuple((values | changes).values())

    # --- moves

    def session(self, until: int = DAY) -> Game:
        """Locks the bond that answers for the receipt."""
        receipts, now = self.world.receipts, self.world.chain.now
        receipts.open(SESSION, CLIENT.address, BOND, now + until, sender=PROVIDER.address)
        return self

    def open(self, who: LocalAccount = OPENER, **changes: Any) -> Game:
        self.world.disputes.dispute(self.params(**changes), sender=who.address)
        return self

    def answer_root(self, who: LocalAccount = PROVIDER) -> Game:
        self.world.disputes.answerRoot(self.claim, self.tree.hashes(0, 0), sender=who.address)
        return self

    def node(self, depth: int, index: int, up: int | None = None) -> tuple[Any, ...]:
        path = self.tree.path(depth, index, above(depth) if up is None else up)
        return depth, index, self.tree.node(depth, index), path

    def ask(
        self, depth: int, index: int, who: LocalAccount = OPENER, up: int | None = None, permit: bytes = b""
    ) -> Game:
        self.world.disputes.request(self.claim, self.node(depth, index, up), permit, sender=who.address)
        return self

    def is_leaf(self, depth: int, index: int) -> bool:
        return depth == LEAF_BITS

    def payload(self, depth: int, index: int) -> bytes:
        return self.tree.payload(index)

    def prove_leaf(self, key: tuple[int, int], sender: str) -> None:
        self.world.disputes.prove(self.claim, self.accusation(key[1]), sender=sender)

    def answer(self, depth: int, index: int, who: LocalAccount = PROVIDER) -> Game:
        if self.is_leaf(depth, index):
            payload = self.payload(depth, index)
            self.world.disputes.answerPayload(self.id, depth, index, payload, sender=who.address)
        else:
            self.world.disputes.answerHashes(self.id, depth, index, self.tree.hashes(depth, index), sender=who.address)
        return self

    def descend(self, leaf: int, who: LocalAccount = OPENER) -> Game:
        """Every request and reply on the way down to a leaf, its payload too."""
        return self.descend_to_ask(leaf, who).answer(LEAF_BITS, leaf)

    def descend_to_ask(self, leaf: int, who: LocalAccount = OPENER, depths: tuple[int, ...] = (2, 7, 12)) -> Game:
        """The same, but the payload is not given yet."""
        for depth in depths:
            index = leaf >> (LEAF_BITS - depth)
            self.ask(depth, index, who).answer(depth, index)
        return self.ask(LEAF_BITS, leaf, who)

    def accusation(self, leaf: int, element: int = 0) -> tuple[Any, ...]:
        """(group, operation, row, slot, element, witness, accused, inputs): the slot is the leaf's last six bits."""
        place = (leaf >> 11, (leaf >> 6) & 31, 0, leaf & 63, element, 0)
        return *place, (self.tree.payload(leaf), self.tree.path(LEAF_BITS, leaf, LEAF_BITS)), []

    def mark_wrong(self, leaf: int, element: int = 0) -> None:
        place = self.accusation(leaf, element)[:5]
        self.world.judge.setWrong(keccak256(encode(["uint32"] * 5, list(place))), True)

    def prove(self, leaf: int, who: LocalAccount = OPENER) -> Game:
        self.world.disputes.prove(self.claim, self.accusation(leaf), sender=who.address)
        return self

    def close(self, who: LocalAccount = OTHER) -> None:
        self.world.disputes.close(self.claim, sender=who.address)

    def missed(self, depth: int, index: int, who: LocalAccount = OTHER) -> None:
        self.world.disputes.missed(self.claim, depth, index, sender=who.address)

    @property
    def view(self) -> dict[str, Any]:
        found: dict[str, Any] = self.world.disputes.disputes(self.id)
        return found


@dataclass
class JobGame(Game):
    """The same game about the first replica of a job."""

    job_id: bytes = b""

    @property
    def triple(self) -> tuple[str, bytes, str]:
        return self.world.jobs.address, self.job_id, PROVIDER.address

    def params(self, **changes: Any) -> tuple[Any, ...]:
        return super().params(**{"proof": b"", **changes})


def settled_job(game: JobGame) -> JobGame:
    """Posts a job for what the game asks, and settles it with the game's answer, given by two of three providers."""
    world, right = game.world, game.output
    terms = {"model_id": game.model.model_id, "bond": 50_000}
    job = world.post(3, asked=game.request, terms=terms)
    other = Output(keccak256(b"other"), right.output_tokens, right.finish)
    answers = list(zip(REPLICAS, (right, right, other), strict=False))
    world.commit(job, *answers)
    world.reveal(job, *answers)
    world.settle(job)
    game.job_id = job.id
    return game


def root_of(words: list[bytes]) -> bytes:
    """Tokens root of words that may be in no canonical form."""
    if not words:
        return ZERO32
    level = [leaf_hash(word) for word in words]
    level += [ZERO32] * ((1 << (len(level) - 1).bit_length()) - len(level))
    while len(level) > 1:
        level = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def accuse_rival(game: Game) -> tuple[Any, ...]:
    """That id 40 beats id 12 at position 3."""
    opening = (game.tree.payload(LOGITS_LEAF), game.tree.path(LEAF_BITS, LOGITS_LEAF, LEAF_BITS))
    return 3, 12, 40, (b"", []), (b"", []), opening


def prove_output(game: Game, who: LocalAccount = OTHER) -> None:
    game.world.disputes.proveOutput(game.claim, accuse_rival(game), sender=who.address)


def prove_outside(game: Game, depth: int, index: int, up: int, who: LocalAccount = OTHER) -> None:
    game.world.disputes.proveOutside(game.claim, game.node(depth, index, up), sender=who.address)
