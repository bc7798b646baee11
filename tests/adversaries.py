"""Providers that break the protocol, for tests and the demo. Run: `python tests/adversaries.py BEHAVIOUR --config …`.

The agent's own wiring cannot reach any of this, and nothing here runs on a chain that is not a development one.

    liar     answers with one token changed (--flip says to what), consistently: commitment, reveal, receipt agree
    copycat  commits to what another replica committed to, and reveals what that one revealed
    full     has no room for any job
    late     honest, but reveals only once the file named by --until exists
    mute     commits and never reveals
    absent   accepts the request and never commits
    held     honest, but commits only once the file named by --until exists
    stubborn a liar that shows a trace in a dispute in which its tokens win
    dumb     a liar that gives no reply in a dispute
    secretive a liar that does not publish its answer when it is demanded
    misprint answers honestly, but shows a trace with one wrong number: --lie GROUP:OPERATION says where
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from market.chain import DEVELOPMENT_CHAIN_IDS, Chain
from market.contracts import Jobs, Vault
from market.deployment import Deployment
from market.errors import ChainError, ConfigError
from market.events import Event, decode_logs
from market.inference.engine import Engine
from market.inference.model import AnyArray
from market.keystore import load_account
from market.models.pack import Pack
from market.transactions import Transactions
from market.types import Output
from market.verification.geometry import Geometry, Operation, Place
from market.verification.products import Products
from market.verification.structs import Claim, Shape
from market.verification.trace import Trace
from market.verification.traces import Traces
from market.views import ReplicaView
from provider.agent import SideFactory, TracesFactory, chain_side
from provider.chainside import ChainSide
from provider.config import ProviderConfig
from provider.executor import Answer, EngineExecutor, ExecutorFactory, Failure, Work
from provider.program import serve
from provider.signals import Signals
from tests.liar import lie

BEHAVIOURS = ("liar", "copycat", "full", "late", "mute", "absent", "held", "stubborn", "dumb", "secretive", "misprint")
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 20.0
T = TypeVar("T")


class Liar(EngineExecutor):
    """Changes the first token of every answer to one of its neighbours."""

    def __init__(
        self, engines: Mapping[bytes, Engine], limit: int, on_done: Callable[[bytes], None], *, flip: int = 1
    ) -> None:
        self._flip = flip
        super().__init__(engines, limit, on_done)

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        truth = super().outcome(job_id)
        if not isinstance(truth, Answer):
            return truth
        return dataclasses.replace(truth, ids=(truth.ids[0] ^ self._flip, *truth.ids[1:]))


class StubbornTraces(Traces):
    """Raises the logits of its own answers, as a provider must that stands by a wrong token; all else is honest."""

    def _make(self, pack: Pack, input_ids: Sequence[int], output_ids: Sequence[int], products: Products) -> Trace:
        def raise_logits(_group: int, operation: Operation, _part: str, array: AnyArray) -> None:
            if operation is not Operation.LOGITS:
                return
            for position, token in enumerate(output_ids):
                if int(array[position].argmax()) != token:
                    array[position, token] = int(array[position].max()) + 1

        return Trace(pack.model, Shape.of(pack.program), input_ids, output_ids, products=products, hook=raise_logits)


class MisprintTraces(Traces):
    """Changes the last element of an operation's last leaf, and computes everything else honestly."""

    group, operation = 1, Operation.DOWN

    def _make(self, pack: Pack, input_ids: Sequence[int], output_ids: Sequence[int], products: Products) -> Trace:
        shape = Shape.of(pack.program)
        section = Geometry(shape, len(input_ids), len(output_ids)).section(self.group, self.operation)
        row = section.rows - 1
        slot = max(slot for slot in range(section.slots) if section.inside(row, slot))
        element = section.elements(row, slot) - 1
        place = Place(self.group, self.operation, row, slot)
        return lie(pack.model, shape, input_ids, output_ids, place, element, 1, continued=False)


class NoTraces(Traces):
    """Has nothing to show."""

    def trace(self, claim: Claim, input_ids: Sequence[int], output_ids: Sequence[int]) -> Trace:
        raise ConfigError("This provider shows nothing.", code="DUMB")


class Full(EngineExecutor):
    """As if a thousand jobs were waiting."""

    def load(self) -> int:
        return 1_000

    def submit(self, work: Work) -> bool:
        return False


