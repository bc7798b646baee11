"""Integer-only inference: token ids in, token ids out, the same bits on every machine.

``reference`` is the readable numpy form of docs/numerics.md. ``native_engine`` serves on CPUs with the kernels in C of
``native``, ``torch_engine`` on CUDA (never run on a GPU so far), ``numpy_engine`` where there is neither. Importing
this package imports neither torch nor any weights.
"""
