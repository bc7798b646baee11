"""The state machine: all rules, and what holds after each."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, get_state_machine_test, invariant

from tests.stateful.pair import Pair, prepare
from tests.stateful.registry_rules import RegistryRules
from tests.stateful.seed_rules import SeedRules
from tests.stateful.vault_rules import VaultRules
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import World


class MarketMachine(VaultRules, RegistryRules, SeedRules):
    """Market and model start anew for each example; the deployment is undone, not repeated."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        chain = self.world.chain
        assert isinstance(chain, RevmChain)
        self._undo = ExitStack()
        self._undo.enter_context(chain.undone())
        self.world.restart_nonces()
        self.pair = Pair(self.world)
        self._compared: dict[bytes, object] = {}

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        self.pair.compare_money()

    @invariant()
    def changed_jobs_are_what_the_model_says(self) -> None:
        for identity in self.pair.jobs[-3:]:
            job = self.pair.model.jobs[identity]
            replicas = tuple((replica.state, replica.bond_state, replica.demander) for replica in job.replicas)
            key = (job.state, job.agreed, job.reveal_deadline, job.draw_block, job.seed, replicas)
            if self._compared.get(identity) != key:
                self.pair.compare_job(identity)
                self._compared[identity] = key

    def teardown(self) -> None:
        try:
            for identity in self.pair.jobs:
                self.pair.compare_job(identity)
            assert self.pair.held_by_records() == self.pair.model.held
        finally:
            self._undo.close()


def run_machine(world: World, *, examples: int, steps: int, start: int, shrink: bool = True) -> None:
    """Runs the machine against one deployment; the same `start` gives the same run.

    Raises:
        AssertionError: contracts and model differ (with the shortest sequence of calls found, where shrinking).
    """
    prepare(world)
    machine: type[RuleBasedStateMachine] = type("MarketMachineOf", (MarketMachine,), {"world": world})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    seed(start)(get_state_machine_test(machine, settings=chosen))()
