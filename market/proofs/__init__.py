"""Proofs that a small model gave an answer: artefacts, the seam of the proving backends, and ezkl behind it.

Only `ezkl_worker` imports ezkl, and only in a process of its own with limits of memory and time. docs/proofs.md.
"""
