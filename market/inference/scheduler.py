"""Continuous batching: requests join and leave between steps, and nobody waits for the end of somebody else's answer.

Pure: no threads, no clock. One object serves one model and belongs to one thread; whoever owns it calls ``step`` while
``busy``. Orca (Yu et al., OSDI 2022) describes scheduling by iteration, Sarathi (Agrawal et al., 2023) the splitting of
prompts so that answers in progress are not held up by a long one.

Answers do not depend on what else runs: the arithmetic is exact, and each sequence sees its own keys and values alone.
What others can observe is time. A prefix is therefore reused between requests of one owner only: reuse across owners
would tell anybody, by the time to the first token, that somebody else has sent the same prompt.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from market.errors import AssayError
from market.inference.batch import BatchEngine, Part, Slot, Want, chosen, want_of
from market.inference.engine import Generation, check_request
from market.inference.log_probabilities import PositionLogProbabilities, at_position
from market.inference.model import Int64Array
from market.inference.sampling import Picker
from market.types import Finish

_LOG = logging.getLogger(__name__)


class Overloaded(AssayError):
    """As many requests wait as are allowed to; nothing was computed."""


@dataclass(frozen=True)
class Task:
    """One request. ``owner``: whose earlier prompts its prefix may be shared with; empty: nobody's.

    ``log_probabilities``: how many likeliest ids to tell of in place of each output id; 0: nothing is told.
    """

    key: bytes
    ids: tuple[int, ...]
    max_output_tokens: int
    stop_tokens: tuple[int, ...] = ()
    owner: bytes = b""
    sampling: Picker | None = None  # None: greedy
    on_token: Callable[[int], None] | None = None
    log_probabilities: int = 0

    @property
    def want(self) -> Want:
        """What a step must give for each output id."""
        return want_of(self.sampling, self.log_probabilities)


@dataclass(frozen=True)
class SchedulerLimits:
    """slots: answers in progress at once, each with room for the whole context. step_tokens: ids one step computes at
    most (one per answer in progress, the rest for prompts). waiting: requests that may wait. reuse: shortest prefix, in
    tokens, worth keeping a slot's content for. spare: further slots, for owners without an answer in progress: one
    whose long answers fill all others holds nobody up.
    """

    slots: int = 8
    step_tokens: int = 256
    waiting: int = 64
    reuse: int = 16
    spare: int = 2


@dataclass(eq=False)
class _Held:
    """A slot and what its positions hold: ``ids`` of ``owner``. ``used``: the step it last served in."""

    slot: Slot
    ids: list[int] = field(default_factory=list)
    owner: bytes = b""
    used: int = 0

    def shared_with(self, task: Task, least: int) -> int:
        """How many positions serve the task, if at least ``least``; its last id is always computed, for its logits."""
        if not task.owner or self.owner != task.owner:
            return 0
        most = min(len(self.ids), len(task.ids) - 1)
        count = next((i for i in range(most) if self.ids[i] != task.ids[i]), most)
        return count if count >= least else 0


@dataclass(eq=False)
class _Answer:
    """A task that has a slot, and what it has put out."""

    task: Task
    held: _Held
    output: list[int] = field(default_factory=list)
    told: list[PositionLogProbabilities] = field(default_factory=list)

    @property
    def unread(self) -> int:
        """Ids of the prompt that the slot does not hold yet."""
        return max(0, len(self.task.ids) - len(self.held.ids))

    def take(self, result: int | Int64Array) -> Finish | None:
        """The next id; why the answer ends with it, if it does."""
        token = chosen(result, self.task.sampling, len(self.output))
        if self.task.log_probabilities:
            self.told.append(at_position(np.asarray(result), token, self.task.log_probabilities))
        self.output.append(token)
        if self.task.on_token is not None:
            self.task.on_token(token)
        if token in self.task.stop_tokens:
            return Finish.STOP
        return Finish.LENGTH if len(self.output) == self.task.max_output_tokens else None


class Scheduler:
    """Serves tasks through a batch engine, each answered as if it were alone."""

    def __init__(self, engine: BatchEngine, limits: SchedulerLimits | None = None) -> None:
        self._engine = engine
        self._limits = limits or SchedulerLimits()
        self._idle: list[_Held] = []
        self._answers: list[_Answer] = []
        self._waiting: OrderedDict[bytes, deque[Task]] = OrderedDict()  # by owner, in the order of their turns
        self._keys: set[bytes] = set()
        self._steps = 0
        self.reused_tokens = 0
        """Ids of prompts that were not computed because an earlier request of the same owner had begun with them."""

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._keys)

    @property
    def running(self) -> int:
        """Tasks that have a slot."""
        return len(self._answers)

    @property
    def waiting(self) -> int:
        """Tasks that have none yet."""
        return sum(len(tasks) for tasks in self._waiting.values())

    def submit(self, task: Task) -> None:
        """Takes a task.

        Raises:
            PromptError: it does not fit the model; nothing was computed.
            Overloaded: too many wait already.
            ValueError: a task of that key is here.
        """
        check_request(self._engine.config, task.ids, task.max_output_tokens, task.stop_tokens)
        if task.key in self._keys:
            raise ValueError("a task of this key waits or runs")
        if self.waiting >= self._limits.waiting:
            raise Overloaded(
                f"{self.waiting} requests wait for the engine already. Nothing was computed or charged.",
                hint="Try again later or ask another provider.",
                waiting=self.waiting,
            )
        self._keys.add(task.key)
        self._waiting.setdefault(task.owner, deque()).append(task)

    def cancel(self, key: bytes) -> Generation | None:
        """Ends a task now; what it had put out so far, or None if there is no such task."""
        if key not in self._keys:
            return None
        for answer in self._answers:
            if answer.task.key == key:
                return self._leave(answer, Finish.CANCELLED)
        owner = next(owner for owner, tasks in self._waiting.items() if any(task.key == key for task in tasks))
        kept = deque(task for task in self._waiting[owner] if task.key != key)
        if kept:
            self._waiting[owner] = kept
        else:
            del self._waiting[owner]
        self._keys.discard(key)
        return Generation((), Finish.CANCELLED)

    def admit(self) -> list[Task]:
        """Gives free slots to those who wait, as the next step would; returns whose answers begin with it."""
        admitted = []
        while (owner := self._next_owner()) is not None:
            tasks = self._waiting[owner]
            self._answers.append(_Answer(tasks[0], self._slot_for(tasks[0])))  # the task waits on if that raises
            admitted.append(tasks.popleft())
            self._waiting.move_to_end(owner)
            if not tasks:
                del self._waiting[owner]
        return admitted

    def abandon(self) -> list[bytes]:
        """After `admit` or `step` raised: ends every answer in progress, or, where there was none, whatever waits, so
        that trying again always ends; forgets all slots. Returns the keys of what is lost.
        """
        lost = [answer.task.key for answer in self._answers]
        if not lost:
            lost = [task.key for tasks in self._waiting.values() for task in tasks]
            self._waiting.clear()
        self._answers, self._idle = [], []
        self._keys.difference_update(lost)
        return lost

    def step(self) -> list[tuple[bytes, Generation]]:
        """Advances every answer in progress by an id and prompts by what room is left; returns the tasks that ended."""
        self._steps += 1
        self.admit()
        plan = self._plan()
        if not plan:
            return []
        parts = [Part(answer.held.slot, ids, want) for answer, ids, want in plan]
        ended = []
        for (answer, ids, _), result in zip(plan, self._engine.step(parts), strict=True):
            answer.held.ids.extend(ids)
            finish = None if result is None else _finish(answer, result)
            if finish is not None:
                ended.append((answer.task.key, self._leave(answer, finish)))
        return ended

    def _plan(self) -> list[tuple[_Answer, list[int], Want]]:
        """(answer, ids to append, what is wanted after them) for every answer that advances."""
        going = [answer for answer in self._answers if not answer.unread]
        plan = [(answer, [answer.output[-1]], answer.task.want) for answer in going]
        left = max(self._limits.step_tokens - len(plan), 1)
        reading = sorted((answer for answer in self._answers if answer.unread), key=lambda answer: answer.unread)
        for position, answer in enumerate(reading):  # what the short prompts leave goes to the long ones
            count = min(answer.unread, -(-left // (len(reading) - position)))
            if count:
                start = len(answer.held.ids)
                want = answer.task.want if count == answer.unread else Want.NOTHING
                plan.append((answer, list(answer.task.ids[start : start + count]), want))
                left -= count
        return plan

    def _leave(self, answer: _Answer, finish: Finish) -> Generation:
        self._keys.discard(answer.task.key)
        self._answers.remove(answer)
        answer.held.used = self._steps
        self._idle.append(answer.held)
        return Generation(tuple(answer.output), finish, tuple(answer.told))

    def _next_owner(self) -> bytes | None:
        """Who has the fewest answers in progress; among those, whose turn is longest ago. None: no slot for anybody."""
        running = Counter(answer.task.owner for answer in self._answers)
        owner = min(self._waiting, key=lambda owner: running[owner], default=None)
        room = self._limits.slots + (0 if owner is None or running[owner] else self._limits.spare)
        return owner if self.running < room else None

    def _slot_for(self, task: Task) -> _Held:
        """The idle slot that shares the longest prefix; else a new one, or the one that has been idle for longest."""

        def shared(held: _Held) -> int:
            return held.shared_with(task, self._limits.reuse)

        best = max(self._idle, key=shared, default=None)
        if best is None or not shared(best):
            if not self._idle or len(self._idle) + self.running < self._limits.slots:
                return _Held(self._engine.new_slot(self._engine.config.context), owner=task.owner)
            best = min(self._idle, key=lambda held: held.used)
        count = shared(best)
        self._idle.remove(best)
        best.slot.truncate(count)
        best.ids, best.owner = best.ids[:count], task.owner
        self.reused_tokens += count
        return best


def _finish(answer: _Answer, result: int | Int64Array) -> Finish | None:
    """Takes what a step gave for an answer. One that cannot use it ends alone: its neighbours' results are good."""
    try:
        return answer.take(result)
    except Exception as error:  # noqa: BLE001 - a picker or a listener of the caller's; its text may hold the prompt
        _LOG.error("an answer ended: choosing its next id raised %s", type(error).__name__)
        return Finish.ERROR
