"""A function called for many arguments at a time, in processes that may die or in anybody's executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from h5zarr.errors import H5zarrError

_CALLS_PER_JOB = 4
"""Calls given to an executor for each that it can do at a time, so that it never waits for the next."""
_CALLS_OF_UNKNOWN_EXECUTOR = 1000
_MOST_PROCESSES = 61
"""Of a `ProcessPoolExecutor` on Windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one call."""

    number: int
    """Which of the arguments it was for."""
    result: Any
    """What the function returned."""
    error: BaseException | None
    """Why it returned nothing; None where it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A function and what it is to be called with."""

    function: Callable[[Any], Any]
    """A function of a module, which other processes can import."""
    arguments: Sequence[Any]
    """The argument of each call."""


Outcomes: TypeAlias = Generator[Outcome, None, None]


def available_cpus() -> int:
    """Return how many processors this process may use, but no more than a pool of processes can."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(known, _MOST_PROCESSES)


def run_in_executor(work: Work, executor: Executor, jobs: int | None = None) -> Outcomes:
    """Yield what comes of each call, as it comes.

    Parameters
    ----------
    work
        The calls.
    executor
        Any executor; where it breaks, that is the outcome of the calls that are left.
    jobs
        How many calls it can do at a time; None where nobody knows.
    """
    most = _CALLS_OF_UNKNOWN_EXECUTOR if jobs is None else jobs * _CALLS_PER_JOB
    return _run(work, executor, deque(range(len(work.arguments))), most)


def run_in_processes(work: Work, jobs: int) -> Outcomes:
    """Yield what comes of each call, as it comes, in as many processes.

    Where a process dies, each call that was under way is made again with none beside it: one that
    kills its process then is known, and nothing else is lost.

    Parameters
    ----------
    work
        The calls.
    jobs
        How many processes.

    Raises
    ------
    H5zarrError
        Processes cannot be started.
    """
    return _run_in_pools(work, range(len(work.arguments)), jobs, jobs * _CALLS_PER_JOB)


def _run_in_pools(work: Work, numbers: Iterable[int], jobs: int, most_under_way: int) -> Outcomes:
    waiting = deque(numbers)
    while waiting:
        suspects: list[Outcome] = []
        left: list[int] = []
        with _pool(jobs) as pool:
            _check_start(pool, work)
            for outcome in _run(work, pool, waiting, most_under_way):
                if isinstance(outcome.error, BrokenProcessPool):
                    suspects.append(outcome)
                    left.extend(waiting)
                    waiting.clear()
                else:
                    yield outcome
        waiting.extend(left)
        if most_under_way == 1:
            yield from suspects
        else:
            yield from _run_in_pools(work, [suspect.number for suspect in suspects], 1, 1)


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    """Give a pool of processes; those that are at work when it is left finish their call."""
    pool = ProcessPoolExecutor(
        jobs,
        # A forked process would share libhdf5's locks and fsspec's event loop with this one.
        mp_context=multiprocessing.get_context("spawn"),
        # Ctrl-C reaches the whole process group; this process alone decides what it ends.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_start(pool: Executor, work: Work) -> None:
    """Have a process import and unpickle what it will be given: where it dies of that, each one would."""
    try:
        pool.submit(_receive, work.function, work.arguments[0]).result()
    except BrokenProcessPool as error:
        raise H5zarrError(
            "worker processes cannot start; where a script begins this, it must do so under"
            ' `if __name__ == "__main__":`, since each worker imports the script'
        ) from error


def _receive(*_: object) -> None:
    pass


def _run(work: Work, executor: Executor, waiting: deque[int], most_under_way: int) -> Outcomes:
    """Yield what comes of the calls that are waiting, and of those that the caller adds or takes away."""
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    under_way: dict[Future[Any], int] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < most_under_way:
                number = waiting.popleft()
                future = _submit(executor, work.function, work.arguments[number])
                under_way[future] = number
                future.add_done_callback(done.put)
            future = done.get()
            yield _outcome(under_way.pop(future), future)
    finally:
        for future in under_way:
            future.cancel()


def _submit(executor: Executor, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
    """Return the future of a call, which has failed already where the executor takes no more."""
    try:
        return executor.submit(function, argument)
    # Executors have classes of their own for being closed (distributed), which need not be installed
    # here to be named; what it was is the outcome.
    except Exception as error:  # noqa: BLE001
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _outcome(number: int, future: Future[Any]) -> Outcome:
    if future.cancelled():
        return Outcome(number=number, result=None, error=CancelledError("it was cancelled"))
    error = future.exception()
    return Outcome(number=number, result=None if error is not None else future.result(), error=error)
