"""Integer-only inference: token ids in, token ids out, the same bits on every machine.

``reference`` is the readable numpy form of docs/numerics.md, ``torch_engine`` the one that serves. Importing
this package imports neither torch nor any weights.
"""
