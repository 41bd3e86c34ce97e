"""Proof that references give what h5py reads.

The references are opened as a consumer opens them. What cannot be compared is a mismatch too: a report
is ``ok`` only if everything was equal.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import zarr
from fsspec.core import split_protocol
from fsspec.utils import stringify_path

from h5zarr.compare_arrays import READ_ERRORS, Progress, choose_blocks, compare_values, one_line
from h5zarr.consumer import OpenReferences, References, open_references
from h5zarr.errors import GroupNotFoundError, ReferencesError
from h5zarr.link_paths import leads_out
from h5zarr.linked_files import LinkedFiles
from h5zarr.model import Part, SourceIdentity
from h5zarr.neighbours import Neighbourhood
from h5zarr.object_check import ObjectCheck
from h5zarr.object_names import find_objects
from h5zarr.prefetch import redact
from h5zarr.rectilinear_setting import reading_all_grids
from h5zarr.references.formats import format_of, repository_version
from h5zarr.references.provenance import Provenance
from h5zarr.report import Findings, Kind, Mismatch, ValidationReport, summed
from h5zarr.source import OpenSource, identify, local_path, local_url, open_source
from h5zarr.versions import difference
from h5zarr.workers import Work, run_in_executor, run_in_processes

__all__ = ["Kind", "Mismatch", "ValidationReport", "validate"]


def validate(
    references: References,
    *,
    source: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    sample: int | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare all that references give with what h5py reads from the HDF5 file.

    Numbers are equal where all their bits are; signed zeros and the payloads of NaNs count. Of
    fixed-length strings trailing NULs do not count.

    What was combined is compared with every file of it: arrays that were joined with all their files,
    attributes and all other arrays with the first, whose they are. Times that a file tells in other units
    are compared as times.

    Parameters
    ----------
    references
        Path or URL of references: JSON (fsspec's reference specification), Parquet, Icechunk, or a Zarr
        store that holds the chunks, as their suffix tells; or the dict of the first.
    source
        Path or URL of the HDF5 file, where it is not the one that the references tell of.
    storage_options
        Options of the fsspec filesystem of the HDF5 file; where ``references`` are remote, of theirs too.
    sample
        Compare the values of that many chunks only, chosen over all arrays. Attributes, shapes, data
        types and missing references are always compared whole.
    seed
        The same seed chooses the same sample.
    executor, jobs
        Where the files of what was combined are compared, and how many at a time: an executor of
        threads or processes, or that of a Dask client. None: in this process, or in ``jobs`` processes.
    progress
        Called with the bytes compared so far and the bytes to compare; of what was combined, with files.

    Returns
    -------
    ValidationReport
        What was compared, and everything that is not the same.

    Raises
    ------
    ReferencesError
        The references cannot be read, are no references, or do not tell of their source.
    SourceError
        The HDF5 file cannot be read; the subclass tells why.
    GroupNotFoundError
        The group of which the references were made is not in the file.
    ValueError
        ``sample`` is negative.
    """
    if sample is not None and sample < 0:
        raise ValueError(f"sample is {sample}; it must not be negative")
    job = _Job(
        references=references if isinstance(references, Mapping) else stringify_path(references),
        source=None if source is None else stringify_path(source),
        storage_options=dict(storage_options or {}),
        sample=sample,
        seed=seed,
    )
    with reading_all_grids():
        opened = job.open()
        parts = opened.provenance.parts
        if parts and source is not None:
            raise ReferencesError("the references tell of several files; source can name only one")
        if parts:
            workers = _Workers(executor=executor, count=jobs)
            return _validate_parts(opened, parts, job, workers, progress)
        return _validate_file(opened, _only_part(opened.provenance, job), job, progress)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What was asked for."""

    references: str | Mapping[str, Any]
    """The references."""
    source: str | None
    """The HDF5 file, where it is not the one that they tell of."""
    storage_options: Mapping[str, Any]
    """Options of its filesystem."""
    sample: int | None
    """How many chunks are compared; None: all."""
    seed: int
    """What chooses them."""

    def open(self) -> OpenReferences:
        """Open the references."""
        protocol = None if self.source is None else split_protocol(self.source)[0]
        return open_references(self.references, self.storage_options, source_protocol=protocol)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Workers:
    """Who compares files."""

    executor: Executor | None
    """The caller's executor; None where there is none."""
    count: int | None
    """How many files are compared at a time; None where nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _FilePart:
    """One file to compare with."""

    url: str
    """Where it is."""
    recorded: SourceIdentity | None
    """What the references tell of it."""
    is_moved: bool
    """Whether it is another copy than the one that they tell of."""
    part: Part | None
    """Its place among several; None where it is the only one."""
    is_first: bool
    """Whether it is the first."""
    neighbours: tuple[SourceIdentity, ...]
    """What the references tell of further files that it names."""

    def comparable(self, recorded: SourceIdentity) -> SourceIdentity:
        """Return of what references tell of a file what a copy of it has, too: times and tags are its own."""
        return replace(recorded, modified=None, etag=None) if self.is_moved else recorded


# One file --------------------------------------------------------------------------------


def _untold(references: str | Mapping[str, Any]) -> str:
    if isinstance(references, Mapping):
        return "the references do not tell which file they were made of; give it as source"
    text = f"{redact(references)}: does not tell which file it was made of; give it as source"
    if format_of(references) == "icechunk" and repository_version(references)[1] is None:
        text += f", or name the branch that was written: {redact(references).rstrip('/')}@BRANCH"
    return text


def _only_part(told: Provenance, job: _Job) -> _FilePart:
    if job.source is None and told.source is None:
        raise ReferencesError(_untold(job.references))
    url = job.source if told.source is None or job.source is not None else told.source.url
    assert url is not None
    return _FilePart(
        url=url,
        recorded=told.source,
        is_moved=job.source is not None,
        part=None,
        is_first=True,
        neighbours=told.neighbours,
    )


def _validate_file(
    opened: OpenReferences, one: _FilePart, job: _Job, progress: Progress | None
) -> ValidationReport:
    findings = Findings()
    findings.extend(_source_changes(one, job.storage_options))
    before = opened.store.byte_length
    told = opened.provenance
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(one.url, storage_options=job.storage_options))
        root = told.selection.root if one.part is None else one.part.selection.root
        check = ObjectCheck(
            provenance=told,
            part=one.part,
            is_first=one.is_first,
            file=source.file,
            remote=source.remote,
            linked=_linked_files(source, root, told, job, stack),
            names=find_objects(source.file, root),
            root=_open_group(opened, findings),
            references=opened.entries,
            findings=findings,
        )
        pairs = check.pairs()
        chosen = choose_blocks(pairs, opened.entries, job.sample, job.seed)
        tally = compare_values(chosen, findings, progress)
        fetched = 0 if source.fetched is None else source.fetched.byte_length
    return ValidationReport(
        source=redact(one.url),
        arrays_compared=len(pairs),
        chunks_compared=tally.chunks,
        chunks_total=sum(pair.grid.chunk_count for pair in pairs),
        bytes_compared=tally.byte_length,
        bytes_moved=fetched + opened.store.byte_length - before,
        problems_reported=len(told.problems),
        mismatch_count=findings.total,
        mismatches=tuple(findings.listed),
    )


def _linked_files(
    source: OpenSource, root: str, told: Provenance, job: _Job, stack: contextlib.ExitStack
) -> LinkedFiles | None:
    """Return the files that links of a remote file lead to."""
    follow_external = bool(told.options.get("follow_external"))
    place = Neighbourhood(url=source.url, public_url=source.url, follow_external=follow_external)
    if place.is_local:
        return None
    if leads_out(source.file.id, root):
        raise GroupNotFoundError(
            f"{redact(source.url)}: {root} is in another file, and libhdf5 follows no links of remote"
            " files; give a local copy as source"
        )
    return LinkedFiles(place=place, storage_options=job.storage_options, stack=stack)


def _source_changes(one: _FilePart, storage_options: Mapping[str, Any]) -> Iterator[Mismatch]:
    """Yield what tells that the file, or one that it names, is another one."""
    now = identify(one.url, storage_options)
    if one.recorded is None:
        return
    found = difference(one.comparable(one.recorded), now)
    if found is not None:
        yield _changed("the file that was scanned", found)
    path = local_path(one.url)
    place = Neighbourhood(
        url=one.url if path is None else local_url(path),
        public_url=one.recorded.url,
        storage_options=storage_options,
    )
    for neighbour in one.neighbours:
        found = place.difference(one.comparable(neighbour))
        if found is not None:
            yield _changed(f"the file {redact(neighbour.url)} as it was", found)


def _changed(expected: str, found: str) -> Mismatch:
    return Mismatch(path="/", kind=Kind.SOURCE_CHANGED, expected=expected, found=f"another one: {found}")


def _open_group(opened: OpenReferences, findings: Findings) -> zarr.Group:
    """Open the root; where its consolidated metadata is not understood, each node is tried for itself."""
    try:
        return zarr.open_group(opened.store, mode="r")
    except READ_ERRORS as error:
        findings.add("/", Kind.UNREADABLE, "a Zarr group", one_line(error))
    try:
        return zarr.open_group(opened.store, mode="r", use_consolidated=False)
    except READ_ERRORS as error:
        raise ReferencesError(f"zarr cannot open the root group: {one_line(error)}") from error


# Several files ---------------------------------------------------------------------------


def _validate_parts(
    opened: OpenReferences,
    parts: Sequence[Part],
    job: _Job,
    workers: _Workers,
    progress: Progress | None,
) -> ValidationReport:
    jobs = [replace(job, sample=sample) for sample in _samples(len(parts), job)]
    reports: dict[int, ValidationReport] = {}
    with contextlib.closing(_reports(opened, parts, jobs, workers)) as done:
        for number, report in done:
            reports[number] = report
            if progress is not None:
                progress(len(reports), len(parts))
    return summed(
        [reports[number] for number in range(len(parts))],
        source=f"{len(parts)} files",
        problems_reported=len(opened.provenance.problems),
    )


def _reports(
    opened: OpenReferences, parts: Sequence[Part], jobs: Sequence[_Job], workers: _Workers
) -> Generator[tuple[int, ValidationReport], None, None]:
    """Yield the number of each file and its report, as they come."""
    if workers.executor is None and (workers.count or 1) == 1:
        for number, job in enumerate(jobs):
            yield number, _validate_part(opened, parts, number, job)
        return
    work = Work(function=_validate_elsewhere, arguments=list(enumerate(jobs)))
    if workers.executor is not None:
        outcomes = run_in_executor(work, workers.executor, workers.count)
    else:
        outcomes = run_in_processes(work, workers.count or 1)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        yield outcome.number, outcome.result


def _validate_elsewhere(task: tuple[int, _Job]) -> ValidationReport:
    number, job = task
    with reading_all_grids():
        opened = job.open()
        return _validate_part(opened, opened.provenance.parts, number, job)


def _validate_part(opened: OpenReferences, parts: Sequence[Part], number: int, job: _Job) -> ValidationReport:
    part = parts[number]
    one = _FilePart(
        url=part.source.url,
        recorded=part.source,
        is_moved=False,
        part=part,
        is_first=number == 0,
        neighbours=part.neighbours,
    )
    report = _validate_file(opened, one, job, None)
    named = [replace(one, expected=f"{one.expected} (in {part.source.url})") for one in report.mismatches]
    return replace(report, mismatches=tuple(named))


def _samples(count: int, job: _Job) -> list[int | None]:
    """Return how many chunks of each file are compared."""
    if job.sample is None:
        return [None] * count
    each, more = divmod(job.sample, count)
    lucky = set(random.Random(job.seed).sample(range(count), more))
    return [each + (number in lucky) for number in range(count)]
