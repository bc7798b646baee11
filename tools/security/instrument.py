"""Contracts that tell which side of every branch was taken, also where a call reverts or is static.

Each condition is wrapped in a free function that asks for the balance of an address made of the branch's number and
its side. Asking is all it does: an EVM that keeps accounts in a cache (pyrevm does) loads that account, and no revert
takes it out again. So a run's branches are the addresses in its cache.

What is a branch: each operand of `&&` and `||`; each other condition of `if`, `?:`, `for`, `while`, `do` and
`require`; each clause of `try`. A condition in a modifier counts once for every external function that has it. What
the compiler adds (overflow, bounds, ABI decoding) is none. `if`, `for` and `switch` inside assembly are none either: a
Solidity function cannot be called from there (`assembly_conditions` says how many there are).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]

HELPER = "contracts/BranchProbe.sol"
MARK = 0xB4A9
"""First two bytes of the addresses that stand for sides."""
_HELPER_SOURCE = f"""// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

function branchProbe(bool taken, uint256 branch, bytes4 use) pure returns (bool) {{
    function(bool, uint256, bytes4) view returns (bool) ask = branchProbeAsk;
    function(bool, uint256, bytes4) pure returns (bool) asPure;
    assembly ("memory-safe") {{
        asPure := ask
    }}
    return asPure(taken, branch, use);
}}

