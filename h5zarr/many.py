"""Many HDF5 files at a time: each becomes references of its own, and a bad one stops no other."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from fsspec.utils import stringify_path

from h5zarr.converter import convert, shaping_options
from h5zarr.errors import H5zarrError, OutputError, SourceError
from h5zarr.file_report import FileReport, Status, without_credentials
from h5zarr.inputs import InputFile, expand
from h5zarr.model import Hierarchy, Selection, patterns
from h5zarr.output_names import output_names, public_urls
from h5zarr.prefetch.redact import describe, one_line
from h5zarr.references.formats import WriteOptions, format_of, suffix_of
from h5zarr.resume import provenance_if_current
from h5zarr.scanner import INLINE_LIMIT_BYTES, INLINE_THRESHOLD_BYTES, Progress
from h5zarr.source import local_path
from h5zarr.translator import Links
from h5zarr.workers import Outcome, Work, available_cpus, run_in_executor, run_in_processes

_REMOTE_FILES_PER_PROCESS = 8
_REMOTE_PROCESSES_PER_PROCESSOR = 4
_MOST_REMOTE_PROCESSES = 16
_FAILURES = (H5zarrError, OSError, MemoryError, ImportError)


def convert_many(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    report: Callable[[FileReport], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    group: str = "/",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    inline_threshold: int = INLINE_THRESHOLD_BYTES,
    inline_limit: int = INLINE_LIMIT_BYTES,
    follow_external: bool = False,
    isolate: bool = False,
    timeout: float | None = None,
    links: Links = "arrays",
    phony_dimensions: bool = True,
    **writing: Unpack[WriteOptions],
) -> tuple[FileReport, ...]:
    """Make many HDF5 files readable as Zarr v3, each through references of its own.

    Several files are converted at a time. One that fails stops no other, nor does one that kills
    the process that reads it.

    Parameters
    ----------
    sources
        Paths, fsspec URLs, and patterns of either with ``*``, ``**``, ``?`` and ``[…]``. A file
        that is named twice is converted once.
    out
        Path or fsspec URL of a folder, which is made if missing. References are named as the file,
        with the suffix of their format for its own. Files that would have the same name keep the
        folders below the one they have in common (``2020/a.json``), or their suffixes (``a.nc.json``).
    executor
        Where to convert: an executor of threads or of processes (which must not be forked: libhdf5's
        locks would be too), or that of a Dask client (``Client.get_executor()``). Workers have to see
        the files, and the folder ``out``. None makes processes, so that a file which crashes libhdf5
        does no harm; a script has to call this function under ``if __name__ == "__main__":`` then.
    jobs
        How many files to convert at a time; None makes as many processes as there are processors,
        and for many remote files, which wait for the network, up to four times as many (16 at most).
        Of an executor, how many it can do at a time.
    resume
        Whether to leave what is done: references written by this version of h5zarr, of the same
        file, unchanged as far as its length, time and entity tag tell, with the same options. Files
        that the file names are not compared.
    progress
        Called with the number of files done and their total.
    report
        Called with what became of a file, as soon as it is known.
    storage_options
        Options of the fsspec filesystem of ``sources``.
    public_url
        URL of the folder under which references name the files: the one for the deepest folder that
        has all of them. Of a pattern it is the one for the folder before the first ``*``.
    group, include, exclude, inline_threshold, inline_limit, follow_external, isolate, timeout
        As of `h5zarr.scan`.
    links, phony_dimensions
        As of `h5zarr.translate`.
    **writing
        How to write, as of `h5zarr.references.formats.WriteOptions`; JSON without a ``format``.

    Returns
    -------
    tuple of FileReport
        What became of each file, in the order of ``sources``; those of a pattern are sorted.

    Raises
    ------
    OutputError
        ``out`` is no folder, or cannot be made; or the files have no folder in common that
        ``public_url`` could be that of.
    H5zarrError
        Processes cannot be started.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least one file is converted at a time")
    options: dict[str, Any] = {
        "group": group,
        "include": patterns(include),
        "exclude": patterns(exclude),
        "inline_threshold": inline_threshold,
        "inline_limit": inline_limit,
        "follow_external": follow_external,
        "isolate": isolate,
        "timeout": timeout,
        "links": links,
        "phony_dimensions": phony_dimensions,
        "storage_options": storage_options,
        **writing,
        "format": writing.get("format") or "json",
    }
    _check_folder(stringify_path(out))
    found = list(_find(sources, storage_options))
    job = _Job(options=options, resume=resume, folder=Path.cwd(), token=secrets.token_hex(8))
    plan = _plan(found, stringify_path(out), public_url, job)
    reports: dict[int, FileReport] = {}
    with contextlib.closing(_carry_out(plan, executor, jobs)) as done:
        for number, file_report in done:
            reports[number] = file_report
            if report is not None:
                report(file_report)
            if progress is not None:
                progress(len(reports), len(plan))
    return tuple(reports[number] for number in range(len(plan)))


