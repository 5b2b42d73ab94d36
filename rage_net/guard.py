"""What keeps one failing job from ending the node: an exception becomes a counter and a line in the log.

For the node's own tasks. The swarm guards its streams and connections itself, the doors their requests. Not for the
engine of one command: there an exception belongs to whoever waits for it.

Source: design D9; style, "Concurrency and limits".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rage_net.env import Env
from rage_net.errors import RageError
from rage_net.metrics import Metrics

log = logging.getLogger("rage.guard")

Job = Callable[[], Awaitable[None]]


async def guard(name: str, job: Job, metrics: Metrics, *, timeout_s: float | None = None) -> bool:
    """Run `job` once; True when it ended well. Only cancellation passes through.

    Args: name: says in metrics and log what failed; one of a few, never made from input. timeout_s: the job is
    cancelled then, and that is a failure like others.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await job()
    except RageError as error:  # known: the world is to blame, a traceback would say nothing
        log.warning("%s failed: %s", name, error)
    except TimeoutError:
        log.warning("%s failed: not done in time", name)
    except Exception:  # a bug in one job; the node and the other jobs live
        log.exception("%s failed", name)
    else:
        return True
    metrics.failures.add(1, name)
    return False


async def every(
    interval_s: float,
    job: Job,
    *,
    name: str,
    env: Env,
    metrics: Metrics,
    timeout_s: float | None = None,
    at_once: bool = False,
) -> None:
    """Run `job` again and again, `interval_s` after its last end, for as long as the task lives.

    The first run comes after a random part of the interval, so that the jobs of a node, and the nodes of a cluster that
    were started together, do not work in step; or at once.
    """
    if not at_once:
        await asyncio.sleep(env.random.uniform(0, interval_s))
    while True:
        await guard(name, job, metrics, timeout_s=timeout_s)
        await asyncio.sleep(interval_s)
