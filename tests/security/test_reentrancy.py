"""At every call that leaves the contracts, whoever is called tries every function that changes anything.

What leaves: the token's `transferFrom` and `permit` (deposit, fund, and so post), its `transfer` (withdraw), and a
wallet's `isValidSignature` (post), which is a static call. The token swallows what its attempt met with, so the outer
call goes on as if nothing had happened; a token that hands the revert on is in tests/unit/contracts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from market.hashing import keccak256, pack_tokens, tokens_root
from market.types import Mode, Output
from tests.security.money import EVERYBODY, books, owed
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, INPUT, REPLICAS, STAKE, World, answer, pack_permit, salt_of

A = CLIENT.address
RIGHT = answer()
IDS = [5, 6, 7, 2]
GUARDED = keccak256(b"ReentrancyGuardReentrantCall()")[:4]
VAULT = ("deposit", "withdraw", "stake", "requestUnstake", "finishUnstake", "fund", "bond", "pay", "unbond", "forfeit")
JOBS = ("post", "commit", "cancel", "settle", "releaseBond", "demandReveal", "publishOutput", "slashWithheld")
OUTER = ("deposit", "withdraw", "post", "post by permit")


@dataclass
class Scene:
    """A market in a token that calls back; a puppet is client, provider and (beside Jobs) a module."""

    world: World
    puppet: Contract

    @property
    def owners(self) -> tuple[str, ...]:
        return (*EVERYBODY, self.puppet.address)

    def attempt(self, target: Contract, function: str, *arguments: object) -> None:
        """From now on every transfer and permit makes the puppet try this."""
        inner = target.encode(function, *arguments)
        call = self.puppet.encode("run", target.address, inner)
        self.world.token.setAttempt(self.puppet.address, call, sender=A)

    def run(self, target: Contract, function: str, *arguments: object) -> None:
        self.puppet.run(target.address, target.encode(function, *arguments), sender=A)


@pytest.fixture(scope="module")
def stage() -> Scene:
    world = World(token="CallbackToken")
    puppet = world.deploy("Puppet")
    # the same market once more, with the puppet as a second module
    listed = [(world.token.address, 10**15)]
    world.vault = world.deploy("Vault", A, world.token.address, world.vault.unbondingWindow(), listed)
    world.jobs = world.deploy("Jobs", *world.jobs_arguments())
    world.domain = type(world.domain)(world.chain.chain_id, world.jobs.address)
    world.vault.seal([world.jobs.address, puppet.address], sender=A)
    scene = Scene(world, puppet)
    for owner in (A, *(p.address for p in REPLICAS[:3])):
        world.token.approve(world.vault.address, 10**9, sender=owner)
        world.token.mint(owner, 10**9, sender=owner)
        world.vault.deposit(world.token.address, owner, STAKE, sender=owner)
    for provider in REPLICAS[:3]:
        world.vault.stake(STAKE, sender=provider.address)
    world.token.mint(puppet.address, 10**9, sender=A)
    scene.run(world.token, "approve", world.vault.address, 10**9)
    scene.run(world.vault, "deposit", world.token.address, puppet.address, 10**6)
    scene.run(world.vault, "stake", 10**5)
    scene.run(world.vault, "requestUnstake", 10)
    scene.run(world.vault, "bond", puppet.address, 1_000)
    world.chain.now += world.vault.unbondingWindow()
    return scene


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    assert isinstance(stage.world.chain, RevmChain)
    with stage.world.chain.undone():
        yield stage


def try_vault(scene: Scene, function: str) -> None:
    """A call that would succeed if it were not made in the middle of another."""
    me, token = scene.puppet.address, scene.world.token.address
    arguments: dict[str, tuple[object, ...]] = {
        "deposit": (token, me, 5),
        "withdraw": (token, me, 5),
        "stake": (5,),
        "requestUnstake": (5,),
        "finishUnstake": (me,),
        "fund": (token, me, 5, b""),
        "bond": (me, 5),
        "pay": (token, me, 5),
        "unbond": (me, 5),
        "forfeit": (me, 5),
    }
    scene.attempt(scene.world.vault, function, *arguments[function])


def try_jobs(scene: Scene, function: str) -> None:
    world, me = scene.world, scene.puppet.address
    if function in ("demandReveal", "publishOutput", "slashWithheld"):
        try_demand(scene, function)
        return
    if function == "releaseBond":
        # its window is over, its bond is still there
        job = world.settled(RIGHT, RIGHT, RIGHT)
        world.chain.now += 86_401
        scene.attempt(world.jobs, "releaseBond", job.id, REPLICAS[0].address)
        return
    quotes = [world.signed(world.quote(p)) for p in REPLICAS[:2]]
    quotes.append((world.quote(REPLICAS[2], provider=me).values(), b""))
    params = world.params(quotes)
    if function == "post":
        scene.attempt(world.jobs, "post", params)
        return
    nonce = world.jobs.clientNonce(me)
    scene.run(world.jobs, "post", params)
    job_id = world.jobs.jobIdOf(me, nonce)
    if function == "settle":
        for provider in REPLICAS[:2]:
            world.jobs.commit(job_id, keccak256(b"junk"), sender=provider.address)
        world.chain.now += 200
        scene.attempt(world.jobs, "settle", job_id)
    elif function == "commit":
        scene.attempt(world.jobs, "commit", job_id, keccak256(b"c"))
    else:
        scene.attempt(world.jobs, "cancel", job_id)


def try_demand(scene: Scene, function: str) -> None:
    """About the answer of a job between the client and the puppet alone."""
    world, me = scene.world, scene.puppet.address
    output = Output(tokens_root(IDS), len(IDS), 1)
    quote = world.quote(REPLICAS[0], provider=me, mode=Mode.NONE)
    ids = pack_tokens(INPUT)
    params = world.params([(quote.values(), b"")], mode=Mode.NONE, quorum=1, inline=ids)
    job_id = world.jobs.post(params, sender=A)
    commitment = world.jobs.hashCommitment(job_id, me, output.output_hash, bytes(32))
    scene.run(world.jobs, "commit", job_id, commitment)
    scene.run(world.jobs, "reveal", job_id, output.values(), bytes(32))
    world.jobs.settle(job_id, sender=A)
    if function == "demandReveal":
        scene.attempt(world.jobs, "demandReveal", job_id, me, b"")
        return
    world.jobs.demandReveal(job_id, me, b"", sender=A)
    if function == "publishOutput":
        scene.attempt(world.jobs, "publishOutput", job_id, pack_tokens(IDS))
        return
    world.chain.now += world.jobs.demandWindow() + 1
    scene.attempt(world.jobs, "slashWithheld", job_id, me)


def call_outer(scene: Scene, outer: str) -> None:
    world = scene.world
    if outer == "deposit":
        world.vault.deposit(world.token.address, A, 50, sender=A)
    elif outer == "withdraw":
        world.vault.withdraw(world.token.address, A, 50, sender=A)
    else:
        # nothing in credit, so that the token is called
        world.vault.withdraw(world.token.address, A, world.credit(A), sender=A)
        permit = pack_permit((10**8, 0, 27, bytes(32), bytes(32))) if outer == "post by permit" else b""
        world.jobs.post(world.params([world.quote(p) for p in REPLICAS[:3]], permit=permit), sender=A)


def changes(scene: Scene, outer: str) -> dict[str, int]:
    """What the outer call changes of everybody's money."""
    vault = scene.world.vault
    before = books(vault, scene.owners)
    call_outer(scene, outer)
    after = books(vault, scene.owners)
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", [*VAULT, *JOBS])
def test_call_in_the_middle_of_another_is_refused_and_changes_nothing(scene: Scene, outer: str, inner: str) -> None:
    (try_vault if inner in VAULT else try_jobs)(scene, inner)
    chain, token = scene.world.chain, scene.world.token
    assert isinstance(chain, RevmChain)
    with chain.undone():
        token.setAttempt("0x" + "00" * 20, b"", sender=A)
        undisturbed = changes(scene, outer)
    assert changes(scene, outer) == undisturbed
    assert (token.ok(), token.answer()) == (False, GUARDED)
    assert owed(scene.world.vault, token.address, scene.owners) == scene.world.vault.total(token.address)
    assert token.balanceOf(scene.world.vault.address) == scene.world.vault.total(token.address)