# What to do ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is the same for all files."""

    options: Mapping[str, Any]
    """Of `convert`."""
    resume: bool
    """Whether to leave what is done."""
    folder: Path
    """The folder of this process, to which paths are relative; workers may be in another one."""
    token: str
    """Tells this run from others: Dask gives the same call's last result again, unless it is dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One file to convert."""

    source: str
    """Its path or URL."""
    out: str
    """Path or URL of its references."""
    public_url: str | None
    """URL by which they name it; None: the one that is read from."""
    job: _Job
    """What is the same for all files."""

    def reachable(self, url: str) -> str:
        """Return a path as a worker in another folder can use it."""
        path = local_path(url)
        return url if path is None or Path.cwd() == self.job.folder else str(self.job.folder / path)


def _check_folder(out: str) -> None:
    if not out:
        raise OutputError("no folder is named for the references")
    if format_of(out) is not None:
        raise OutputError(
            f"{without_credentials(out)}: is the name of one output; name a folder for those of many files"
        )
    _make_folder(out)


def _make_folder(out: str) -> None:
    """Make a local folder; other filesystems make theirs when a file is put there."""
    path = local_path(out)
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: this folder cannot be made: {error.strerror or error}") from error


def _find(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    storage_options: Mapping[str, Any] | None,
) -> Iterator[InputFile | FileReport]:
    """Yield each file once, and what is wrong with an entry that means none."""
    seen = set()
    for entry in [sources] if isinstance(sources, str | os.PathLike) else sources:
        name = stringify_path(entry)
        if not isinstance(name, str):
            kind = type(entry).__name__
            raise TypeError(f"a {kind} cannot be converted among many files; give paths or URLs")
        try:
            files = expand(name, storage_options=storage_options)
        except (SourceError, OSError) as error:
            yield _failure(name, error)
            continue
        for file in files:
            if file.key not in seen:
                seen.add(file.key)
                yield file


def _plan(
    found: Sequence[InputFile | FileReport], out: str, public_url: str | None, job: _Job
) -> list[_Task | FileReport]:
    """Return a task for each file, in the order in which they were found."""
    files = [file for file in found if isinstance(file, InputFile)]
    suffix = suffix_of(job.options["format"])
    names = iter(output_names(files))
    urls = iter(public_urls(files, public_url) if public_url else [None] * len(files))
    plan: list[_Task | FileReport] = []
    source_of: dict[str, str] = {}
    for file in found:
        if isinstance(file, FileReport):
            plan.append(file)
            continue
        target = f"{out.rstrip('/')}/{next(names)}{suffix}"
        task = _Task(source=file.source, out=target, public_url=next(urls), job=job)
        other = source_of.setdefault(target, file.source)
        plan.append(task if other is file.source else _taken(task, other))
    return plan


def _taken(task: _Task, other: str) -> FileReport:
    error = OutputError(
        f"{task.source}: its references would replace {task.out}, those of {other}; convert it by itself"
    )
    return _failure(task.source, error)


# Doing it --------------------------------------------------------------------------------


