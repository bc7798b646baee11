import pytest

from client.matching import LeftOut
from client.quotes import verify_quote
from client.selection import VerifiedQuote
from client.signatures import SignatureChecker
from market.chain import Call
from market.hashing import keccak256
from market.signing import Domain, sign
from market.types import ZERO_ADDRESS
from tests.unit.client.examples import DOMAIN, NOW, account, candidate, quote, signed, wanted


def test_quote_that_keeps_every_rule_is_verified_with_its_price() -> None:
    result = verify_quote(*signed(1), candidate(1), wanted(), now=NOW, latency_ms=7)
    assert isinstance(result, VerifiedQuote)
    assert (result.price, result.latency_ms, result.digest) == (45, 7, DOMAIN.digest(quote(1)))


@pytest.mark.parametrize("change", [{"client": ZERO_ADDRESS}, {"request_hash": bytes(32)}])
def test_quote_for_anyone_or_any_request_is_verified(change) -> None:
    assert isinstance(verify_quote(*signed(1, **change), candidate(1), wanted(), now=NOW, latency_ms=1), VerifiedQuote)


@pytest.mark.parametrize(
    ("change", "constraint", "words"),
    [
        ({"client": account(9).address}, "quote_mismatch", "another client"),
        ({"model_id": keccak256(b"other")}, "quote_mismatch", "another modelId"),
        ({"request_hash": keccak256(b"other")}, "quote_mismatch", "another requestHash"),
        ({"mode": 0}, "quote_mismatch", "another mode"),
        ({"token": ZERO_ADDRESS}, "token", "jobs are paid in 0x3333"),
        ({"valid_until": NOW + 9}, "quote_expired", f"ends at {NOW + 9}"),
        ({"max_input_tokens": 2}, "quote_limit", "maxInputTokens 2, the request has 3"),
        ({"max_output_tokens": 15}, "quote_limit", "maxOutputTokens 15, the request has 16"),
        ({"bond": 64}, "bond", "bond of 64 is below the 65"),
        ({"max_output_tokens": 17}, "bond", "below the 68"),
        ({"kill_fee": 10}, "kill_fee", "kill fee of 10 exceeds 9, 20 % of its price"),
        ({"miss_fee": 44}, "miss_fee", "not between the price of 45 and the bond of 65"),
        ({"miss_fee": 66}, "miss_fee", "not between the price of 45 and the bond of 65"),
        ({"bond": 1_000_001}, "stake", "does not cover the quoted bond"),
    ],
)
def test_quote_that_breaks_one_rule_is_refused_with_the_numbers(change, constraint, words) -> None:
    result = verify_quote(*signed(1, **change), candidate(1), wanted(), now=NOW, latency_ms=1)
    assert isinstance(result, LeftOut)
    assert (result.stage, result.constraint) == ("negotiation", constraint)
    assert words in result.message


def test_quote_of_another_provider_is_refused() -> None:
    result = verify_quote(*signed(2), candidate(1), wanted(), now=NOW, latency_ms=1)
    assert isinstance(result, LeftOut)
    assert result.constraint == "quote_provider"


@pytest.mark.parametrize(
    "domain",
    [Domain(1, DOMAIN.verifying_contract), Domain(31337, account(8).address), Domain(31337, account(8).address, "x")],
)
def test_quote_signed_for_another_chain_or_contract_is_refused_by_name(domain: Domain) -> None:
    result = verify_quote(*signed(1, domain=domain), candidate(1), wanted(), now=NOW, latency_ms=1)
    assert isinstance(result, LeftOut)
    assert result.constraint == "signature"
    assert "not signed by it for chain 31337 and contract 0x4444" in result.message


def test_quote_above_the_cap_is_refused() -> None:
    result = verify_quote(*signed(1), candidate(1), wanted(max_price=44), now=NOW, latency_ms=1)
    assert isinstance(result, LeftOut)
    assert "it quotes 45 base units, the cap is 44" in result.message


def test_quote_used_before_is_refused() -> None:
    used = wanted(is_used=lambda digest: digest == DOMAIN.digest(quote(1)))
    result = verify_quote(*signed(1), candidate(1), used, now=NOW, latency_ms=1)
    assert isinstance(result, LeftOut)
    assert result.constraint == "quote_used"


class ContractAccount:
    """A chain on which every account is an ERC-1271 contract that answers `answer`."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def code(self, address: str) -> bytes:
        return b"\x60"

    def call(self, call: Call) -> bytes:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "accepted"), [(bytes.fromhex("1626ba7e") + bytes(28), True), (bytes(32), False), (b"", False)]
)
def test_quote_of_a_contract_account_is_judged_by_the_contract(answer: bytes, accepted: bool) -> None:
    checker = SignatureChecker(DOMAIN, ContractAccount(answer))
    foreign = sign(DOMAIN, quote(1), account(5))
    result = verify_quote(quote(1), foreign, candidate(1), wanted(signatures=checker), now=NOW, latency_ms=1)
    assert isinstance(result, VerifiedQuote) is accepted