function branchProbeAsk(bool taken, uint256 branch, bytes4 use) view returns (bool) {{
    assembly ("memory-safe") {{
        if balance(or(shl(144, {MARK}), or(shl(32, or(shl(1, branch), taken)), shr(224, use)))) {{ invalid() }}
    }}
    return taken;
}}
"""
_CONDITIONS = {
    "IfStatement": "if",
    "Conditional": "?:",
    "ForStatement": "for",
    "WhileStatement": "while",
    "DoWhileStatement": "do",
}
_LOGICAL = ("&&", "||")
_UNPROBED = ("YulIf", "YulForLoop", "YulSwitch")


@dataclass(frozen=True)
class Side:
    """One side of one branch, and how a run shows that it was taken.

    Attributes:
        file: path from the repository root; line: from 1.
        function: where it stands, `modifier for function` in a modifier.
        kind: the construct; text: the condition; outcome: "true", "false" or, of a `try`, "success" or "catch".
        address: lower-case hex of the address that the run asks for.
    """

    file: str
    line: int
    function: str
    kind: str
    text: str
    outcome: str
    address: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.kind} ({self.text}) {self.outcome}"


def instrument(
    sources: Mapping[str, str], trees: Mapping[str, Node], wanted: Mapping[str, str]
) -> tuple[dict[str, str], list[Side]]:
    """Wraps every condition of `wanted`.

    Args:
        sources: path → text of everything that is compiled.
        trees: path → syntax tree (`tools.compiler.syntax_trees`).
        wanted: the part of `sources` whose branches count.

    Returns:
        sources to compile, and all sides in the order of the files.
    """
    changed = dict(sources) | {HELPER: _HELPER_SOURCE}
    sides: list[Side] = []
    uses = _modifier_uses(trees)
    number = 0
    for path in sorted(wanted):
        file = _File(path, sources[path], uses)
        for branch in file.branches(trees[path]):
            number += 1
            sides += file.wrap(branch, number)
        if file.insertions:
            changed[path] = file.text()
    return changed, sides


def assembly_conditions(tree: Any) -> int:
    """How many `if`, `for` and `switch` of a syntax tree stand inside assembly, where no probe can."""
    if isinstance(tree, list):
        return sum(map(assembly_conditions, tree))
    if not isinstance(tree, dict):
        return 0
    return (tree.get("nodeType") in _UNPROBED) + sum(map(assembly_conditions, tree.values()))


def address_of(number: int, taken: bool, use: bytes = bytes(4)) -> str:
    """What the helper asks for."""
    return f"0x{MARK << 144 | (number << 1 | taken) << 32 | int.from_bytes(use):040x}"


@dataclass(frozen=True)
class _Branch:
    node: Node
    kind: str
    function: str
    modifier: int | None  # id of the modifier's node
    outcome: str | None = None  # of a clause of a `try`


class _File:
    """One source file: finds its branches, collects what is to be inserted."""

    def __init__(self, path: str, text: str, uses: Mapping[int, list[tuple[str, str]]]) -> None:
        self.path = path
        self.source = text.encode()
        self.uses = uses
        self.insertions: list[tuple[int, int, str]] = []  # (offset, rank, text)

    def text(self) -> str:
        """The file with everything inserted; line numbers stay."""
        pragma = self.source.index(b"\n", self.source.index(b"pragma solidity"))
        pieces, last = [], 0
        imported = f'import {{branchProbe}} from "{HELPER}";'
        for offset, _, inserted in sorted([(pragma, 0, imported), *self.insertions]):
            pieces += [self.source[last:offset], inserted.encode()]
            last = offset
        return b"".join([*pieces, self.source[last:]]).decode()

    def branches(self, tree: Node) -> Iterator[_Branch]:
        yield from self._visit(tree, "", None, set())

    def wrap(self, branch: _Branch, number: int) -> list[Side]:
        start, length = _range(branch.node)
        line = self.source.count(b"\n", 0, start) + 1
        if branch.outcome is not None:
            self.insertions.append((start + 1, 0, f"branchProbe(true, {number}, 0);"))
            return [Side(self.path, line, branch.function, "try", "", branch.outcome, address_of(number, True))]
        uses = self.uses.get(branch.modifier, []) if branch.modifier is not None else []
        use = "msg.sig" if uses else "0"
        # the condition first: what is on the stack below it may already be as deep as the compiler can reach
        self.insertions.append((start, -length, "branchProbe("))
        self.insertions.append((start + length, length - len(self.source), f", {number}, {use})"))
        text = self.source[start : start + length].decode()
        return [
            Side(
                self.path,
                line,
                f"{branch.function} for {name}" if name else branch.function,
                branch.kind,
                " ".join(text.split()),
                "true" if taken else "false",
                address_of(number, taken, bytes.fromhex(selector)),
            )
            for name, selector in uses or [("", "00000000")]
            for taken in (True, False)
        ]

    def _visit(self, node: Any, function: str, modifier: int | None, seen: set[int]) -> Iterator[_Branch]:
        if isinstance(node, list):
            for item in node:
                yield from self._visit(item, function, modifier, seen)
            return
        if not isinstance(node, dict):
            return
        kind = node.get("nodeType", "")
        if kind in ("FunctionDefinition", "ModifierDefinition"):
            function = node["name"] or node.get("kind", "")
            modifier = node["id"] if kind == "ModifierDefinition" else None
        for leaf, construct in _leaves_of(node):
            if leaf["id"] not in seen:
                seen.add(leaf["id"])
                yield _Branch(leaf, construct, function, modifier)
        if kind == "TryStatement":
            for index, clause in enumerate(node["clauses"]):
                yield _Branch(clause["block"], "try", function, modifier, "catch" if index else "success")
        for value in node.values():
            yield from self._visit(value, function, modifier, seen)


def _leaves_of(node: Node) -> Iterator[tuple[Node, str]]:
    """Conditions that this node decides by."""
    kind = node.get("nodeType", "")
    if kind in _CONDITIONS and node.get("condition"):
        yield from ((leaf, _CONDITIONS[kind]) for leaf in _leaves(node["condition"]))
    elif kind == "BinaryOperation" and node["operator"] in _LOGICAL:
        yield from ((leaf, node["operator"]) for leaf in _leaves(node))
    elif kind == "FunctionCall" and node["expression"].get("name") in ("require", "assert"):
        yield from ((leaf, node["expression"]["name"]) for leaf in _leaves(node["arguments"][0]))


def _leaves(node: Node) -> Iterator[Node]:
    kind = node["nodeType"]
    if kind == "TupleExpression" and len(node["components"]) == 1:
        yield from _leaves(node["components"][0])
    elif kind == "UnaryOperation" and node["operator"] == "!":
        yield from _leaves(node["subExpression"])
    elif kind == "BinaryOperation" and node["operator"] in _LOGICAL:
        yield from _leaves(node["leftExpression"])
        yield from _leaves(node["rightExpression"])
    else:
        yield node


def _range(node: Node) -> tuple[int, int]:
    start, length, _ = node["src"].split(":")
    return int(start), int(length)


def _modifier_uses(trees: Mapping[str, Node]) -> dict[int, list[tuple[str, str]]]:
    """id of a modifier → (name, selector) of the functions that have it; none where one of them has no selector."""
    uses: dict[int, list[tuple[str, str]]] = {}
    internal: set[int] = set()
    for tree in trees.values():
        for contract in tree["nodes"]:
            for node in contract.get("nodes", []):
                for used in node.get("modifiers", []) if node["nodeType"] == "FunctionDefinition" else []:
                    modifier = used["modifierName"]["referencedDeclaration"]
                    if "functionSelector" in node:
                        uses.setdefault(modifier, []).append((node["name"], node["functionSelector"]))
                    else:
                        internal.add(modifier)
    return {modifier: found for modifier, found in uses.items() if modifier not in internal}
