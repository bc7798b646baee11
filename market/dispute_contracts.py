"""Typed clients of the game about an answer and of what it re-executes steps with (docs/disputes.md, sections 3 and 4).

Views ask the chain; writes only build a `Call` for market.transactions to send, as in market.contracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from eth_utils.address import to_checksum_address

from market.chain import Call
from market.contracts import BlockTag, Contract
from market.hashing import pack_tokens
from market.types import Model, Output, Request
from market.verification.geometry import Node
from market.verification.structs import Accusation, Claim, LayerFormat, OutputAccusation, Shape


@dataclass(frozen=True)
class DisputeParams:
    """Everything `Disputes.dispute` needs. `proof`: what the subject wants to see beside the request (b"" for a job);
    `permit`: b"" (credit or allowance pays the root's fee) or `Token.permit`'s bytes.
    """

    subject: str
    subject_id: bytes
    provider: str
    request: Request
    model: Model
    output: Output
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    proof: bytes = b""
    permit: bytes = b""

    def values(self) -> tuple[Any, ...]:
        return (
            self.subject,
            self.subject_id,
            self.provider,
            self.request.values(),
            self.proof,
            self.model.values(),
            self.output.values(),
            pack_tokens(self.input_ids),
            pack_tokens(self.output_ids),
            self.permit,
        )


class Disputes(Contract):
    """The game about one answer: show what you computed until somebody shows what is wrong with it."""

    artefact_name = "Disputes"

    # ------------------------------------------------------------------------------------------------------- moves

    def dispute(self, params: DisputeParams) -> Call:
        """Opens the dispute about an answer and prepays the root; an answer of a forbidden length is judged at once."""
        return self._write("dispute", params.values())

    def contradict(self, subject: str, subject_id: bytes, provider: str, evidence: bytes, contradiction: bytes) -> Call:
        """Shows that the provider signed another output for the same request: guilty at once."""
        return self._write("contradict", subject, subject_id, provider, evidence, contradiction)

    def answer_root(self, claim: Claim, hashes: Sequence[bytes]) -> Call:
        """Gives the root of the trace, once and for ever; only the provider's key."""
        return self._write("answerRoot", claim.values(), list(hashes))

    def request(self, claim: Claim, node: Node, node_hash: bytes, path: Sequence[bytes], permit: bytes = b"") -> Call:
        """Asks for a node, for the request fee. `path`: siblings up to a node that was answered, lowest first."""
        return self._write("request", claim.values(), (node.depth, node.index, node_hash, list(path)), permit)

    def answer_hashes(self, dispute_id: bytes, node: Node, hashes: Sequence[bytes]) -> Call:
        """Answers the request of an inner node."""
        return self._write("answerHashes", dispute_id, node.depth, node.index, list(hashes))

    def answer_payload(self, dispute_id: bytes, node: Node, payload: bytes) -> Call:
        """Answers the request of a leaf."""
        return self._write("answerPayload", dispute_id, node.depth, node.index, payload)

    def prove(self, claim: Claim, accusation: Accusation) -> Call:
        """Proves an element of a leaf wrong."""
        return self._write("prove", claim.values(), accusation.values())

    def prove_output(self, claim: Claim, accusation: OutputAccusation) -> Call:
        """Proves that another id beats the one that was returned."""
        return self._write("proveOutput", claim.values(), accusation.values())

    def prove_outside(self, claim: Claim, node: Node, node_hash: bytes, path: Sequence[bytes]) -> Call:
        """Proves that a node outside the program is not EMPTY."""
        return self._write("proveOutside", claim.values(), (node.depth, node.index, node_hash, list(path)))

    def missed(self, claim: Claim, node: Node) -> Call:
        """Says that a reply is overdue: guilty."""
        return self._write("missed", claim.values(), node.depth, node.index)

    def close(self, claim: Claim) -> Call:
        """Ends a dispute in which every request was answered and nothing was proved: not guilty."""
        return self._write("close", claim.values())

    def expire(self, dispute_id: bytes) -> Call:
        """Ends a dispute whose subject took no verdict; the prepayments go back."""
        return self._write("expire", dispute_id)

    def refund(self, dispute_id: bytes, payer: str) -> Call:
        """Returns what `payer` prepaid, once the provider was found guilty or the dispute expired."""
        return self._write("refund", dispute_id, payer)

    def multicall(self, calls: Sequence[Call]) -> Call:
        """Several moves in one transaction, all or none."""
        if len(calls) == 1:
            return calls[0]
        call = self._write("multicall", [call.data for call in calls])
        names = sorted({call.label.rpartition(".")[2] for call in calls})
        return Call(call.to, call.data, f"{call.label} of {len(calls)} ({', '.join(names)})")

    # ------------------------------------------------------------------------------------------------------- views

    def dispute_id(self, subject: str, subject_id: bytes, provider: str) -> bytes:
        """The id of the one dispute that there can be about an answer."""
        return cast(bytes, self._read("disputeIdOf", subject, subject_id, provider))

    def prepaid_by(self, dispute_id: bytes, payer: str, block: BlockTag = "latest") -> int:
        """Base units that `payer` prepaid and has not got back."""
        return cast(int, self._read("prepaidBy", dispute_id, payer, block=block))

    def can_judge(self, model: Model, request: Request) -> bool:
        """Whether any wrong answer to the request by this model can be proved wrong."""
        return bool(self._read("canJudge", model.values(), request.values()))

    def vault(self) -> str:
        return str(to_checksum_address(self._read("vault")))

    def judge(self) -> str:
        """Address of what re-executes the steps."""
        return str(to_checksum_address(self._read("judge")))

    def reply_window(self) -> int:
        """Seconds in which a provider must reply."""
        return cast(int, self._read("replyWindow"))

    def root_fee(self) -> int:
        """Base units of the stake token that opening a dispute prepays."""
        return cast(int, self._read("rootFee"))

    def request_fee(self) -> int:
        """Base units of the stake token that a request prepays."""
        return cast(int, self._read("requestFee"))

    def expiry_window(self) -> int:
        """Seconds after its end from which a dispute without a verdict can be expired."""
        return cast(int, self._read("EXPIRY_WINDOW"))


class Judge(Contract):
    """Knows programs and re-executes single elements of their traces."""

    artefact_name = "Judge"

    def implements_program(self, program_root: bytes) -> bool:
        return bool(self._read("implementsProgram", program_root))

    def accepts_tables(self, program_root: bytes, tables_root: bytes) -> bool:
        """Whether the program is known, and the tables are accepted and as deep as the program's."""
        return bool(self._read("acceptsTables", program_root, tables_root))

    def accept_program(self, shape: Shape, layers: Sequence[LayerFormat]) -> Call:
        """Anyone, once: the judge computes the program's root and remembers it."""
        return self._write("acceptProgram", shape.values(), [layer.values() for layer in layers])

    def accept_tables(self, tables_root: bytes, path: Sequence[bytes]) -> Call:
        """Anyone, once. path: siblings of the node above leaves 0 and 1, lowest first."""
        return self._write("acceptTables", tables_root, list(path))

    def is_wrong_call(self, claim: Claim, root: bytes, accusation: Accusation) -> Call:
        """`is_wrong` as a call, for measuring its gas."""
        return self._write("isWrong", claim.values(), root, accusation.values())

    def is_output_wrong_call(self, claim: Claim, root: bytes, accusation: OutputAccusation) -> Call:
        """`is_output_wrong` likewise."""
        return self._write("isOutputWrong", claim.values(), root, accusation.values())

    def is_wrong(self, claim: Claim, root: bytes, accusation: Accusation) -> bool:
        """Whether the accused element differs from what its inputs give. Raises ContractError for a bad opening."""
        return bool(self._read("isWrong", claim.values(), root, accusation.values()))

    def is_output_wrong(self, claim: Claim, root: bytes, accusation: OutputAccusation) -> bool:
        """Whether the rival beats the id that was returned. Raises ContractError for a bad opening."""
        return bool(self._read("isOutputWrong", claim.values(), root, accusation.values()))
