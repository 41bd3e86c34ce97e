"""What is combined, from whatever form it has: references, hierarchies, HDF5 files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass
from typing import Any, TypeAlias

from fsspec.utils import stringify_path

from h5zarr.combining.tiles import Tile, tile
from h5zarr.converter import Conversion, convert
from h5zarr.errors import CombineError, H5zarrError, OutputError
from h5zarr.inputs import expand
from h5zarr.model import JSON, Hierarchy
from h5zarr.prefetch import redact
from h5zarr.references import formats
from h5zarr.scanner import Progress
from h5zarr.source import local_path
from h5zarr.workers import Outcome, Work, run_in_executor, run_in_processes

Input: TypeAlias = str | os.PathLike[str] | Mapping[str, JSON] | Hierarchy | Conversion
"""What can be combined: path, URL or pattern of references or HDF5 files, or what was made of them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loading:
    """How inputs are loaded."""

    out: str | os.PathLike[str] | None = None
    """Where the result is written, which no input may be; None: nowhere."""
    storage_options: Mapping[str, Any] | None = None
    """Options of the fsspec filesystem of references and HDF5 files."""
    convert_options: Mapping[str, Any] | None = None
    """What `convert` is told of inputs that are HDF5 files."""
    executor: Executor | None = None
    """Where to load; None: in this process, or in processes of its own."""
    jobs: int | None = None
    """How many inputs to load at a time."""
    progress: Progress | None = None
    """Called with the number of inputs loaded and their total."""


def load_tiles(inputs: Input | Iterable[Input], loading: Loading) -> list[Tile]:
    """Return all inputs, in their order.

    Raises
    ------
    CombineError
        There are none, or something cannot be combined.
    OutputError
        One of them is where the result is to be written.
    ReferencesError
        References cannot be loaded.
    SourceError
        An HDF5 file cannot be read.
    """
    if isinstance(inputs, str | os.PathLike | Mapping | Hierarchy | Conversion):
        inputs = [inputs]
    token = secrets.token_hex(8)
    entries = [entry for given in inputs for entry in _expanded(given, loading, token)]
    if not entries:
        raise CombineError("there is nothing to combine; name files, or references to them")
    if loading.out is not None:
        _refuse_overwriting(entries, loading.out)
    loaded = _load_all(entries, loading)
    return [
        tile(_name(entry, hierarchy, number), hierarchy)
        for number, (entry, hierarchy) in enumerate(zip(entries, loaded, strict=True), start=1)
    ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """One input that is loaded from a path or URL."""

    source: str
    """Its path or URL."""
    storage_options: Mapping[str, Any] | None
    """Options of its filesystem."""
    convert_options: Mapping[str, Any]
    """What `convert` is told, if it is an HDF5 file."""
    token: str
    """Tells this run from others: Dask gives the same call's last result again, unless it is dropped."""


_Entry: TypeAlias = _Task | Hierarchy


def _expanded(given: Input, loading: Loading, token: str) -> Iterator[_Entry]:
    """Yield what an input means: a pattern means several files."""
    if isinstance(given, Conversion):
        yield given.hierarchy
    elif isinstance(given, Hierarchy):
        yield given
    elif isinstance(given, Mapping):
        yield formats.load(given)
    elif isinstance(given, str | os.PathLike):
        for file in expand(stringify_path(given), storage_options=loading.storage_options):
            yield _Task(
                source=file.source,
                storage_options=loading.storage_options,
                convert_options=loading.convert_options or {},
                token=token,
            )
    else:
        raise CombineError(f"a {type(given).__name__} cannot be combined; give a path, URL or Hierarchy")


def _refuse_overwriting(entries: Sequence[_Entry], out: str | os.PathLike[str]) -> None:
    """Refuse to write over an input, also through another name of it."""
    written = local_path(out)
    if written is None or not written.exists():
        return
    for entry in entries:
        read = local_path(entry.source) if isinstance(entry, _Task) else None
        if read is not None and read.exists() and written.samefile(read):
            raise OutputError(f"{out}: is an input; choose another name for the result, or append to it")


def _name(entry: _Entry, hierarchy: Hierarchy, number: int) -> str:
    if isinstance(entry, _Task):
        return redact(entry.source)
    return f"input {number}" if hierarchy.source is None else redact(hierarchy.source.url)


def _load_all(entries: Sequence[_Entry], loading: Loading) -> list[Hierarchy]:
    numbers = [number for number, entry in enumerate(entries) if isinstance(entry, _Task)]
    work = Work(function=_load, arguments=[entries[number] for number in numbers])
    loaded: dict[int, Hierarchy] = {}
    with contextlib.closing(_run(work, loading)) as outcomes:
        for outcome in outcomes:
            loaded[numbers[outcome.number]] = _result(outcome)
            if loading.progress is not None:
                loading.progress(len(loaded), len(numbers))
    return [loaded.get(number) or _ready(entry) for number, entry in enumerate(entries)]


def _ready(entry: _Entry) -> Hierarchy:
    assert isinstance(entry, Hierarchy)
    return entry


def _run(work: Work, loading: Loading) -> Generator[Outcome, None, None]:
    if loading.executor is not None:
        return run_in_executor(work, loading.executor, loading.jobs)
    if loading.jobs is not None and loading.jobs > 1:
        return run_in_processes(work, loading.jobs)
    return _run_here(work)


def _run_here(work: Work) -> Generator[Outcome, None, None]:
    for number, argument in enumerate(work.arguments):
        yield Outcome(number=number, result=work.function(argument), error=None)


def _result(outcome: Outcome) -> Hierarchy:
    if isinstance(outcome.error, BrokenExecutor):
        raise H5zarrError(f"the executor is broken: {outcome.error}") from outcome.error
    if outcome.error is not None:
        raise outcome.error
    hierarchy: Hierarchy = outcome.result
    return hierarchy


def _load(task: _Task) -> Hierarchy:
    """Load one input: what workers are given to do."""
    if formats.format_of(task.source) is not None:
        return formats.load(task.source, storage_options=task.storage_options)
    return convert(task.source, storage_options=task.storage_options, **task.convert_options).hierarchy
