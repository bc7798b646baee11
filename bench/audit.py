"""Where cheating stops paying: providers and watchers play many jobs with the market's own payout arithmetic.

Every job of a cheater is offered to one watcher of a crowd, some of whom are the cheater's friends and look away. A
watcher's draw is the real one (market/audit.py). A cheater that is caught loses its pay and its bond, and is even given
back the challengers' reward, as if a friend had always been the first to challenge. Income is what the functions of
market/settlement.py say, so the formula is held against outcomes and not against itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

from bench.common import Row
from market.audit import Stakes, break_even, is_audited
from market.settlement import slash

WATCHERS = 100
JOBS = 6_000
RATES = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(5, 4), Fraction(3, 2), Fraction(7, 4))
"""Audit rates tried, as multiples of the one the formula gives."""
PROVIDERS, GENERATIONS, JOBS_A_GENERATION = 200, 40, 60


@dataclass(frozen=True)
class Setting:
    """A market, amounts in base units: what a job pays and costs, its bond, and who may be bought."""

    name: str
    payment: int
    cost: int
    bond: int
    share_bps: int = 3_000
    bribe: int = 0
    friends: int = 0  # of the WATCHERS

    @property
    def even(self) -> Fraction:
        stakes = Stakes(self.payment, self.bond, self.share_bps, saved=self.cost, bribe=self.bribe)
        rate = break_even(stakes, Fraction(self.friends, WATCHERS))
        assert rate is not None
        return rate


SETTINGS = (
    Setting("bond of 10 prices", payment=1_000, cost=600, bond=10_000),
    Setting("bond of 3 prices", payment=1_000, cost=600, bond=3_000),
    Setting("all of the price saved", payment=1_000, cost=1_000, bond=10_000),
    Setting("bribe of 2 prices", payment=1_000, cost=600, bond=20_000, bribe=2_000),
    Setting("half of the watchers collude", payment=1_000, cost=600, bond=10_000, friends=50),
)


class Crowd:
    """Watchers with a secret each; the first `friends` of them look away from this provider."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._secrets = [self._random.randbytes(32) for _ in range(WATCHERS)]

    def catches(self, setting: Setting, rate: Fraction) -> bool:
        """Whether a wrong answer that is new to everybody is audited by somebody who tells."""
        watcher = self._random.randrange(WATCHERS)
        subject, output = self._random.randbytes(32), self._random.randbytes(32)
        return is_audited(self._secrets[watcher], subject, output, rate) and watcher >= setting.friends


def cheaters_income(setting: Setting, caught: bool) -> int:
    """Of one job: a caught cheater is not paid, loses its bond and gets the reward back through a friend."""
    if not caught:
        return setting.payment + setting.bribe
    return setting.bribe - setting.bond + slash(setting.bond, 0, setting.share_bps).reward


def honest_income(setting: Setting) -> int:
    return setting.payment - setting.cost


def crossing(setting: Setting, seed: int, jobs: int = JOBS) -> tuple[float, float]:
    """The audit rate at which cheating is seen to stop paying, and its standard error.

    A straight line through the advantage at each rate, by least squares; the error of its zero by the delta method.
    """
    crowd = Crowd(seed)
    points = []
    for factor in RATES:
        rate = min(Fraction(1), setting.even * factor)
        incomes = [cheaters_income(setting, crowd.catches(setting, rate)) for _ in range(jobs)]
        mean = sum(incomes) / jobs
        variance = sum((income - mean) ** 2 for income in incomes) / (jobs - 1)
        points.append((float(rate), mean - honest_income(setting), variance / jobs))
    count = len(points)
    middle = sum(x for x, _, _ in points) / count
    spread = sum((x - middle) ** 2 for x, _, _ in points)
    slope = sum((x - middle) * y for x, y, _ in points) / spread
    level = sum(y for _, y, _ in points) / count
    zero = middle - level / slope
    error = sqrt(sum((1 / count + (zero - middle) * (x - middle) / spread) ** 2 * v for x, _, v in points)) / abs(slope)
    return zero, error


def cheaters_left(
    setting: Setting, factor: Fraction, seed: int, generations: int = GENERATIONS, jobs: int = JOBS_A_GENERATION
) -> float:
    """Share of cheaters after generations in which providers copy whoever did better; half cheat at first."""
    crowd, chance = Crowd(seed), random.Random(seed)
    rate = min(Fraction(1), setting.even * factor)
    cheats = [index % 2 == 0 for index in range(PROVIDERS)]
    for _ in range(generations):
        incomes = [
            sum(
                cheaters_income(setting, crowd.catches(setting, rate)) if cheat else honest_income(setting)
                for _ in range(jobs)
            )
            for cheat in cheats
        ]
        rivals = [chance.randrange(PROVIDERS) for _ in cheats]
        cheats = [
            cheats[rival] if incomes[rival] > incomes[index] else cheat
            for index, (cheat, rival) in enumerate(zip(cheats, rivals, strict=True))
        ]
    return sum(cheats) / PROVIDERS


def run() -> list[Row]:
    """The rate where cheating stops paying, played against the formula, and what imitation makes of it."""
    rows = []
    for number, setting in enumerate(SETTINGS):
        found, error = crossing(setting, number)
        even = float(setting.even)
        rows.append(
            Row(
                key=f"break_even_{setting.name.replace(' ', '_')}",
                figure=f"audit rate where cheating stops paying, {setting.name}: played, ± {error:.4f}",
                value=found,
                unit="",
                peer="formula",
                peer_value=even,
                ratio=found / even,
                bar="within 3 standard errors",
                holds=abs(found - even) <= 3 * error,
            )
        )
    for factor, bar, least, most in ((Fraction(1, 2), "> 0.9", 0.9, 1.0), (Fraction(2), "0", 0.0, 0.0)):
        left = cheaters_left(SETTINGS[0], factor, 7)
        rows.append(
            Row(
                key=f"cheaters_at_{float(factor):g}_break_even",
                figure=f"share of cheaters after {GENERATIONS} generations, audited at {float(factor):g} × the rate",
                value=left,
                unit="",
                bar=bar,
                holds=least <= left <= most,
            )
        )
    return rows
