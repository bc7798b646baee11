"""Bad input loses no money: each ends with an error in words, before anything is posted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client import Client, JobOptions
from client.errors import (
    BadRequest,
    EmptyPrompt,
    InsufficientFunds,
    NoAllowance,
    NotConfirmed,
    NotEnoughProviders,
    PriceAboveCap,
)
from client.escrow import EscrowSource, plan_escrow
from client.posting import QuotesExpired
from market.chain import Call
from market.deployment import Deployment
from market.errors import AssayError, ChainError, ChainUnreachable, ConfigError, ContractError, WrongChain
from market.index import UnknownModel
from market.keystore import WrongPassword
from market.types import Mode
from tests.integration.client.conftest import UNUSED_ACCOUNT, Connect, Town

PROMPT = "the cat sat"


@contextmanager
def nothing_is_spent(client: Client) -> Iterator[None]:
    """No job was posted and every pot is as full as before."""
    jobs = client.marketplace.jobs

    def state() -> tuple[object, ...]:
        balance = client.balance()
        return jobs.client_nonce(client.address), balance.wallet, balance.credit, balance.escrowed, balance.gas_wei

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt": "x", "model": "nope"}, UnknownModel, "'nope'"),
        ({"prompt": "x", "model": "0x" + "ab" * 32}, UnknownModel, "abab"),
        ({"prompt": " \n"}, EmptyPrompt, "The prompt is empty"),
        ({"messages": []}, EmptyPrompt, "The prompt is empty"),
        ({"ids": []}, EmptyPrompt, "The prompt is empty"),
        ({"prompt": "x", "ids": [1]}, BadRequest, "only one of them"),
        ({"messages": [{"role": "robot", "content": "x"}]}, BadRequest, "system, user or assistant"),
        ({"prompt": "x" * 300_000}, BadRequest, "Shorten the prompt"),
        ({"prompt": "x " * 3000}, BadRequest, "the model holds"),
        ({"ids": [1, 2, 10**6]}, BadRequest, "outside the model's vocabulary"),
        ({"prompt": "x", "max_output_tokens": 10**6}, BadRequest, "the model holds"),
        ({"prompt": "x", "max_output_tokens": 0}, BadRequest, "takes 1 to"),
        ({"prompt": "x", "replicas": 3, "quorum": 1}, BadRequest, "2k > n"),
        ({"prompt": "x", "replicas": 8, "quorum": 5}, BadRequest, "≤ 7"),
        ({"prompt": "x", "mode": Mode.PROOF}, BadRequest, "job classify"),
        ({"prompt": "x", "commit_window": 29}, BadRequest, "not between 30"),
        ({"prompt": "x", "max_price": 1}, NotEnoughProviders, "the cap is 1"),
        ({"prompt": "x", "max_escrow": 1}, PriceAboveCap, "the cap is 1"),
        ({"prompt": "x", "labels": frozenset({"moon"})}, NotEnoughProviders, "lacks the labels moon"),
        ({"prompt": "x", "allow": frozenset({"0x" + "11" * 20})}, NotEnoughProviders, "not on the allow list"),
    ],
)
def test_job_that_cannot_be_bought_is_refused_in_words(client: Client, changes, error, words) -> None:
    with nothing_is_spent(client), pytest.raises(error) as caught:
        client.run(**changes)
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code in (2, 5)


def test_job_without_enough_providers_names_why_each_was_left_out(client: Client, town: Town) -> None:
    deny = frozenset(town.providers[:2])
    with nothing_is_spent(client), pytest.raises(NotEnoughProviders) as caught:
        client.run(PROMPT, replicas=5, quorum=3, deny=deny, max_output_tokens=4)
    left_out = {item["provider"]: item["constraint"] for item in caught.value.details["left_out"]}
    assert left_out == dict.fromkeys((address.lower() for address in deny), "deny")


def test_quote_explains_who_was_left_out_and_moves_nothing(client: Client, town: Town) -> None:
    options = JobOptions(allow=frozenset(town.honest), replicas=2, quorum=2, max_output_tokens=4)
    with nothing_is_spent(client):
        report = client.quote(PROMPT, options=options)
    assert len(report.chosen) == 2
    assert report.escrow == sum(quote.price for quote in report.chosen)
    reasons = {item.provider: item.constraint for item in report.left_out}
    assert [reasons[address] for address in town.providers[3:]] == ["allow"] * 2
    assert [reason for address, reason in reasons.items() if address in town.honest] == ["score"]
    again = client.quote(PROMPT, options=dataclasses.replace(options, selection_seed=report.selection_seed))
    assert again.selection_seed == report.selection_seed


def test_job_that_nobody_confirms_is_not_posted(client: Client) -> None:
    with nothing_is_spent(client), pytest.raises(NotConfirmed):
        client.run(PROMPT, max_output_tokens=4, confirm=lambda report: False)


def test_job_with_expired_quotes_is_not_posted(client: Client, town: Town) -> None:
    offered = client.negotiate(PROMPT, max_output_tokens=4)
    town.pass_time(120)
    # the client's idea of the chain's time may be a second old: then the contract notices
    with nothing_is_spent(client), pytest.raises((ContractError, QuotesExpired), match="Nothing was") as caught:
        client.run(offered=offered)
    assert caught.value.code in ("QuoteExpired", "QuotesExpired")
    time.sleep(1.1)
    with nothing_is_spent(client), pytest.raises(QuotesExpired, match="Nothing was spent"):
        client.run(offered=offered)


def test_job_of_an_account_without_tokens_is_refused_with_the_numbers(connect: Connect, town: Town) -> None:
    poor = connect(account=town.network.anvil.accounts[UNUSED_ACCOUNT])
    with (
        nothing_is_spent(poor),
        pytest.raises(InsufficientFunds, match="has 0 of credit and 0 in its wallet") as caught,
    ):
        poor.run(PROMPT, max_output_tokens=4)
    assert caught.value.exit_code == 3
    assert poor.list() == []


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (EscrowSource.ALLOWANCE, NoAllowance, "may take 0 base units"),
        (EscrowSource.CREDIT, InsufficientFunds, "your credit in the vault is"),
    ],
)
def test_job_whose_escrow_cannot_be_taken_that_way_is_refused(client: Client, source, error, words) -> None:
    with nothing_is_spent(client), pytest.raises(error) as caught:
        client.run(PROMPT, max_output_tokens=4, escrow=source)
    assert words in str(caught.value)


def test_escrow_is_taken_from_credit_then_allowance_then_permit(client: Client) -> None:
    place, account = client.marketplace, client._account
    assert account is not None
    assert client.wallet is not None
    now = place.clock.now()
    credit = place.vault.credit(place.token.address, account.address)

    def plan(amount: int, source: EscrowSource = EscrowSource.AUTO):  # type: ignore[no-untyped-def]
        return plan_escrow(place.token, place.vault, account, amount, now=now, source=source)

    assert (plan(credit + 5).source, plan(credit + 5).missing) == ("permit", 5)
    client.wallet.send(place.token.approve(place.vault.address, 5))
    assert plan(credit + 5).source == "allowance"
    assert plan(credit + 6).source == "permit"
    assert len(plan(credit + 5, EscrowSource.PERMIT).permit) == 160
    client.wallet.send(place.vault.deposit(place.token.address, account.address, 5))
    assert plan(credit + 5).source == "credit"
    assert plan(credit + 5).permit == b""


def test_escrow_of_a_token_without_permits_is_approved_to_the_unit(client: Client) -> None:
    place, account = client.marketplace, client._account
    assert account is not None
    amount = place.vault.credit(place.token.address, account.address) + 7

    class Plain(type(place.token)):  # type: ignore[misc]
        """A token whose permit functions answer with nothing, as a plain ERC-20 does."""

        def nonce(self, owner: str) -> int:
            self.chain.call(Call(place.vault.address, b"\1\2\3\4", "Token.nonces"))
            raise AssertionError("the vault has no such function")

    plain = Plain(place.chain, place.token.address)
    found = plan_escrow(plain, place.vault, account, amount, now=place.clock.now())
    assert found.source == "approval"
    assert found.approval == place.token.approve(place.vault.address, 7)
    with pytest.raises(NoAllowance, match="no ERC-2612 permit"):
        plan_escrow(plain, place.vault, account, amount, now=1, source=EscrowSource.PERMIT)


def test_client_on_a_dead_chain_says_so(connect: Connect) -> None:
    with pytest.raises(ChainUnreachable, match=r"No answer from the chain at http://127\.0\.0\.1:1"):
        connect(rpc_url="http://127.0.0.1:1")


def test_client_on_another_chain_than_the_manifest_says_so(connect: Connect, town: Town) -> None:
    manifest = dataclasses.replace(Deployment.load(Path(town.info.deployment)), chain_id=1)
    with pytest.raises(WrongChain, match="serves chain 31337"):
        connect(deployment=manifest)


def test_client_on_contracts_that_are_not_the_manifest_s_says_so(connect: Connect, town: Town) -> None:
    manifest = Deployment.load(Path(town.info.deployment))
    with pytest.raises(ChainError, match="not the jobs of the manifest"):
        connect(deployment=dataclasses.replace(manifest, jobs=manifest.vault))


def test_client_with_a_wrong_password_says_so(connect: Connect, town: Town) -> None:
    with pytest.raises(WrongPassword, match="does not open"):
        connect(account=None, keystore=Path(town.info.client_keystore), password="not this one")


def test_client_without_a_key_looks_but_does_not_spend(connect: Connect, town: Town) -> None:
    looking = connect(account=None, address=town.info.client)
    assert looking.quote(PROMPT, max_output_tokens=4).escrow > 0
    assert looking.balance().wallet > 0
    for action in (lambda: looking.run(PROMPT), looking.withdraw, lambda: looking.cancel(b"\1" * 32)):
        with pytest.raises(AssayError, match="key"):
            action()


def test_client_in_a_folder_that_cannot_be_written_says_so(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be used"):
        connect(tmp_path / "file")


def test_withdrawal_of_more_than_the_credit_is_refused_with_the_numbers(client: Client) -> None:
    credit = client.balance().credit
    with nothing_is_spent(client), pytest.raises(InsufficientFunds, match=f"is {credit} base units, less than"):
        client.withdraw(credit + 1)


def test_output_is_not_served_to_anybody_else(client: Client, connect: Connect, town: Town) -> None:
    result = client.run(PROMPT, options=JobOptions(allow=frozenset(town.honest), max_output_tokens=4))
    stranger = connect(account=town.network.anvil.accounts[UNUSED_ACCOUNT])
    seen = stranger.watch(result.job_id)
    assert seen.settled
    assert (seen.answer, seen.ids) == (None, ())
    assert seen.problems
    assert seen.exit_code == 4
