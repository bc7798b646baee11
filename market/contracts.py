"""Typed clients, one per contract. Views ask the chain; writes only build a `Call` for market.transactions to send.

Every view takes `block` ("latest", another tag or a number). Views raise ContractError for a revert (UnknownJob and
the like), ChainUnreachable, and ChainError with code NotAContract where no contract answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeAlias, cast

from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from market.artefacts import Artefact, load
from market.chain import Call, Chain
from market.errors import ChainError
from market.hashing import ZERO32, pack_tokens
from market.signing import Domain
from market.types import Mode, Model, Output, Request, Sampler
from market.views import (
    BondState,
    DemandCost,
    DrawableEntry,
    Exit,
    JobParams,
    JobState,
    JobView,
    Offer,
    ProviderView,
    ReplicaState,
    ReplicaView,
    SeedView,
    Stake,
)

BlockTag: TypeAlias = int | str
DRAW_STAKE_SHARE = 16
"""Registry.STAKE_SHARE, which has no getter: being drawn takes a stake of drawStakeCap / 16."""


class Contract:
    """An address that is said to hold one of the shipped contracts."""

    artefact_name: ClassVar[str]

    def __init__(self, chain: Chain, address: str) -> None:
        self.chain = chain
        self.address = to_checksum_address(address)

    @cached_property
    def artefact(self) -> Artefact:
        """ABI and code of the shipped contract."""
        return load(self.artefact_name)

    def _write(self, name: str, *arguments: Any) -> Call:
        data = self.artefact.function(name).encode_input(arguments)
        return Call(self.address, data, f"{self.artefact_name}.{name}")

    def view(self, name: str, *arguments: Any) -> Any:
        """What any view of the ABI returns, by its Solidity name; for whoever compares all of them."""
        return self._read(name, *arguments)

    def _read(self, name: str, *arguments: Any, block: BlockTag = "latest") -> Any:
        """The single result, or a tuple of several."""
        entry = self.artefact.function(name)
        call = Call(self.address, entry.encode_input(arguments), f"{self.artefact_name}.{name}")
        data = self.chain.call(call, block=block)
        try:
            values = entry.decode_output(data)
        except DecodingError:
            raise ChainError(
                f"{self.address} does not answer like {self.artefact_name}.",
                hint="Check the addresses in the deployment manifest and the chain.",
                code="NotAContract",
                address=self.address,
                call=call.label,
            ) from None
        return values[0] if len(values) == 1 else values


class Token(Contract):
    """An ERC-20 token with ERC-2612 permits; `mint` and `faucet` are the test token's."""

    artefact_name = "TestToken"

    def balance_of(self, owner: str, block: BlockTag = "latest") -> int:
        """Base units that `owner` holds outside the vault."""
        return cast(int, self._read("balanceOf", owner, block=block))

    def allowance(self, owner: str, spender: str, block: BlockTag = "latest") -> int:
        """Base units of `owner` that `spender` may still take."""
        return cast(int, self._read("allowance", owner, spender, block=block))

    def decimals(self) -> int:
        """Decimal places: one token is 10**decimals base units."""
        return cast(int, self._read("decimals"))

    def symbol(self) -> str:
        """The short name people see, e.g. "tUSD"; the token's own words, unchecked."""
        return cast(str, self._read("symbol"))

    def name(self) -> str:
        """The token's full name, its own words, unchecked."""
        return cast(str, self._read("name"))

    def nonce(self, owner: str) -> int:
        """The nonce of the owner's next permit."""
        return cast(int, self._read("nonces", owner))

    def approve(self, spender: str, amount: int) -> Call:
        """Lets `spender` take up to `amount` base units of the sender; replaces what was allowed before."""
        return self._write("approve", spender, amount)

    def transfer(self, to: str, amount: int) -> Call:
        """Moves `amount` base units of the sender to `to`."""
        return self._write("transfer", to, amount)

    def mint(self, to: str, amount: int) -> Call:
        """Test token on a development chain only: anybody mints."""
        return self._write("mint", to, amount)

    def faucet(self, to: str, amount: int) -> Call:
        """Test token only: gives anybody up to `faucet_limit` base units."""
        return self._write("faucet", to, amount)

    def faucet_limit(self) -> int:
        """Test token only: base units that one call of `faucet` gives at most."""
        return cast(int, self._read("FAUCET_LIMIT"))

    def permit(self, account: LocalAccount, spender: str, value: int, deadline: int) -> bytes:
        """Signs an ERC-2612 permit (https://eips.ethereum.org/EIPS/eip-2612) for exactly `value` until `deadline`.

        Returns:
            abi.encode(value, deadline, v, r, s), as `JobParams.permit` and `Vault.fund` take it. The domain is the
            one the token states by EIP-5267; for a token without it, its name with version "1" is assumed.
        """
        name, version = self._permit_domain()
        message = encode_typed_data(
            domain_data={
                "name": name,
                "version": version,
                "chainId": self.chain.chain_id,
                "verifyingContract": self.address,
            },
            message_types={
                "Permit": [
                    {"name": "owner", "type": "address"},
                    {"name": "spender", "type": "address"},
                    {"name": "value", "type": "uint256"},
                    {"name": "nonce", "type": "uint256"},
                    {"name": "deadline", "type": "uint256"},
                ]
            },
            message_data={
                "owner": account.address,
                "spender": to_checksum_address(spender),
                "value": value,
                "nonce": self.nonce(account.address),
                "deadline": deadline,
            },
        )
        signed = account.sign_message(message)
        return encode(
            ["uint256", "uint256", "uint8", "bytes32", "bytes32"],
            [value, deadline, signed.v, signed.r.to_bytes(32), signed.s.to_bytes(32)],
        )

    def _permit_domain(self) -> tuple[str, str]:
        try:
            _, name, version, *_ = self._read("eip712Domain")
        except ChainError:
            return self.name(), "1"
        return name, version


