"""Proof that references give what h5py reads.

The references are opened as a consumer opens them: fsspec's reference filesystem below zarr-python.
What cannot be compared is a mismatch too: a report is ``ok`` only if everything was equal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import h5py
import numpy as np
import zarr
from fsspec.core import split_protocol
from fsspec.utils import stringify_path
from zarr.storage import FsspecStore

from h5zarr.blocks import Grid
from h5zarr.compare import json_equal, same_data_type, show
from h5zarr.compare_arrays import (
    READ_ERRORS,
    Pair,
    Progress,
    choose_blocks,
    compare_values,
    fill_value_difference,
    missing_references,
    one_line,
)
from h5zarr.compare_attributes import attribute_differences, is_placeholder, readable
from h5zarr.errors import Problem, ReferencesError
from h5zarr.model import JSON, Selection, Shape, SourceIdentity
from h5zarr.object_names import (
    ObjectKey,
    ObjectNames,
    find_objects,
    names_of_reference,
    object_key,
    open_object,
)
from h5zarr.report import Findings, Kind, Mismatch, ValidationReport
from h5zarr.source import identify, open_source

__all__ = ["Kind", "Mismatch", "ValidationReport", "validate"]

_METADATA_KEYS = frozenset({"zarr.json", ".zarray", ".zgroup"})
_LOCAL = frozenset({None, "file", "local"})
_UNTOLD_SECONDS = 1e-3
"""Times of modification that differ by less are the same: they went through JSON."""


def validate(
    references: str | os.PathLike[str] | Mapping[str, JSON],
    *,
    source: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare all that references give with what h5py reads from the HDF5 file.

    Numbers are equal where all their bits are; signed zeros and the payloads of NaNs count. Of
    fixed-length strings trailing NULs do not count.

    Parameters
    ----------
    references
        Path or URL of the references as JSON (fsspec's reference specification), or the dict itself.
    source
        Path or URL of the HDF5 file, where it is not the one that the references tell of.
    storage_options
        Options of the fsspec filesystem of the HDF5 file; where ``references`` are remote, of theirs too.
    sample
        Compare the values of that many chunks only, chosen over all arrays. Attributes, shapes, data
        types and missing references are always compared whole.
    seed
        The same seed chooses the same sample.
    progress
        Called with the bytes compared so far and the bytes to compare.

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
    options = dict(storage_options or {})
    manifest = _load(references, options)
    url = stringify_path(source) if source is not None else _recorded_url(manifest)
    findings = Findings()
    findings.extend(_source_changes(manifest.source, identify(url, options), moved=source is not None))
    with open_source(url, storage_options=options) as opened, _open_store(manifest, options) as store:
        names = find_objects(opened.file, manifest.selection.root)
        check = _Check(manifest=manifest, file=opened.file, names=names, findings=findings)
        pairs = check.pairs(_open_group(store, findings), store.fs.references)
        tally = compare_values(choose_blocks(pairs, store.fs.references, sample, seed), findings, progress)
    return ValidationReport(
        source=url,
        arrays_compared=len(pairs),
        chunks_compared=tally.chunks,
        chunks_total=sum(pair.grid.chunk_count for pair in pairs),
        bytes_compared=tally.byte_length,
        problems_reported=len(manifest.problems),
        mismatch_count=findings.total,
        mismatches=tuple(findings.listed),
    )


# Loading ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Manifest:
    """References and where they come from."""

    document: Mapping[str, JSON]
    """What fsspec takes."""
    source: SourceIdentity | None
    """The file that was scanned; None where the references do not tell."""
    selection: Selection
    """The part of it that was asked for."""
    problems: tuple[Problem, ...]
    """What could not be expressed."""


def _load(references: str | os.PathLike[str] | Mapping[str, JSON], options: dict[str, Any]) -> _Manifest:
    name = "references" if isinstance(references, Mapping) else stringify_path(references)
    document = references if isinstance(references, Mapping) else _read_json(name, options)
    refs = document.get("refs", document) if isinstance(document, Mapping) else None
    if not isinstance(refs, Mapping) or not {"zarr.json", ".zgroup"} & refs.keys():
        raise ReferencesError(f"{name}: no references to a Zarr group; h5zarr convert makes them")
    try:
        return _with_provenance(document)
    except (AttributeError, KeyError, TypeError) as error:
        raise ReferencesError(f"{name}: their provenance, the key h5zarr, is damaged: {error}") from error


def _read_json(url: str, options: dict[str, Any]) -> Any:
    options = {} if split_protocol(url)[0] in _LOCAL else options
    try:
        with fsspec.open(url, "rb", **options) as stream:
            return json.load(stream)
    except FileNotFoundError as error:
        raise ReferencesError(f"{url}: no such file; check the path") from error
    except (OSError, ImportError) as error:
        raise ReferencesError(f"{url}: cannot be read: {error}") from error
    except ValueError as error:
        raise ReferencesError(f"{url}: not JSON: {error}") from error


def _with_provenance(document: Mapping[str, JSON]) -> _Manifest:
    told = document.get("h5zarr")
    if told is None:
        return _Manifest(document=document, source=None, selection=Selection(), problems=())
    selection = told["selection"]
    return _Manifest(
        document=document,
        source=SourceIdentity(**told["source"]),
        selection=Selection(
            root=selection["root"],
            include=tuple(selection["include"]),
            exclude=tuple(selection["exclude"]),
        ),
        problems=tuple(map(Problem.from_json, told["problems"])),
    )


def _recorded_url(manifest: _Manifest) -> str:
    if manifest.source is None:
        raise ReferencesError("the references do not tell which file they were made of; give it as source")
    return manifest.source.url


def _source_changes(
    recorded: SourceIdentity | None, now: SourceIdentity, *, moved: bool
) -> Iterator[Mismatch]:
    """Yield what tells that the file is another one; a copy has its own times and tags."""
    if recorded is None:
        return
    names = ("byte_length",) if moved else ("byte_length", "modified", "etag")
    for name in names:
        before, after = getattr(recorded, name), getattr(now, name)
        if before is not None and after is not None and not _same_identity(before, after):
            expected, found = f"{name} {before}, as scanned", f"{name} {after}"
            yield Mismatch(path="/", kind=Kind.SOURCE_CHANGED, expected=expected, found=found)


def _same_identity(before: object, after: object) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return abs(before - after) < _UNTOLD_SECONDS
    return before == after


def _open_store(manifest: _Manifest, options: dict[str, Any]) -> FsspecStore:
    """Open the references as a consumer does (READ_SIDE: both filesystems must be asynchronous)."""
    protocol = split_protocol(manifest.source.url)[0] if manifest.source is not None else None
    remote = {} if protocol in _LOCAL else {"remote_protocol": protocol}
    if options or remote:
        remote["remote_options"] = {**options, "asynchronous": True}
    storage_options = {"fo": manifest.document, "asynchronous": True, **remote}
    try:
        return FsspecStore.from_url("reference://", storage_options=storage_options, read_only=True)
    except READ_ERRORS as error:
        raise ReferencesError(f"fsspec cannot open the references: {one_line(error)}") from error


def _open_group(store: FsspecStore, findings: Findings) -> zarr.Group:
    """Open the root; where its consolidated metadata is not understood, each node is tried for itself."""
    try:
        return zarr.open_group(store, mode="r")
    except READ_ERRORS as error:
        findings.add("/", Kind.UNREADABLE, "a Zarr group", one_line(error))
    try:
        return zarr.open_group(store, mode="r", use_consolidated=False)
    except READ_ERRORS as error:
        raise ReferencesError(f"zarr cannot open the root group: {one_line(error)}") from error


# Objects -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Check:
    """Compares everything but values."""

    manifest: _Manifest
    """The references."""
    file: h5py.File
    """The HDF5 file."""
    names: ObjectNames
    """Its objects."""
    findings: Findings
    """Where mismatches go."""
    covered: set[ObjectKey] = field(default_factory=set)
    """Objects that stand in the references."""
    covered_paths: set[str] = field(default_factory=set)
    """Absolute HDF5 paths that stand in the references; an object in another file has no lasting key."""

    def pairs(self, root: zarr.Group, references: Mapping[str, Any]) -> list[Pair]:
        """Return the arrays whose values can be compared."""
        self._check_consolidated(references)
        pairs: list[Pair] = []
        for path in sorted({key.rpartition("/")[0] for key in references if _is_metadata(key)}):
            node = self._open_node(root, path)
            if isinstance(node, zarr.Array):
                pairs.extend(self._check_array(node, self._hdf5_path(path)))
            elif node is not None:
                self._check_group(node, self._hdf5_path(path))
        for pair in pairs:
            self.findings.extend(missing_references(pair, references))
            self.findings.extend(fill_value_difference(pair, references))
        self._check_missing()
        return pairs

    def _hdf5_path(self, path: str) -> str:
        return self.manifest.selection.hdf5_path(f"/{path}")

    def _open_node(self, root: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any] | None:
        if path == "":
            return root
        try:
            return root[path]
        except READ_ERRORS as error:
            hdf5_path = self._hdf5_path(path)
            self.findings.add(hdf5_path, Kind.UNREADABLE, "a Zarr node", one_line(error))
            self._cover(hdf5_path)
            return None

    def _cover(self, path: str) -> None:
        self.covered_paths.add(path)
        key = object_key(self.file, path)
        if key is not None:
            self.covered.add(key)

    def _names_of(self, reference: Any) -> frozenset[str]:
        return names_of_reference(self.file, self.names, reference)

    def _get(self, path: str) -> Any:
        try:
            return open_object(self.file, path)
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "something that h5py can open", one_line(error))
            return None

    # Consolidated metadata

    def _check_consolidated(self, references: Mapping[str, Any]) -> None:
        """Compare the two places where a node's metadata stands: readers use the one or the other."""
        document = _document(references.get("zarr.json"))
        told = document.get("consolidated_metadata") or {}
        consolidated = told.get("metadata")
        if not isinstance(consolidated, dict):
            return
        own_paths = {key.removesuffix("/zarr.json") for key in references if key.endswith("/zarr.json")}
        for path in sorted(own_paths | consolidated.keys()):
            own = _document(references.get(f"{path}/zarr.json"))
            other = consolidated.get(path, {})
            if not json_equal(_alone(own), _alone(other)):
                texts = show(_alone(own), _alone(other))
                self.findings.add(self._hdf5_path(path), Kind.METADATA, f"its own, {texts[0]}", texts[1])

    # Groups

    def _check_group(self, group: zarr.Group, path: str) -> None:
        node = self._get(path)
        if not isinstance(node, h5py.Group):
            self.findings.add(path, Kind.UNEXPECTED_GROUP, _kind_of(node), "a Zarr group")
            return
        self._cover(path)
        self._check_attributes(node, path, group, None)

    def _check_attributes(
        self, node: h5py.Group | h5py.Dataset, path: str, zarr_node: Any, array_kind: str | None
    ) -> None:
        differences = attribute_differences(
            node,
            dict(zarr_node.attrs),
            reported=self._reported_attributes(path),
            names_of=self._names_of,
            array_kind=array_kind,
            zarr_format=zarr_node.metadata.zarr_format,
        )
        try:
            for difference in differences:
                expected, found = show(difference.expected, difference.found)
                self.findings.add(path, Kind.ATTRIBUTE, expected, found, attribute=difference.name)
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "attributes", one_line(error))

    def _reported_attributes(self, path: str) -> frozenset[str]:
        key = object_key(self.file, path)
        names = {readable(name) for name in (path, *(self.names.of(key) if key else ()))}
        return frozenset(
            problem.attribute
            for problem in self.manifest.problems
            if problem.attribute is not None and problem.path in names
        )

    # Arrays

    def _check_array(self, array: zarr.Array[Any], path: str) -> Iterator[Pair]:
        """Compare an array's description; yield it where its values can be compared."""
        dataset = self._get(path)
        if not isinstance(dataset, h5py.Dataset):
            self.findings.add(path, Kind.UNEXPECTED_ARRAY, _kind_of(dataset), f"{array.dtype} {array.shape}")
            return
        self._cover(path)
        self._check_attributes(dataset, path, array, array.dtype.kind)
        try:
            dtype, shape = dataset.dtype, dataset.shape
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "a data type that h5py has", one_line(error))
            return
        yield from self._matching(array, dataset, path, dtype, (0,) if shape is None else shape + dtype.shape)

    def _matching(
        self, array: zarr.Array[Any], dataset: h5py.Dataset, path: str, dtype: np.dtype[Any], shape: Shape
    ) -> Iterator[Pair]:
        same_type = dataset.shape is None or same_data_type(dtype.base, array.dtype)
        if not same_type:
            self.findings.add(path, Kind.DATA_TYPE, str(dtype.base), str(array.dtype))
        if array.shape != shape:
            self.findings.add(path, Kind.SHAPE, str(shape), str(array.shape))
        elif same_type:
            grid = Grid(shape=array.shape, chunk_shape=tuple(max(1, extent) for extent in array.chunks))
            yield Pair(path=path, dataset=dataset, array=array, grid=grid, names_of=self._names_of)

    # What is missing

    def _check_missing(self) -> None:
        reported = frozenset(problem.path for problem in self.manifest.problems if problem.attribute is None)
        for key, paths in self.names.groups.items():
            if key not in self.covered and not _is_reported(paths, reported):
                self.findings.add(paths[0], Kind.MISSING_GROUP, "a group", "nothing")
        for key, paths in self.names.datasets.items():
            if key not in self.covered and self._is_wanted(paths, reported):
                self.findings.add(paths[0], Kind.MISSING_ARRAY, "a dataset", "nothing")
        for path, found in self.names.elsewhere.items():
            if path not in self.covered_paths and self._is_asked_for([path], reported):
                self.findings.add(path, Kind.MISSING_ARRAY, found, "nothing")

    def _is_asked_for(self, paths: Sequence[str], reported: frozenset[str]) -> bool:
        selected = any(map(self.manifest.selection.selects, paths))
        return selected and not _is_reported(paths, reported)

    def _is_wanted(self, paths: Sequence[str], reported: frozenset[str]) -> bool:
        if not self._is_asked_for(paths, reported):
            return False
        dataset = self._get(paths[0])
        return not (isinstance(dataset, h5py.Dataset) and is_placeholder(dataset))


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in _METADATA_KEYS


def _document(text: Any) -> dict[str, Any]:
    """Return a metadata document; {} for what is none, of which opening the node tells."""
    try:
        document = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _alone(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "consolidated_metadata"}


def _kind_of(node: Any) -> str:
    return "nothing" if node is None else f"an HDF5 {type(node).__name__.lower()}"


def _is_reported(paths: Sequence[str], reported: frozenset[str]) -> bool:
    """Return whether a problem tells of an object, or of a group that it is in."""
    return any(not reported.isdisjoint(_upwards(readable(path))) for path in paths)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those of the groups it is in, without the root."""
    while path not in ("", "/"):
        yield path
        path = path.rpartition("/")[0]