def _carry_out(
    plan: Sequence[_Task | FileReport], executor: Executor | None, jobs: int | None
) -> Generator[tuple[int, FileReport], None, None]:
    """Yield what became of each of the plan's entries, and which it is, as it comes."""
    numbers = [number for number, entry in enumerate(plan) if isinstance(entry, _Task)]
    tasks = [entry for entry in plan if isinstance(entry, _Task)]
    for number, entry in enumerate(plan):
        if isinstance(entry, FileReport):
            yield number, entry
    work = Work(function=_convert_file, arguments=tasks)
    if executor is None:
        running = run_in_processes(work, jobs or _processes(tasks))
    else:
        running = run_in_executor(work, executor, jobs)
    with contextlib.closing(running):
        for outcome in running:
            yield numbers[outcome.number], _report_of(outcome, tasks[outcome.number], own=executor is None)


def _processes(tasks: Sequence[_Task]) -> int:
    """Return how many processes convert files fastest.

    Local files keep a processor busy. Remote ones let it wait most of the time; but a process takes
    as long to start as several files take.
    """
    processors = available_cpus()
    most = processors
    if any(local_path(task.source) is None for task in tasks):
        useful = min(len(tasks) // _REMOTE_FILES_PER_PROCESS, _REMOTE_PROCESSES_PER_PROCESSOR * processors)
        most = max(processors, min(useful, _MOST_REMOTE_PROCESSES))
    return max(1, min(most, len(tasks)))


def _report_of(outcome: Outcome, task: _Task, *, own: bool) -> FileReport:
    if outcome.error is None:
        done: FileReport = outcome.result
        return done
    words = describe(outcome.error)
    if not isinstance(outcome.error, BrokenExecutor):
        text = f"{task.source}: could not be converted: {words}"
    elif own:
        text = f"{task.source}: the process that read it died; the file is damaged, or memory is short"
    else:
        text = f"{task.source}: the executor is broken: {words}; go on with resume and another one"
    return _failure(task.source, H5zarrError(text))


def _convert_file(task: _Task) -> FileReport:
    """Convert one file: what workers are given to do."""
    started = time.perf_counter()
    try:
        done = _kept(task) or _converted(task)
    except _FAILURES as error:
        done = _failure(task.source, error)
    return replace(done, seconds=time.perf_counter() - started)


def _converted(task: _Task) -> FileReport:
    source, out = task.reachable(task.source), task.reachable(task.out)
    _make_folder(out.rpartition("/")[0])
    conversion = convert(source, out, public_url=task.public_url, **task.job.options)
    return _success(task, conversion.hierarchy)


def _kept(task: _Task) -> FileReport | None:
    """Return the report of what is done already; None where it has to be done."""
    options = task.job.options
    # Provenance is read from an Icechunk repository's main branch.
    if not task.job.resume or options.get("branch") is not None:
        return None
    selection = Selection(
        root="/" + options["group"].strip("/"), include=options["include"], exclude=options["exclude"]
    )
    known = provenance_if_current(
        task.reachable(task.out),
        task.reachable(task.source),
        selection=selection,
        options=shaping_options(options),
        public_url=task.public_url,
        storage_options=options["storage_options"],
        output_options=options.get("output_options"),
    )
    if known is None:
        return None
    return FileReport(source=task.source, out=task.out, status=Status.UNCHANGED, problems=known.problems)


def _success(task: _Task, hierarchy: Hierarchy) -> FileReport:
    manifests = [array.manifest for array in hierarchy.arrays()]
    return FileReport(
        source=task.source,
        out=task.out,
        status=Status.CONVERTED,
        problems=hierarchy.problems,
        arrays=len(manifests),
        references=sum(len(manifest.grid_position) for manifest in manifests),
        inline=sum(len(manifest.inline) for manifest in manifests),
    )


def _failure(source: str, error: BaseException) -> FileReport:
    text = one_line(error) or type(error).__name__
    return FileReport(source=source, out=None, status=Status.FAILED, error=text)