class Vault(Contract):
    """The only holder of tokens: credit, stake, unbonding. Amounts in base units."""

    artefact_name = "Vault"

    def deposit(self, token: str, to: str, amount: int) -> Call:
        """Takes `amount` base units of `token` from the sender as credit of `to`; needs an allowance."""
        return self._write("deposit", token, to, amount)

    def withdraw(self, token: str, to: str, amount: int) -> Call:
        """Pays `amount` base units of the sender's credit to `to`."""
        return self._write("withdraw", token, to, amount)

    def stake(self, amount: int) -> Call:
        """Turns `amount` base units of the sender's credit in the stake token into stake."""
        return self._write("stake", amount)

    def request_unstake(self, amount: int) -> Call:
        """Moves `amount` base units of free stake into the sender's exit, whose `unbonding_window` starts anew."""
        return self._write("requestUnstake", amount)

    def finish_unstake(self, owner: str) -> Call:
        """Turns the exit of `owner` into credit once its time has come; anybody may send it."""
        return self._write("finishUnstake", owner)

    def seal(self, modules: Sequence[str]) -> Call:
        """Fixes the modules for ever; nothing can be deposited before. Guardian only, once."""
        return self._write("seal", list(modules))

    def deprecate(self) -> Call:
        """Takes no deposit, stake, escrow or bond any more, for ever; what is inside can leave. Guardian only."""
        return self._write("deprecate")

    def renounce_guardian(self) -> Call:
        """Leaves the vault without a guardian for ever; guardian only, after sealing."""
        return self._write("renounceGuardian")

    def credit(self, token: str, owner: str, block: BlockTag = "latest") -> int:
        """Base units of `token` that `owner` may withdraw now."""
        return cast(int, self._read("credit", token, owner, block=block))

    def staked(self, owner: str, block: BlockTag = "latest") -> int:
        """Free stake: what is not locked in bonds."""
        return cast(int, self._read("staked", owner, block=block))

    def stake_of(self, owner: str, block: BlockTag = "latest") -> Stake:
        """Free and bonded stake of `owner`, and the block of its last `stake`: what a draw looks at."""
        return Stake(*self._read("stakeOf", owner, block=block))

    def exit_of(self, owner: str, block: BlockTag = "latest") -> Exit:
        """The stake of `owner` on its way out: base units, and the unix second it is ready at."""
        return Exit(*self._read("exits", owner, block=block))

    def held(self, module: str, token: str, block: BlockTag = "latest") -> int:
        """Base units of `token` that `module` holds for others: escrow and bonds."""
        return cast(int, self._read("held", module, token, block=block))

    def total(self, token: str, block: BlockTag = "latest") -> int:
        """Base units of `token` that the vault owes altogether."""
        return cast(int, self._read("total", token, block=block))

    def cap(self, token: str) -> int:
        """Most the vault ever takes of `token`; 0 where it is not listed."""
        return cast(int, self._read("cap", token))

    def tokens(self) -> list[str]:
        """Addresses of the tokens the vault takes."""
        return [to_checksum_address(token) for token in self._read("tokens")]

    def stake_token(self) -> str:
        """Address of the token that stakes are in."""
        return str(to_checksum_address(self._read("stakeToken")))

    def unbonding_window(self) -> int:
        """Seconds between request_unstake and finish_unstake."""
        return cast(int, self._read("unbondingWindow"))

    def guardian(self) -> str:
        """Who may seal and deprecate; the zero address once renounced."""
        return str(to_checksum_address(self._read("guardian")))

    def is_sealed(self) -> bool:
        """Whether the modules are fixed for ever."""
        return bool(self._read("isSealed"))

    def is_deprecated(self) -> bool:
        """Whether nothing new is taken any more."""
        return bool(self._read("isDeprecated"))

    def modules(self) -> list[str]:
        """Whoever may take credit, allowance and stake of users that called it; fixed by `seal`."""
        return [to_checksum_address(module) for module in self._read("modules")]