@pytest.mark.parametrize("inner", VAULT)
def test_the_same_vault_call_on_its_own_succeeds(scene: Scene, inner: str) -> None:
    """So that the refusals above are the guard's and nothing else's."""
    try_vault(scene, inner)
    scene.world.token.transfer(A, 0, sender=A)
    assert scene.world.token.ok()


@pytest.mark.parametrize("inner", JOBS)
def test_the_same_call_of_a_job_on_its_own_succeeds(scene: Scene, inner: str) -> None:
    try_jobs(scene, inner)
    scene.world.token.transfer(A, 0, sender=A)
    assert scene.world.token.ok()


def test_reveal_in_the_middle_of_a_deposit_moves_nothing(scene: Scene) -> None:
    """It calls nobody and moves no money, so nothing forbids it."""
    world, me = scene.world, scene.puppet.address
    quote = world.quote(REPLICAS[0], provider=me, mode=Mode.NONE)
    params = world.params([(quote.values(), b"")], mode=Mode.NONE, quorum=1)
    job_id = world.jobs.post(params, sender=A)
    salt = salt_of(REPLICAS[0])
    commitment = world.jobs.hashCommitment(job_id, me, RIGHT.output_hash, salt)
    scene.run(world.jobs, "commit", job_id, commitment)
    scene.attempt(world.jobs, "reveal", job_id, RIGHT.values(), salt)
    assert changes(scene, "deposit") == {
        f"credit of {A} in {world.token.address}": 50,
        f"total of {world.token.address}": 50,
    }
    assert world.token.ok()
    assert world.jobs.job(job_id)["revealed"] == 1


