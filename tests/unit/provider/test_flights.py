"""Several transactions on their way: how much at once, and that a refused one stops no other."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from market.chain import Call
from market.errors import AssayError, ChainError, ContractError
from provider.flights import Flights

CALL = Call("0x" + "11" * 20, b"", "a call")


@dataclass
class Way:
    """A chain in which each transaction ends as it was told to, once somebody waits for it."""

    ends: dict[str, AssayError] = field(default_factory=dict)
    simulated: dict[str, AssayError] = field(default_factory=dict)
    flying: list[str] = field(default_factory=list)
    most: int = 0
    landed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    def enqueue(self, _call: Call, key: str, _waits: int | None) -> OnItsWay:
        if key in self.simulated:
            raise self.simulated[key]
        self.flying.append(key)
        self.most = max(self.most, len(self.flying))
        return OnItsWay(self, key)

    def start(self, flights: Flights, key: str, size: int = 1) -> None:
        flights.start(
            CALL,
            key,
            0,
            size=size,
            landed=lambda: self.landed.append(key),
            refused=lambda _: self.refused.append(key),
        )


@dataclass
class OnItsWay:
    way: Way
    key: str

    @property
    def is_over(self) -> bool:
        return self.key in self.way.over

    def wait(self) -> None:
        self.way.flying.remove(self.key)
        if self.key in self.way.ends:
            raise self.way.ends[self.key]


def test_all_are_on_their_way_before_the_first_is_waited_for() -> None:
    way = Way()
    flights = Flights(way.enqueue, 4)
    for key in "abcd":
        way.start(flights, key)
    assert (way.flying, way.landed) == (list("abcd"), [])
    flights.finish()
    assert (way.flying, way.landed) == ([], list("abcd"))


def test_no_more_are_on_their_way_than_there_is_room_for() -> None:
    way = Way()
    flights = Flights(way.enqueue, 8)
    for key in "abcdef":
        way.start(flights, key, size=3)
    assert way.most == 2
    assert way.landed == list("abcd")
    way.start(flights, "larger than all the room", size=9)
    assert way.flying == ["larger than all the room"]


def test_refused_ones_stop_no_other() -> None:
    way = Way(ends={"b": ContractError("reverted")}, simulated={"c": ContractError("would revert")})
    flights = Flights(way.enqueue, 8)
    for key in "abcd":
        way.start(flights, key)
    assert way.refused == ["c"]
    flights.finish()
    assert (way.landed, way.refused) == (list("ad"), list("cb"))


def test_what_ended_is_told_without_waiting_for_the_rest() -> None:
    way = Way(over={"a", "c"})
    flights = Flights(way.enqueue, 8)
    for key in "abc":
        way.start(flights, key)
    flights.collect()
    assert (way.landed, way.flying) == (["a"], list("bc"))


def test_nothing_more_is_sent_when_an_earlier_one_is_in_doubt() -> None:
    way = Way(ends={"a": ChainError("not in a block yet")}, over={"a"})
    flights = Flights(way.enqueue, 8)
    way.start(flights, "a")
    way.start(flights, "b")
    with pytest.raises(ChainError, match="not in a block yet"):
        flights.collect()
    with pytest.raises(ChainError, match="not in a block yet"):
        way.start(flights, "c")
    assert way.flying == ["b"]
    flights.finish()  # one came to an end: whoever called looks again
    assert (way.landed, flights.landed) == (["b"], 1)


def test_trouble_with_all_of_them_is_told() -> None:
    way = Way(ends={key: ChainError(f"{key} is lost") for key in "ab"})
    flights = Flights(way.enqueue, 8)
    way.start(flights, "a")
    way.start(flights, "b")
    with pytest.raises(ChainError, match="a is lost"):
        flights.finish()
    assert way.flying == []