class Registry(Contract):
    """Who offers which model where."""

    artefact_name = "Registry"

    def set_provider(self, endpoint: str, labels: bytes = ZERO32) -> Call:
        """Announces the sender: where it is reached, and `labels` (32 bytes, region or privacy class)."""
        return self._write("setProvider", endpoint, labels)

    def remove_provider(self) -> Call:
        """Withdraws the sender's announcement."""
        return self._write("removeProvider")

    def publish_model(self, model: Model, name: str, uri: str = "") -> Call:
        """Publishes a model's roots under a name; `uri` says where its pack is, "" for nowhere."""
        return self._write("publishModel", model.values(), name, uri)

    def set_offer(self, model_id: bytes, offer: Offer) -> Call:
        """Offers a published model by the sender; prices in base units of the offer's token."""
        return self._write("setOffer", model_id, offer.values())

    def remove_offer(self, model_id: bytes) -> Call:
        """Withdraws the sender's offer of the model."""
        return self._write("removeOffer", model_id)

    def prune(self, model_id: bytes, provider: str) -> Call:
        """Takes an entry that can no longer be drawn off the drawable list; anybody may send it."""
        return self._write("prune", model_id, provider)

    def drawable(self, model_id: bytes, block: BlockTag = "latest") -> list[DrawableEntry]:
        """The drawable list of a model: who may be drawn, since when, and how likely when picked. One call a place."""
        length = cast(int, self._read("drawableLength", model_id, block=block))
        places = (self._read("drawableAt", model_id, index, block=block) for index in range(length))
        return [DrawableEntry(to_checksum_address(provider), since, weight) for provider, since, weight in places]

    def is_drawable(self, provider: str, model_id: bytes, block: BlockTag = "latest") -> bool:
        """Whether the provider's offer, and its stake with its bonds, allow it to be drawn (if it is listed)."""
        return bool(self._read("isDrawable", provider, model_id, block=block))

    def draw_stake_cap(self) -> int:
        """Base units of stake above which the chance to be drawn grows no more."""
        return cast(int, self._read("drawStakeCap"))

    def draw_stake_minimum(self) -> int:
        """Base units of stake, bonds counted, below which nobody is listed or drawn."""
        return self.draw_stake_cap() // DRAW_STAKE_SHARE

    def list_rest(self) -> int:
        """Blocks that a place of the drawable list rests after a change."""
        return cast(int, self._read("LIST_REST"))

    def vault(self) -> str:
        """Address of the vault whose stake counts."""
        return str(to_checksum_address(self._read("vault")))

    def provider(self, address: str, block: BlockTag = "latest") -> ProviderView:
        """The provider's announcement; endpoint "" where there is none."""
        return ProviderView(*self._read("providers", address, block=block))

    def model(self, model_id: bytes, block: BlockTag = "latest") -> Model:
        """The roots of a published model; raises ContractError UnknownModel where it was never published."""
        return Model(*self._read("models", model_id, block=block))

    def offer(self, provider: str, model_id: bytes, block: BlockTag = "latest") -> Offer:
        """The provider's offer; `modes` is 0 where there is none."""
        token, *rest = self._read("offers", provider, model_id, block=block)
        return Offer(to_checksum_address(token), *rest)