class Held(EngineExecutor):
    """Keeps every answer back until a file appears."""

    def __init__(
        self, engines: Mapping[bytes, Engine], limit: int, on_done: Callable[[bytes], None], *, until: Path
    ) -> None:
        self._until = until
        super().__init__(engines, limit, self._tell_later(on_done))

    def outcome(self, job_id: bytes) -> Answer | Failure | None:
        return super().outcome(job_id) if self._until.exists() else None

    def _tell_later(self, on_done: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def wait(job_id: bytes) -> None:
            while not self._until.exists():
                time.sleep(POLL_SECONDS)
            on_done(job_id)

        return lambda job_id: threading.Thread(target=wait, args=[job_id], daemon=True).start()


class Copycat(ChainSide):
    """Saves itself the work: copies the first other commitment, and later the first other reveal."""

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        copied = self._wait_for(lambda: next((r.digest for r in self._others(job_id) if r.digest != bytes(32)), None))
        super().commit(job_id, copied, key)

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        event = self._wait_for(lambda: self._first_reveal(job_id))
        transaction = self._chain.rpc("eth_getTransactionByHash", event.transaction_hash)
        # reveal(bytes32, (bytes32, uint32, uint8), bytes32): five words after the selector
        words = bytes.fromhex(transaction["input"][2:])[4:]
        root, count, finish, copied_salt = (words[32 * i : 32 * i + 32] for i in range(1, 5))
        copied = Output(root, int.from_bytes(count, "big"), int.from_bytes(finish, "big"))
        super().reveal(job_id, copied, copied_salt, key)

    def _others(self, job_id: bytes) -> list[ReplicaView]:
        return [replica for replica in self.replicas(job_id) if replica.provider != self.address]

    def _first_reveal(self, job_id: bytes) -> Event | None:
        logs = decode_logs(self._chain.logs([self._jobs.address], 0, self._chain.head().number))
        return next((e for e in logs if e.name == "Revealed" and e.args["jobId"] == job_id), None)

    def _wait_for(self, look: Callable[[], T | None]) -> T:
        for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
            if (found := look()) is not None:
                return found
            time.sleep(POLL_SECONDS)
        raise ChainError("There is nothing to copy.", code="COPYCAT")


class Late(ChainSide):
    """Reveals only once a file exists."""

    until = Path("/nonexistent")

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        if not self.until.exists():
            raise ChainError("This provider takes its time.", code="LATE")
        super().reveal(job_id, output, salt, key)


class Mute(ChainSide):
    """Never reveals."""

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        raise ChainError("This provider reveals nothing.", code="MUTE")


class Absent(ChainSide):
    """Never commits."""

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        raise ChainError("This provider commits to nothing.", code="ABSENT")


class Secretive(ChainSide):
    """Publishes nothing."""

    def publish_output(self, job_id: bytes, ids: Sequence[int], key: str) -> None:
        raise ChainError("This provider keeps its answer to itself.", code="SECRETIVE")


def side(kind: type[ChainSide]) -> SideFactory:
    def make(chain: Chain, jobs: Jobs, vault: Vault, transactions: Transactions, timeout: float) -> ChainSide:
        return kind(chain, jobs, vault, transactions, timeout=timeout)

    return make


def refuse_real_chains(deployment: Deployment) -> None:
    """
    Raises:
        ConfigError: the manifest is for a chain where money is real.
    """
    if deployment.chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise ConfigError(f"Adversaries run on development chains only, not on chain {deployment.chain_id}.")


def main(arguments: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("behaviour", choices=BEHAVIOURS)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--flip", type=int, default=1)
    parser.add_argument("--lie", default="1:DOWN")
    parser.add_argument("--until", type=Path, default=Path("/nonexistent"))
    chosen = parser.parse_args(arguments)
    signals = Signals()
    config = ProviderConfig.load(chosen.config)
    refuse_real_chains(Deployment.load(config.deployment))
    executors: dict[str, ExecutorFactory] = {
        "liar": functools.partial(Liar, flip=chosen.flip),
        "stubborn": functools.partial(Liar, flip=chosen.flip),
        "dumb": functools.partial(Liar, flip=chosen.flip),
        "secretive": functools.partial(Liar, flip=chosen.flip),
        "full": Full,
        "held": functools.partial(Held, until=chosen.until),
    }
    traces: dict[str, TracesFactory] = {
        "stubborn": StubbornTraces,
        "dumb": NoTraces,
        "misprint": MisprintTraces,
    }
    group, _, operation = chosen.lie.partition(":")
    MisprintTraces.group, MisprintTraces.operation = int(group), Operation[operation]
    Late.until = chosen.until
    sides = {
        "copycat": side(Copycat),
        "late": side(Late),
        "mute": side(Mute),
        "absent": side(Absent),
        "secretive": side(Secretive),
    }
    serve(
        config,
        load_account(config.keystore, chosen.password_file.read_text(encoding="utf-8").strip()),
        signals,
        lambda agent: print(f"ready {agent.url} {agent.address}", flush=True),
        executor_factory=executors.get(chosen.behaviour, EngineExecutor),
        side_factory=sides.get(chosen.behaviour, chain_side),
        traces_factory=traces.get(chosen.behaviour, Traces),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