def test_token_cannot_cancel_a_free_job_for_money_that_never_came(scene: Scene) -> None:
    """A job without an escrow moves nothing, so even inside a deposit its end pays nobody."""
    world, me = scene.world, scene.puppet.address
    free = dict.fromkeys(("base_fee", "price_per_m_input", "price_per_m_output", "kill_fee", "miss_fee", "bond"), 0)
    quotes = [world.signed(world.quote(p, **free)) for p in REPLICAS[:3]]
    nonce = world.jobs.clientNonce(me)
    scene.run(world.jobs, "post", world.params(quotes))
    scene.attempt(world.jobs, "cancel", world.jobs.jobIdOf(me, nonce))
    assert set(changes(scene, "deposit")) == {
        f"credit of {A} in {world.token.address}",
        f"total of {world.token.address}",
    }


@pytest.mark.parametrize("inner", ["withdraw", "stake", "requestUnstake"])
def test_wallet_that_is_asked_for_a_signature_cannot_move_even_its_own_money(scene: Scene, inner: str) -> None:
    """`isValidSignature` is a static call: a wallet that changes anything fails, and post with it."""
    world = scene.world
    wallet = world.deploy("MeddlingWallet")
    world.vault.deposit(world.token.address, wallet.address, 100, sender=A)
    arguments = (world.token.address, wallet.address, 5) if inner == "withdraw" else (5,)
    quote = world.quote(REPLICAS[0], provider=wallet.address)
    params = world.params([(quote.values(), b""), *(world.quote(p) for p in REPLICAS[1:3])])
    owners = (*scene.owners, wallet.address)
    wallet.setCallback(world.vault.address, world.vault.encode("credit", world.token.address, A), sender=A)
    assert isinstance(world.chain, RevmChain)
    with world.chain.undone():  # it may look, though
        world.jobs.post(params, sender=A)
    wallet.setCallback(world.vault.address, world.vault.encode(inner, *arguments), sender=A)
    before = books(world.vault, owners)
    with reverts("BadSignature", provider=wallet.address):
        world.jobs.post(params, sender=A)
    assert books(world.vault, owners) == before
