"""From an HDF5 file to its `FileScan`: everything that translation needs, in HDF5's words."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
from h5py import h5f

from h5zarr.errors import (
    GroupNotFoundError,
    Problem,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
    UntranslatableError,
)
from h5zarr.isolation import LONGEST_TIMEOUT_SECONDS, call_isolated
from h5zarr.link_paths import ElsewhereTarget, follow_path
from h5zarr.model import Dataset, FileScan, Group, Selection, patterns
from h5zarr.neighbours import Neighbourhood
from h5zarr.prefetch import Interest, one_line, redact
from h5zarr.prefetch.redact import holds_credentials
from h5zarr.read_data import InlineBudget
from h5zarr.read_object import Reader, read_dataset, read_group
from h5zarr.read_values import READ_ERRORS, ReferenceNames
from h5zarr.source import Source, check_public, open_source
from h5zarr.walk import ExternalLink, Walk, is_dataset, walk

Progress = Callable[[int, int], None]
"""Called with the number of objects done and their total."""

INLINE_THRESHOLD_BYTES = 500
INLINE_LIMIT_BYTES = 64 * 2**20
_PREFIXES = "HDF5_EXT_PREFIX"
_MOST_EXTERNAL_LINKS_DEEP = 16


def scan(
    source: Source,
    *,
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
    progress: Progress | None = None,
) -> FileScan:
    """Read the description and the chunk index of every dataset of an HDF5 file.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`.
    storage_options
        Options of the fsspec filesystem.
    public_url
        The URL to name in references, where it is not the one that is read from.
    group
        Scan from this group down.
    include, exclude
        Shell patterns of absolute dataset paths to take and to leave out, one or several. One to take
        that matches none is a problem.
    inline_threshold
        Datasets whose stored chunks take at most this many bytes in all are read with the scan.
    inline_limit
        At most this many bytes of values are read with the scan in all.
    follow_external
        Whether files outside of the source's own folder are opened, which external links, external
        storage and virtual datasets may name.
    isolate
        Scan in a process of its own, for files that are not trusted: what crashes libhdf5 there is
        an error here. ``source`` has to be a path or URL, and there is no progress.
    timeout
        Longest time that the scan may take (seconds), which is isolated then.
    progress
        Called with the number of objects done and their total.

    Raises
    ------
    SourceError
        The file cannot be read, or its URL may not stand in references; the subclass tells why.
    SourceChangedError
        The file was written to while it was scanned.
    GroupNotFoundError
        ``group`` is not in the file.
    ValueError
        ``timeout`` is not positive or longer than a million seconds, or a number of bytes is negative.
    """
    _check_numbers(timeout, inline_threshold=inline_threshold, inline_limit=inline_limit)
    if isolate or timeout is not None:
        options = {
            "storage_options": storage_options,
            "public_url": public_url,
            "group": group,
            "include": patterns(include),
            "exclude": patterns(exclude),
            "inline_threshold": inline_threshold,
            "inline_limit": inline_limit,
            "follow_external": follow_external,
        }
        return _scan_isolated(source, options, timeout)
    selection = Selection(root="/" + group.strip("/"), include=patterns(include), exclude=patterns(exclude))
    budget = InlineBudget(threshold=inline_threshold, remaining=inline_limit)
    job = _Job(
        selection=selection,
        budget=budget,
        storage_options=storage_options,
        progress=progress,
        unmatched=selection.include,
    )
    interest = job.interest(selection.root, selection.selects)
    with open_source(
        source, storage_options=storage_options, public_url=public_url, interest=interest
    ) as opened:
        check_public(opened.identity.url)
        place = Neighbourhood(
            url=opened.url,
            public_url=opened.identity.url,
            follow_external=follow_external,
            storage_options=storage_options,
        )
        _scan_root(job, opened.file, _Mount(inner=selection.root, outer=selection.root, place=place))
        page_byte_length = _page_byte_length(opened.file)
    job.problems.extend(_unmatched(job))
    return FileScan(
        source=opened.identity,
        selection=selection,
        groups=tuple(job.groups),
        datasets=tuple(job.datasets),
        problems=tuple(job.problems),
        neighbours=tuple(one for url, one in place.met.items() if url != opened.identity.url),
        page_byte_length=page_byte_length,
        fetched=opened.fetched,
    )


def _check_numbers(timeout: float | None, **byte_lengths: int) -> None:
    for name, byte_length in byte_lengths.items():
        if byte_length < 0:
            raise ValueError(f"{name} is {byte_length}; it cannot be negative")
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT_SECONDS:  # NaN neither
        raise ValueError(f"timeout is {timeout}; choose up to {LONGEST_TIMEOUT_SECONDS:,} seconds")


def _unmatched(job: _Job) -> Iterator[Problem]:
    """Yield a problem for each pattern that matches neither a dataset nor a link that leads to none."""
    lost = [problem.path for problem in job.problems]
    for pattern in job.unmatched:
        if not fnmatch.filter(lost, pattern):
            yield Problem(
                # The pattern may be the path of a group, of which nothing is lost.
                path="/",
                found=f"no dataset matches the include pattern {pattern}",
                remedy="patterns are of absolute paths, such as /group/name or /group/*",
            )


def _page_byte_length(file: h5py.File) -> int | None:
    """Return the length of the file's pages; None where metadata and data stand side by side."""
    creation = file.id.get_create_plist()
    strategy = creation.get_file_space_strategy()[0]
    return int(creation.get_file_space_page_size()) if strategy == h5f.FSPACE_STRATEGY_PAGE else None


def _scan_isolated(source: Source, options: Mapping[str, Any], timeout: float | None) -> FileScan:
    if not isinstance(source, str | os.PathLike):
        raise SourceError("an open file cannot be scanned in another process; give its path or URL")
    name = os.fspath(source)
    arguments = {"source": name, **options}
    scanned: FileScan = call_isolated("h5zarr.scanner", "scan", name, arguments, timeout=timeout)
    return scanned


@dataclass(kw_only=True, slots=True)
class _Job:
    """What was asked for, and what has been gathered of it."""

    selection: Selection
    budget: InlineBudget
    storage_options: Mapping[str, Any] | None
    progress: Progress | None
    groups: list[Group] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unmatched: tuple[str, ...]
    """Those patterns of datasets to take that none has matched yet."""

    def selects(self, path: str) -> bool:
        """Return whether the dataset of that name was asked for."""
        self.unmatched = tuple(one for one in self.unmatched if not fnmatch.fnmatchcase(path, one))
        return self.selection.selects(path)

    def interest(self, root: str, wants: Callable[[str], bool]) -> Interest:
        """Return what of a file will be read, for a remote file to be fetched ahead."""
        return Interest(
            root=root,
            wants=wants,
            small_data=min(self.budget.threshold, self.budget.remaining),
            heap_data=self.budget.remaining,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mount:
    """Where the objects of one file appear among those of the scanned file."""

    inner: str
    """Absolute path in the file."""
    outer: str
    """Absolute path in the scanned file."""
    place: Neighbourhood
    """The file."""
    above: tuple[tuple[str, str], ...] = ()
    """URL and inner path of the external links that led here."""

    @property
    def filename(self) -> str | None:
        """Name of the file, where it is not the scanned one."""
        return posixpath.basename(self.place.url.partition("?")[0]) if self.above else None

    def path(self, inner_path: str) -> str:
        """Return the path in the scanned file of a path in this one."""
        if self.inner == self.outer:
            return inner_path
        below = inner_path[len(self.inner.rstrip("/")) :]
        return self.outer + below if below != "/" else self.outer


def _scan_root(job: _Job, file: h5py.File, mount: _Mount) -> None:
    """Scan the selected group; a link may lead to it in another file."""
    try:
        target = follow_path(file.id, mount.inner)
    except READ_ERRORS:
        target = mount.inner  # which is told of where it is opened
    if not isinstance(target, ElsewhereTarget):
        _scan_file(job, file, mount)
        return
    try:
        _scan_linked(job, target, mount)
    except UntranslatableError as refused:
        raise GroupNotFoundError(f"{mount.inner}: {refused.found}; {refused.remedy}") from refused


def _scan_file(job: _Job, file: h5py.File, mount: _Mount) -> None:
    found = walk(file, mount.inner)
    names = {address: mount.path(path) for address, path in found.path_of_address().items()}
    reader = Reader(
        file=file.id,
        name_of=ReferenceNames(file.id, names, mount.filename),
        budget=job.budget,
        neighbourhood=mount.place,
        problems=job.problems,
        url=mount.place.public_url if mount.above else None,
    )
    job.problems.extend(found.problems)
    _read_objects(job, reader, found, mount)
    for link in sorted(found.external_links, key=lambda link: link.filename):
        _follow_external_link(job, link, mount)


def _read_objects(job: _Job, reader: Reader, found: Walk, mount: _Mount) -> None:
    wanted = {}
    for inner in found.dataset_names.values():
        selected = [name for name in map(mount.path, inner) if job.selects(name)]
        if selected:
            wanted[inner[0]] = selected
    total = len(job.groups) + len(job.datasets) + len(found.group_names) + len(wanted)
    for inner in found.group_names.values():
        job.groups.append(read_group(reader, inner[0], list(map(mount.path, inner))))
        _report(job, total)
    for inner_path, names in wanted.items():
        dataset = read_dataset(reader, inner_path, names)
        if dataset is not None:
            job.datasets.append(dataset)
        _report(job, total)


def _report(job: _Job, total: int) -> None:
    if job.progress is not None:
        job.progress(len(job.groups) + len(job.datasets), total)


# External links --------------------------------------------------------------------------


def _follow_external_link(job: _Job, link: ExternalLink, mount: _Mount) -> None:
    """Scan what an external link leads to as if it stood in the scanned file."""
    path = mount.path(link.path)
    target = ElsewhereTarget(filename=link.filename, path=link.target)
    described = f"an external link to {link.target} in {redact(link.filename)}"
    try:
        _scan_linked(job, target, replace(mount, outer=path))
    except UntranslatableError as refused:
        job.problems.append(Problem(path=path, found=f"{described}: {refused.found}", remedy=refused.remedy))
    except SourceChangedError:
        raise
    except (SourceError, *READ_ERRORS) as error:
        found = f"{described}: {one_line(error)}"
        job.problems.append(
            Problem(path=path, found=found, remedy="put the file beside the one with the link")
        )


def _scan_linked(job: _Job, target: ElsewhereTarget, mount: _Mount) -> None:
    """Scan what is in another file than the mount's, to appear at the mount's outer path."""
    if "://" in target.filename and holds_credentials(target.filename):
        raise UntranslatableError(
            "this name holds credentials, which must not stand in references", "link to the file without them"
        )
    url, inner = mount.place.find(target.filename, _PREFIXES), "/" + target.path.strip("/")
    above = (*mount.above, (url, inner))
    if (url, inner) in mount.above or len(above) > _MOST_EXTERNAL_LINKS_DEEP:
        raise UntranslatableError("it leads back to itself", "nothing is lost but the repetition")
    place = replace(mount.place, url=url, public_url=mount.place.publish(url))
    linked = _Mount(inner=inner, outer=mount.outer, place=place, above=above)
    interest = job.interest(inner, lambda inner_path: job.selection.selects(linked.path(inner_path)))
    with contextlib.ExitStack() as stack:
        source = open_source(url, storage_options=job.storage_options, interest=interest)
        try:
            opened = stack.enter_context(source)
        except SourceNotFoundError:
            mount.place.note(url, None)
            raise
        mount.place.note(url, opened.identity)
        _scan_target(job, opened.file, linked)


def _scan_target(job: _Job, file: h5py.File, mount: _Mount) -> None:
    """Scan what a link leads to, which may be another link."""
    target = follow_path(file.id, mount.inner)
    if isinstance(target, ElsewhereTarget):
        _scan_linked(job, target, mount)
    elif is_dataset(file.id, target):
        _read_linked_dataset(job, file, mount)
    else:
        _scan_file(job, file, mount)


def _read_linked_dataset(job: _Job, file: h5py.File, mount: _Mount) -> None:
    if not job.selects(mount.outer):
        return
    reader = Reader(
        file=file.id,
        name_of=ReferenceNames(file.id, {}, mount.filename),
        budget=job.budget,
        neighbourhood=mount.place,
        problems=job.problems,
        url=mount.place.public_url,
    )
    dataset = read_dataset(reader, mount.inner, [mount.outer])
    if dataset is not None:
        job.datasets.append(dataset)
