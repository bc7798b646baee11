"""A place in a trace, for people: "layer 3, SCORES, position 70, head 2, block 1"."""

from __future__ import annotations

from market.verification.geometry import CHUNK, LOGITS_CHUNK, OPERATION_BITS, Geometry, Node, Operation, Place, Section


def group_name(geometry: Geometry, group: int) -> str:
    if group == 0:
        return "the embedding"
    return "the head" if group == geometry.groups - 1 else f"layer {group - 1}"


def node_words(geometry: Geometry, node: Node) -> str:
    """What lies below a node, or the leaf that it is."""
    if node.depth == 0:
        return "the whole trace"
    if node.depth <= geometry.group_bits:
        first, last = _span(node, geometry.group_bits)
        last = min(last, geometry.groups - 1)
        if first > last:
            return "nothing (after the head)"
        names = [group_name(geometry, group) for group in (first, last)]
        return names[0] if first == last else f"{names[0]} to {names[1]}"
    section_depth = geometry.group_bits + OPERATION_BITS
    if node.depth <= section_depth:
        first, last = _span(node, section_depth)
        group, size = first >> OPERATION_BITS, 1 << OPERATION_BITS
        if group >= geometry.groups or first % size >= len(geometry.operations(group)):
            return "nothing (an unused operation)"
        operations = geometry.operations(group)
        names = [operations[min(number % size, len(operations) - 1)].name for number in (first, last)]
        what = names[0] if names[0] == names[1] else f"{names[0]} to {names[1]}"
        return f"{group_name(geometry, group)}, {what}"
    group, number = divmod(node.index >> (node.depth - section_depth), 1 << OPERATION_BITS)
    if group >= geometry.groups or number >= len(geometry.operations(group)):
        return "nothing (an unused operation)"
    section = geometry.section(group, geometry.operations(group)[number])
    below = section_depth + section.bits - node.depth
    leaf = (node.index & ((1 << (node.depth - section_depth)) - 1)) << below
    return f"{group_name(geometry, group)}, {section.operation.name}, {_leaves_words(section, leaf, 1 << below)}"


def place_words(geometry: Geometry, place: Place, element: int | None = None) -> str:
    """A leaf, or one element of it."""
    section = geometry.section(place.group, place.operation)
    words = (
        f"{group_name(geometry, place.group)}, {place.operation.name}, {_leaf_words(section, place.row, place.slot)}"
    )
    return words if element is None else f"{words}, element {element}"


def _span(node: Node, depth: int) -> tuple[int, int]:
    up = depth - node.depth
    return node.index << up, ((node.index + 1) << up) - 1


def _leaves_words(section: Section, first: int, count: int) -> str:
    row, slot = divmod(first, 1 << section.slot_bits)
    if row >= section.rows:
        return "nothing (after the last row)"
    if count == 1:
        return _leaf_words(section, row, slot)
    last_row = min((first + count - 1) >> section.slot_bits, section.rows - 1)
    if count >= 1 << section.slot_bits:
        return f"{_row_name(section)} {row}" + (f" to {last_row}" if last_row > row else "")
    last = min(slot + count, section.slots) - 1
    return f"{_row_name(section)} {row}, slots {slot} to {last}" if last > slot else _leaf_words(section, row, slot)


def _row_name(section: Section) -> str:
    if section.operation is Operation.VALUE:
        return "block"
    return "output position" if section.operation in (Operation.OUTPUT_NORM, Operation.LOGITS) else "position"


def _leaf_words(section: Section, row: int, slot: int) -> str:
    if not section.inside(row, slot):
        return f"{_row_name(section)} {row}, slot {slot} (nothing)"
    words = f"{_row_name(section)} {row}"
    operation = section.operation
    if section.statistic and slot == 0:
        return f"{words}, its statistic"
    if section.blocked:
        return f"{words}, head {slot >> section.block_bits}, block {slot & ((1 << section.block_bits) - 1)}"
    if operation is Operation.VALUE:
        return f"{words}, element {slot}"
    if operation is Operation.LOGITS:
        return f"{words}, ids {slot * LOGITS_CHUNK} to {slot * LOGITS_CHUNK + section.elements(row, slot) - 1}"
    if section.chunk != CHUNK or operation in (
        Operation.QUERY, Operation.KEY, Operation.ROTATE_QUERY, Operation.ROTATE_KEY, Operation.MIX,
        Operation.QUANTISE_MIX, Operation.SOFTMAX,
    ):  # fmt: skip
        return f"{words}, head {slot - (section.statistic > 0)}"
    return f"{words}, chunk {slot - (section.statistic > 0)}"
