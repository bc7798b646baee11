"""Buying inference: find providers, ask for quotes, post a job, wait for agreement, fetch the answer.

`from client import connect` is the whole of it for most programs.
"""

from client.client import Client, Offered, Settings
from client.job_options import JobOptions
from client.opening import connect
from client.progress import Progress
from client.results import Balance, JobResult, JobSummary, QuoteReport, Replica, Withdrawal

__all__ = [
    "Balance",
    "Client",
    "JobOptions",
    "JobResult",
    "JobSummary",
    "Offered",
    "Progress",
    "QuoteReport",
    "Replica",
    "Settings",
    "Withdrawal",
    "connect",
]