class Jobs(Contract):
    """One request on chain, n replicas, one agreed answer."""

    artefact_name = "Jobs"

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of quotes, receipts, acceptances and commitments of this contract."""
        return Domain(self.chain.chain_id, self.address)

    def post(self, params: JobParams) -> Call:
        """Posts a job and takes its escrow (base units) as `params` says."""
        return self._write("post", params.values())

    def commit(self, job_id: bytes, commitment: bytes) -> Call:
        """`commitment` = domain.digest(Commitment(job_id, provider, output_hash, salt))."""
        return self._write("commit", job_id, commitment)

    def reveal(self, job_id: bytes, output: Output, salt: bytes) -> Call:
        """Opens the sender's commitment; after the reveal deadline only the agreed output, for the kill fee."""
        return self._write("reveal", job_id, output.values(), salt)

    def settle(self, job_id: bytes) -> Call:
        """Moves a job's money and makes it final; anybody may send it."""
        return self._write("settle", job_id)

    def cancel(self, job_id: bytes) -> Call:
        """Takes the sender's own job back before the first commit; every assigned replica is paid its kill fee."""
        return self._write("cancel", job_id)

    def draw(self, job_id: bytes) -> Call:
        """Draws the replicas of a job that waits for it; anybody may send it in any block after the draw block."""
        return self._write("draw", job_id)

    def fix_seed(self, job_id: bytes) -> Call:
        """Stores the seed that the chain gives a job (sampler 2); anybody may send it, any block after the posting."""
        return self._write("fixSeed", job_id)

    def demand_reveal(self, job_id: bytes, provider: str, permit: bytes = b"") -> Call:
        """Demands the output of a replica that revealed, for `demand_cost_of`. In a public job anybody may."""
        return self._write("demandReveal", job_id, provider, permit)

    def publish_output(self, job_id: bytes, ids: Sequence[int]) -> Call:
        """Answers a demand of the sender's output with its token ids, and earns the fee."""
        return self._write("publishOutput", job_id, pack_tokens(ids))

    def slash_withheld(self, job_id: bytes, provider: str) -> Call:
        """Slashes the bond of a replica that let a demand pass; anybody may send it."""
        return self._write("slashWithheld", job_id, provider)

    def release_bond(self, job_id: bytes, provider: str) -> Call:
        """Returns a bond to its provider's stake once the dispute window is over; anybody may send it."""
        return self._write("releaseBond", job_id, provider)

    def job(self, job_id: bytes, block: BlockTag = "latest") -> JobView:
        """Raises ContractError UnknownJob where there is none."""
        return job_view(self._read("job", job_id, block=block))

    def replicas(self, job_id: bytes, block: BlockTag = "latest") -> list[ReplicaView]:
        """In the order of the job's quotes."""
        return [_replica_view(values) for values in self._read("replicas", job_id, block=block)]

    def seed_of(self, job_id: bytes, block: BlockTag = "latest") -> SeedView:
        """The seed that the chain gives a job. Raises ContractError UnknownJob where there is none."""
        return SeedView(*self._read("seedOf", job_id, block=block))

    def chain_seed(self, job_id: bytes, request: Request) -> bytes:
        """The seed that the chain gave for a job's `request`; zero where it gives none, or has not yet."""
        return self.seed_of(job_id).seed if request.sampler == Sampler.SEEDED_BY_CHAIN else ZERO32

    def client_nonce(self, client: str, block: BlockTag = "latest") -> int:
        """Jobs `client` posted so far: the nonce of its next job id (market.hashing.job_id)."""
        return cast(int, self._read("clientNonce", client, block=block))

    def job_id_of(self, client: str, nonce: int) -> bytes:
        """The id of the job that `client` posts with this nonce, by the contract's own reckoning."""
        return cast(bytes, self._read("jobIdOf", client, nonce))

    def quote_used(self, digest: bytes, client: str, block: BlockTag = "latest") -> bool:
        """Whether `client` spent the quote with this digest already."""
        return bool(self._read("quoteUsed", digest, client, block=block))

    def vault(self) -> str:
        """Address of the vault that escrow and bonds are in."""
        return str(to_checksum_address(self._read("vault")))

    def registry(self) -> str:
        """Address of the registry that replicas are drawn from."""
        return str(to_checksum_address(self._read("registry")))

    def demand_fee(self) -> int:
        """Base units that a demand of up to 512 tokens costs, and a provider that publishes them earns."""
        return cast(int, self._read("demandFee"))

    def demand_cost_of(self, job_id: bytes, provider: str) -> DemandCost:
        """What a demand of the provider's output costs, once its job is final."""
        return DemandCost(*self._read("demandCostOf", job_id, provider))

    def demand_window(self) -> int:
        """Seconds in which a provider must publish what is demanded."""
        return cast(int, self._read("demandWindow"))

    def stake_token(self) -> str:
        """Address of the token that jobs are paid in."""
        return str(to_checksum_address(self._read("stakeToken")))

    def arbiter(self) -> str:
        """Who may slash bonds; the zero address where nobody can."""
        return str(to_checksum_address(self._read("arbiter")))

    def dispute_window(self) -> int:
        """Seconds a revealed bond stays locked after settlement."""
        return cast(int, self._read("disputeWindow"))

    def dispute_deadline(self) -> int:
        """Seconds after the dispute window in which a verdict about a disputed bond is still taken."""
        return cast(int, self._read("DISPUTE_DEADLINE"))

    def challenger_share_bps(self) -> int:
        """Share of a slashed bond that goes to the challenger, in 1/10 000."""
        return cast(int, self._read("challengerShareBps"))

    def min_window(self) -> int:
        """Seconds: the shortest commit or reveal window."""
        return cast(int, self._read("MIN_WINDOW"))

    def max_window(self) -> int:
        """Seconds: the longest commit or reveal window."""
        return cast(int, self._read("MAX_WINDOW"))

    def max_replicas(self) -> int:
        """Most replicas of one job."""
        return cast(int, self._read("MAX_REPLICAS"))


def job_view(values: Sequence[Any]) -> JobView:
    """A JobView out of its Solidity fields in order (a view's result, or the values of JobPosted's `job`)."""
    client, state, mode, *rest = values
    return JobView(to_checksum_address(client), JobState(state), Mode(mode), *rest)


def _replica_view(values: Sequence[Any]) -> ReplicaView:
    provider, state, bond_state, *rest, demander = values
    rest.append(to_checksum_address(demander))
    return ReplicaView(to_checksum_address(provider), ReplicaState(state), BondState(bond_state), *rest)
