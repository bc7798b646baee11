"""Benchmarks: each module's run() returns rows; `python -m bench NAME` writes build/bench/NAME.json and the table."""
