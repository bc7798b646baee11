"""What Prometheus reads: counters of this process, and sums of the journal and the queue made when it asks.

Everything that the files know is read from them, so a restart resets no total. Values are doubles by Prometheus' own
format: `assay provider earnings` has the exact sums. No label holds anything a stranger chose.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from market.errors import AssayError
from market.transaction_history import TransactionHistory
from market.transaction_queue import State
from provider.chainside import Outlook
from provider.drain import Drain
from provider.executor import Answer, Failure
from provider.journal import Journal
from provider.records import Stage

PREFIX = "assay_provider_"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What happens in this process. Thread-safe.

    Args:
        registry: takes the metrics; one per agent.
        clock: unix seconds.
    """

    def __init__(self, registry: CollectorRegistry | None = None, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._clock = clock
        self._quotes = Counter(PREFIX + "quotes", "Quotes signed.", registry=self.registry)
        self._refusals = Counter(
            PREFIX + "refusals", "HTTP requests refused, by error code.", ["code"], registry=self.registry
        )
        self._responses = Counter(
            PREFIX + "http_responses", "HTTP answers, by status.", ["status"], registry=self.registry
        )
        self._inference = Histogram(
            PREFIX + "inference_seconds", "Time of the engine for one job.", buckets=_SECONDS, registry=self.registry
        )
        self._tokens = Counter(PREFIX + "output_tokens", "Tokens the engine made.", registry=self.registry)
        self._failures = Counter(
            PREFIX + "inference_failures", "Jobs the engine could not answer.", ["code"], registry=self.registry
        )
        self._errors = Counter(
            PREFIX + "errors",
            "Steps of a job and looks at the chain that failed and are tried again.",
            ["part", "code"],
            registry=self.registry,
        )
        self._replies = Counter(PREFIX + "dispute_replies", "Replies given in disputes.", registry=self.registry)
        self._disputes = Gauge(
            PREFIX + "disputes_open",
            "Disputes about this provider's answers that are not over.",
            registry=self.registry,
        )
        self._last_error = Gauge(
            PREFIX + "last_error_timestamp_seconds", "When the last of them failed; 0: none.", registry=self.registry
        )

    def quoted(self) -> None:
        self._quotes.inc()

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def answered(self, status: int) -> None:
        self._responses.labels(str(status)).inc()

    def computed(self, outcome: Answer | Failure | None) -> None:
        """An outcome of the engine."""
        if isinstance(outcome, Answer):
            self._inference.observe(outcome.milliseconds / 1000)
            self._tokens.inc(len(outcome.ids))
        elif outcome is not None:
            self._failures.labels(outcome.code).inc()

    def replied(self, count: int) -> None:
        """Replies in disputes are in a block."""
        self._replies.inc(count)

    def disputed(self, count: int) -> None:
        """So many disputes are not over."""
        self._disputes.set(count)

    def failed(self, part: str, code: str) -> None:
        """A step or a look failed; `part` is job, chain or dispute."""
        self._errors.labels(part, code).inc()
        self._last_error.set(self._clock())


class Books(Collector):
    """Sums of the journal and the queue, and what the last look at the chain saw. No RPC call.

    Args:
        outlook: what was true at the newest head seen.
        load: jobs in the engine or waiting for it; limit: of them.
        ready: whether a job can be taken now.
    """

    def __init__(
        self,
        journal: Journal,
        history: TransactionHistory,
        drain: Drain,
        *,
        outlook: Callable[[], Outlook],
        load: Callable[[], int],
        limit: int,
        ready: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._history = history
        self._drain = drain
        self._outlook = outlook
        self._load = load
        self._limit = limit
        self._ready = ready
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        with self._one_at_a_time:
            readable = 1
            try:
                found = [*self._from_journal(), *self._from_queue()]
            except AssayError:  # a full disk must not take the alarm about it away
                found, readable = [], 0
            yield _gauge("books_readable", "Whether journal and transaction queue could be read.", readable)
            yield from found
            yield from self._now()

    def _from_journal(self) -> Iterator[Metric]:
        tally = self._journal.tally()
        stages = GaugeMetricFamily(PREFIX + "jobs", "Jobs by stage.", labels=["stage"])
        for stage in Stage:
            stages.add_metric([stage.value], tally.stages.get(stage.value, 0))
        yield stages
        yield _counters("jobs_finished", "Jobs that came to an end, by outcome.", "outcome", tally.outcomes)
        yield _counters("jobs_refused", "Jobs assigned and not worked on, by reason.", "reason", tally.refusals)
        yield _counter("earned_base_units", "Escrow paid to this provider.", self._journal.earned())
        stake = GaugeMetricFamily(PREFIX + "stake_base_units", "Stake by state.", labels=["state"])
        stake.add_metric(["free"], self._outlook().stake)
        stake.add_metric(["locked"], tally.locked)
        yield stake

    def _from_queue(self) -> Iterator[Metric]:
        totals = self._history.totals()
        count = totals.by_state
        yield _counter("transactions_sent", "Transactions sent.", sum(count.values()))
        yield _counter("transactions_replaced", "Times a stuck one was offered more.", totals.replaced)
        yield _counter("transactions_mined", "Transactions in a block that succeeded.", count.get(State.MINED, 0))
        failed = CounterMetricFamily(PREFIX + "transactions_failed", "Transactions that did nothing.", labels=["state"])
        for state in (State.REVERTED, State.LOST):
            failed.add_metric([state.value], count.get(state, 0))
        yield failed
        yield _gauge("transactions_pending", "Transactions in no block yet.", count.get(State.PENDING, 0))
        yield _counter("gas", "Gas used.", totals.gas_used)
        yield _counter("gas_spent_wei", "Wei paid for gas.", totals.fee_wei)

    def _now(self) -> Iterator[Metric]:
        outlook = self._outlook()
        yield _gauge("engine_queue_depth", "Jobs in the engine or waiting for it.", self._load())
        yield _gauge("engine_queue_limit", "Most of them.", self._limit)
        yield _gauge("head_block", "Number of the newest block seen.", outlook.head.number)
        yield _gauge("head_timestamp_seconds", "Its timestamp.", outlook.head.timestamp)
        lag = max(0.0, self._clock() - outlook.head.timestamp)
        yield _gauge("head_lag_seconds", "How old it is by this machine's clock.", lag)
        yield _gauge("fee_per_gas_wei", "What a unit of gas would cost.", outlook.fee_per_gas)
        yield _gauge("gas_coin_wei", "The account's gas coin.", outlook.gas_wei)
        yield _gauge("ready", "Whether a job can be taken.", int(self._ready()))
        yield _gauge("draining", "Whether no new work is taken.", int(self._drain.active))


def create_metrics_app(registry: CollectorRegistry, allow: Sequence[str]) -> Starlette:
    """GET /metrics for the networks in `allow`; 403 for everybody else."""
    networks = [ipaddress.ip_network(network) for network in allow]
    ProcessCollector(registry=registry)

    def metrics(request: Request) -> Response:  # on a worker thread: it reads files
        if request.client is None or not _is_in(request.client.host, networks):
            return PlainTextResponse("This address may not read the metrics; see metrics.allow.\n", 403)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])


def _is_in(host: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
