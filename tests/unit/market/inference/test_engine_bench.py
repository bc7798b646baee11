"""What the engine's benchmark makes of what it measures; nothing is measured here."""

from __future__ import annotations

from bench import engine_speed
from market.inference.engine import load_engine
from market.models.pack import Pack


def test_decoding_is_timed_token_by_token(tiny_pack: Pack) -> None:
    took = engine_speed._decode(load_engine(tiny_pack, threads=1), [1, 70, 80])
    assert len(took.tokens) == engine_speed.DECODED
    assert min(took.tokens) > 0
    assert sum(took.tokens) <= took.wall


def test_slow_tokens_are_those_that_averages_hide() -> None:
    """One token in a hundred at ten times the median, and one at a hundred times."""
    two = [0.010] * 392 + [0.100] * 7 + [1.0]
    p99, worst = engine_speed.slow_tokens([0.020] * 399 + [0.3], two)
    assert (p99.key, p99.value, p99.peer_value, p99.ratio) == ("decode_2t_token_p99", 100.0, 20.0, 5.0)
    assert (worst.key, worst.value, worst.ratio) == ("decode_2t_token_max", 1000.0, 50.0)
    assert "1 thread's own: 300.0 ms" in worst.figure
    assert p99.holds is worst.holds is None
    assert sum(two) / len(two) < 0.020  # on average the second thread looks like a help
