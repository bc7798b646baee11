"""How a dispute looks to a person: its parties and clocks, the way down as a tree, the next move and what it costs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from client.render import money
from client.results import TokenInfo
from market.dispute_play import Prospects
from market.dispute_resolution import Resolution, move_name
from market.disputes import Asked, Dispute, Verdict
from market.verification.challenger import Challenger, Move
from market.verification.geometry import ROOT, Node
from market.verification.words import node_words

_VERDICTS = {"GUILTY": "red", "NOT_GUILTY": "green", "EXPIRED": "yellow"}
_FAULTS = {
    "LENGTHS": "its output has a length, a stop token or an id that the request forbids",
    "CONTRADICTION": "it signed another output for the same request",
    "MISSED": "it did not give a reply in time",
    "ELEMENT": "a number differs from what its inputs give",
    "OUTPUT": "another id wins by its own logits",
    "OUTSIDE": "it put something where the program has nothing",
}


def show_dispute(console: Console, dispute: Dispute, challenger: Challenger | None, now: int) -> None:
    """Who disputes what, until when; and the replies so far, compared with our own trace where there is one."""
    claim = dispute.claim
    rows = [
        ("dispute", "0x" + dispute.dispute_id.hex()),
        ("about", "0x" + claim.subject_id.hex()),
        ("provider", claim.provider.lower()),
        ("answer", f"{claim.output_tokens} tokens to a prompt of {claim.input_tokens}"),
        ("opened by", dispute.opener.lower()),
        ("ends", f"{moment(dispute.end_at)} ({_left(dispute.end_at, now)})"),
    ]
    for name, value in rows:
        console.print(Text(f"{name:<10}", style="dim"), Text(value), end="\n")
    console.print(descent(dispute, challenger, now), soft_wrap=False)
    if dispute.verdict is not None:
        show_verdict(console, dispute.verdict)


def descent(dispute: Dispute, challenger: Challenger | None, now: int) -> Tree:
    """The replies as a tree, each node below the one that leads to it."""
    way = set() if challenger is None else set(challenger.way(dispute))
    tree = Tree(_label(dispute, dispute.asked[ROOT], challenger, way, now))
    branches: dict[Node, Tree] = {ROOT: tree}
    for node in sorted(node for node in dispute.asked if node != ROOT):
        above = next((n for n in _ancestors(node) if n in branches), ROOT)
        branches[node] = branches[above].add(_label(dispute, dispute.asked[node], challenger, way, now))
    deepest = max(way, default=None)
    if challenger is not None and deepest is not None and deepest not in dispute.asked:
        above = next((n for n in _ancestors(deepest) if n in branches), ROOT)
        words = node_words(challenger.geometry, deepest)
        branches[above].add(Text.assemble(("✗ ", "red"), words, ("  not asked for yet", "dim")))
    return tree


def _label(dispute: Dispute, asked: Asked, challenger: Challenger | None, way: set[Node], now: int) -> Text:
    node, words = asked.node, f"depth {asked.node.depth}, index {asked.node.index}"
    if challenger is not None:
        words = node_words(challenger.geometry, node)
    if not asked.answered:
        late = now > asked.deadline and dispute.is_open
        state = ("  overdue" if late else f"  awaited, {_left(asked.deadline, now)}", "red" if late else "yellow")
        return Text.assemble(("… ", "yellow"), words, state)
    what = f"  0x{asked.hash.hex()[:12]}…"
    if challenger is None:
        return Text.assemble("• ", words, (what, "dim"))
    if node in way:
        return Text.assemble(("✗ ", "red"), words, (what + "  not ours", "dim"))
    return Text.assemble(("✓ ", "green"), words, (what + "  as ours", "dim"))


def show_move(console: Console, move: Move, prospects: Prospects | None, token: TokenInfo) -> None:
    """The next move in words, and what it costs and can win."""
    console.print(Text.assemble((f"{move_name(move)}: ", "bold"), move.reason), soft_wrap=False)
    if prospects is not None:
        show_prospects(console, prospects, token)


def show_prospects(console: Console, prospects: Prospects, token: TokenInfo) -> None:
    console.print(f"  costs    about {prospects.gas:,} gas ({coins(prospects.wei)} of the chain's coin)")
    if prospects.prepaid:
        console.print(f"           and {money(prospects.prepaid, token)} prepaid: back if guilty, else the provider's")
    if prospects.left_gas:
        console.print(
            f"  then     at most {prospects.left_gas:,} gas and {money(prospects.left_prepaid, token)} prepaid"
        )
    console.print(f"  can win  {money(prospects.reward, token)}: half for asking for the leaf, half for the proof")


def show_verdict(console: Console, verdict: Verdict) -> None:
    name = verdict.state.name
    words = "" if verdict.fault is None else f": {_FAULTS[verdict.fault.name]}"
    console.print(Text.assemble((name.lower().replace("_", " "), _VERDICTS.get(name, "")), words), soft_wrap=False)


def show_resolution(console: Console, result: Resolution, token: TokenInfo) -> None:
    """How it ended, and what it cost."""
    if result.verdict is not None:
        show_verdict(console, result.verdict)
    if result.reason:
        console.print(Text(result.reason), soft_wrap=False)
    gas, wei = sum(move.gas for move in result.played), sum(move.wei for move in result.played)
    moves = "1 move" if len(result.played) == 1 else f"{len(result.played)} moves"
    console.print(f"{moves}, {gas:,} gas ({coins(wei)} of the chain's coin)")
    if result.reward:
        console.print(f"won {money(result.reward, token)}, credited in the vault: assay withdraw")


def dispute_json(dispute: Dispute, challenger: Challenger | None) -> dict[str, Any]:
    """A dispute as one JSON document."""
    way = [] if challenger is None else challenger.way(dispute)
    verdict = dispute.verdict
    return {
        "dispute_id": "0x" + dispute.dispute_id.hex(),
        "subject_id": "0x" + dispute.claim.subject_id.hex(),
        "provider": dispute.claim.provider.lower(),
        "opener": dispute.opener.lower(),
        "state": dispute.state.name,
        "fault": None if verdict is None or verdict.fault is None else verdict.fault.name,
        "end_at": dispute.end_at,
        "root": None if dispute.root is None else "0x" + dispute.root.hex(),
        "our_root": None if challenger is None else "0x" + challenger.root().hex(),
        "asked": [
            {
                "depth": asked.node.depth,
                "index": asked.node.index,
                "where": None if challenger is None else node_words(challenger.geometry, asked.node),
                "requester": asked.requester.lower(),
                "deadline": asked.deadline,
                "answered": asked.answered,
                "ours": None if challenger is None or not asked.answered else asked.node not in way,
            }
            for _, asked in sorted(dispute.asked.items())
        ],
    }


def coins(wei: int) -> str:
    """Wei as whole coins, six places."""
    return f"{wei // 10**18}.{wei % 10**18 // 10**12:06d}"


def moment(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _left(deadline: int, now: int) -> str:
    return f"in {deadline - now} s" if deadline >= now else f"{now - deadline} s ago"


def _ancestors(node: Node) -> list[Node]:
    found = []
    while node.depth:
        node = node.parent()
        found.append(node)
    return found
