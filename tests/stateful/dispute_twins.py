"""Broken twins of the game of disputes: one rule removed or bent each."""

from __future__ import annotations

from tests.stateful.twins import Twin

DISPUTES = "Disputes"
TWINS = (
    Twin(
        "anything contradicts",
        DISPUTES,
        DISPUTES,
        "if (!subject.contradicts(subjectId, provider, contradiction)) revert NoContradiction(id);",
        "",
    ),
    Twin(
        "nothing outside is a fault",
        DISPUTES,
        DISPUTES,
        "        if (node.hash == Fold.empty(height)) revert NothingWrong(id);\n",
        "",
        slow=True,
    ),
    Twin(
        "any rival beats an id",
        DISPUTES,
        DISPUTES,
        "        if (!IJudge(judge).isOutputWrong(claim, root, accusation)) revert NothingWrong(id);\n",
        "",
        slow=True,
    ),
    Twin(
        "wrapped index",
        DISPUTES,
        DISPUTES,
        "if (depth > MAX_DEPTH || index >> depth != 0) revert",
        "if (depth > MAX_DEPTH) revert",
        slow=True,
    ),
)
