"""Comparison of everything but values: objects, attributes, shapes, data types, metadata."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h5py
import numpy as np
import zarr

from h5zarr.block_fetch import BlockFetcher, can_fetch
from h5zarr.blocks import Grid
from h5zarr.compare import NamesOf, flat_dtype, json_same, same_data_type, show
from h5zarr.compare_arrays import (
    READ_ERRORS,
    Pair,
    Times,
    fill_value_difference,
    missing_references,
    one_line,
)
from h5zarr.compare_attributes import (
    attribute_differences,
    enumeration_names,
    is_placeholder,
    readable,
    same_enumeration,
    with_mask,
)
from h5zarr.compare_documents import document, document_differences
from h5zarr.compare_times import times_of
from h5zarr.errors import NotFollowedError, SourceError
from h5zarr.libhdf5 import object_info
from h5zarr.linked_files import LinkedFiles
from h5zarr.model import JSON, Part, Selection, Shape
from h5zarr.object_names import (
    ObjectKey,
    ObjectNames,
    names_of_reference,
    object_key,
    open_object,
)
from h5zarr.placement import ChunkAxes, Placement, covers, place
from h5zarr.prefetch import PrefetchedFile
from h5zarr.references.provenance import Provenance
from h5zarr.report import Findings, Kind

_METADATA_KEYS = frozenset({"zarr.json", ".zarray", ".zgroup"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ObjectCheck:
    """Compares everything but values of one file with the references."""

    provenance: Provenance
    """Where the references come from."""
    part: Part | None
    """The file's place among those that were combined; None where it is the only one."""
    is_first: bool
    """Whether combined arrays have their attributes from this file."""
    file: h5py.File
    """The HDF5 file."""
    remote: PrefetchedFile | None
    """What fetches it; None where it is not remote."""
    linked: LinkedFiles | None
    """The files that its links lead to; None where libhdf5 follows them."""
    names: ObjectNames
    """Its objects."""
    root: zarr.Group
    """The root of the references."""
    references: Mapping[str, Any]
    """What stands under each key of their store."""
    findings: Findings
    """Where mismatches go."""
    covered: set[ObjectKey] = field(default_factory=set)
    """Objects that stand in the references."""
    covered_paths: set[str] = field(default_factory=set)
    """Absolute HDF5 paths that stand in the references; an object in another file has no lasting key."""

    def pairs(self) -> list[Pair]:
        """Return the arrays whose values can be compared."""
        root, references = self.root, self.references
        paths = {key.rpartition("/")[0] for key in references if _is_metadata(key)}
        if self.is_first:
            self._check_documents()
            self._check_listing(paths)
        self._check_labels()
        pairs: list[Pair] = []
        for path in sorted(paths):
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

    @property
    def _selection(self) -> Selection:
        return self.provenance.selection if self.part is None else self.part.selection

    def _hdf5_path(self, path: str) -> str:
        return self._selection.hdf5_path(f"/{path}")

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

    def _names_in(self, node: h5py.Group | h5py.Dataset) -> NamesOf:
        """Return what names the objects that references in a node point to."""
        return partial(names_of_reference, node.id, self.names)

    def _get(self, path: str) -> Any:
        try:
            file, inner_path = self.file, path
            if self.linked is not None:
                file, inner_path = self.linked.find(file, path)
            return open_object(file, inner_path)
        except (SourceError, NotFollowedError, *READ_ERRORS) as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "something that h5py can open", one_line(error))
            return None

    # Metadata

    def _check_documents(self) -> None:
        for one in document_differences(self.references):
            self.findings.add(self._hdf5_path(one.path), Kind.METADATA, one.expected, one.found)

    def _check_listing(self, paths: AbstractSet[str]) -> None:
        """Compare nodes with those that readers are told of who do not know their paths."""
        try:
            listed = {path for path, _ in self.root.members(max_depth=None)}
        except READ_ERRORS:  # opening that node tells
            return
        for path in sorted(paths - listed - {""}):
            self.findings.add(self._hdf5_path(path), Kind.METADATA, "a member of its group", "not listed")

    # Groups

    def _check_group(self, group: zarr.Group, path: str) -> None:
        node = self._get(path)
        if not isinstance(node, h5py.Group):
            self.findings.add(path, Kind.UNEXPECTED_GROUP, _kind_of(node), "a Zarr group")
            return
        self._cover(path)
        if self.is_first:
            self._check_attributes(node, path, group, dict(group.attrs))

    def _check_attributes(
        self,
        node: h5py.Group | h5py.Dataset,
        path: str,
        zarr_node: zarr.Group | zarr.Array[Any],
        attributes: Mapping[str, JSON],
    ) -> None:
        differences = attribute_differences(
            node,
            attributes,
            reported=self._reported_attributes(path),
            names_of=self._names_in(node),
            own_names=self._own_names(path),
            array_kind=zarr_node.dtype.kind if isinstance(zarr_node, zarr.Array) else None,
            zarr_format=zarr_node.metadata.zarr_format,
        )
        try:
            for difference in differences:
                expected, found = show(difference.expected, difference.found)
                self.findings.add(path, Kind.ATTRIBUTE, expected, found, attribute=difference.name)
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "attributes", one_line(error))

    def _own_names(self, path: str) -> Container[str]:
        """Return the names of an object; of one in another file, all names that lead to such."""
        key = object_key(self.file, path)
        return (self.names.of(key) if key else ()) or self.names.elsewhere

    def _reported_attributes(self, path: str) -> frozenset[str]:
        key = object_key(self.file, path)
        names = {readable(name) for name in (path, *(self.names.of(key) if key else ()))}
        return frozenset(
            problem.attribute
            for problem in self.provenance.problems
            if problem.attribute is not None and problem.path in names
        )

    # Arrays

    def _check_array(self, array: zarr.Array[Any], path: str) -> Iterator[Pair]:
        """Compare an array's description; yield it where its values can be compared."""
        if self.is_first:
            self._check_coverage(array, path)
        dataset = self._get(path)
        if not isinstance(dataset, h5py.Dataset):
            if not self._is_label(array):
                found = f"{array.dtype} {array.shape}"
                self.findings.add(path, Kind.UNEXPECTED_ARRAY, _kind_of(dataset), found)
            return
        self._cover(path)
        if self.is_first:
            self._check_attributes(dataset, path, array, _attributes_of(array))
        try:
            dtype, shape = flat_dtype(dataset.dtype), dataset.shape
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE_SOURCE, "a data type that h5py has", one_line(error))
            return
        if self.is_first:
            self._check_enumeration(array, path, dtype)
        yield from self._matching(array, dataset, path, dtype, (0,) if shape is None else shape + dtype.shape)

    def _check_enumeration(self, array: zarr.Array[Any], path: str, dtype: np.dtype[Any]) -> None:
        """Compare the names of an enumeration's values, which only h5zarr's own references tell."""
        metadata = document(self.references.get(f"{array.path}/zarr.json"))
        if not metadata or (self.provenance.version is None and "hdf5_enum" not in metadata):
            return
        told = metadata.get("hdf5_enum", {})
        if not isinstance(told, dict) or not same_enumeration(dtype, told):
            self.findings.add(path, Kind.METADATA, *show(enumeration_names(dtype), told))

    def _is_of_type(self, array: zarr.Array[Any], dataset: h5py.Dataset, dtype: np.dtype[Any]) -> bool:
        if dataset.shape is None and dtype.hasobject:  # of which nothing would be stored elsewhere
            return bool(array.dtype == np.uint8)
        metadata = document(self.references.get(f"{array.path}/zarr.json"))
        if metadata.get("data_type") == "variable_length_bytes" and _is_without_text(dataset):
            return False
        return same_data_type(dtype.base, array.dtype)

    def _is_label(self, array: zarr.Array[Any]) -> bool:
        """Return whether an array was not in any file: the coordinates of a new dimension may be given."""
        return self.part is not None and array.path in (self.part.labels or self.part.start)

    def _check_labels(self) -> None:
        """Compare the coordinates that the file was given along new dimensions."""
        labels = {} if self.part is None else self.part.labels
        for name, label in labels.items():
            path = self._hdf5_path(name)
            array = self._open_node(self.root, name)
            if not isinstance(array, zarr.Array):
                self.findings.add(path, Kind.MISSING_ARRAY, f"the coordinates of {name}", "none")
            elif tuple(_dimension_names(array)) != (name,):
                self.findings.add(path, Kind.METADATA, f"({name!r},)", str(_dimension_names(array)))
            else:
                self._check_label(array, path, label)

    def _check_label(self, array: zarr.Array[Any], path: str, label: JSON) -> None:
        element = self.part.start[array.path] if self.part else 0
        try:
            found = np.asarray(array[element]).item()
        except READ_ERRORS as error:
            self.findings.add(path, Kind.UNREADABLE, str(label), one_line(error), element=(element,))
            return
        if not json_same(label, found):
            self.findings.add(path, Kind.VALUES, *show(label, found), element=(element,))

    def _matching(
        self, array: zarr.Array[Any], dataset: h5py.Dataset, path: str, dtype: np.dtype[Any], shape: Shape
    ) -> Iterator[Pair]:
        found = self._place(array, shape)
        # What was not joined comes from the first file. A box as large as the array does not tell which
        # it is: the other files may have no records.
        if not self.is_first and not found.joined:
            return
        times = None if self.part is None else times_of(self.root, array, dataset)
        same_type = times is not None or self._is_of_type(array, dataset, dtype)
        if not same_type:
            self.findings.add(path, Kind.DATA_TYPE, str(dtype.base), str(array.dtype))
        if found.added:
            shape = _with_ones(shape, found.added)
        if self.is_first:
            self._check_dimension_names(array, dataset, path, found)
        if found.shape != shape:
            self.findings.add(path, Kind.SHAPE, str(shape), str(found.shape))
        elif same_type:
            try:
                yield self._pair(array, dataset, path, found, times)
            except NotImplementedError as error:  # of chunks that differ, in a grid that is called regular
                self.findings.add(path, Kind.UNREADABLE, "a chunk grid", one_line(error))

    def _check_coverage(self, array: zarr.Array[Any], path: str) -> None:
        """Tell of what no file is compared with: every file alone may be in its place."""
        parts = self.provenance.parts
        if parts and not covers(array.path, _dimension_names(array), array.shape, parts):
            self.findings.add(path, Kind.SHAPE, "what all files cover together", str(array.shape))

    def _place(self, array: zarr.Array[Any], own: Shape) -> Placement:
        if self.part is None:
            return Placement(start=(0,) * array.ndim, shape=array.shape)
        return place(array.path, _dimension_names(array), array.shape, self.part, own)

    def _check_dimension_names(
        self, array: zarr.Array[Any], dataset: h5py.Dataset, path: str, found: Placement
    ) -> None:
        """Compare the names of the axes with a scale; references that name no dimensions are sound, too."""
        told = _dimension_names(array)
        if not any(told):
            return
        names = [name for axis, name in enumerate(told) if axis not in found.added]
        for axis, (paths, name) in enumerate(zip(self._scales(dataset), names, strict=False)):
            allowed = sorted({scale.rpartition("/")[2] for scale in paths} - {""})
            with_length = {f"{scale}_{dataset.shape[axis]}" for scale in allowed}
            if name in with_length and self._is_longer(paths, dataset.shape[axis]):
                continue
            if allowed and name not in allowed:
                expected = f"dimension {axis} is {' or '.join(allowed)}"
                self.findings.add(path, Kind.METADATA, expected, str(name))

    def _scales(self, dataset: h5py.Dataset) -> list[frozenset[str]]:
        """Return all names of the scales of each axis; [] where they cannot be read, or are elsewhere."""
        try:
            if not _is_in(self.file, dataset):  # where references are looked up
                return []
            if h5py.h5ds.is_scale(dataset.id):  # those of several dimensions are named by number
                info = object_info(dataset.id)
                own = frozenset(self.names.of((info.file_number, info.address)))
                return [own] if dataset.ndim == 1 else []
            axes = dataset.attrs.get("DIMENSION_LIST", ())
            return [frozenset().union(*map(self._names_in(dataset), axis)) for axis in axes]
        except READ_ERRORS:  # the comparison of attributes tells
            return []

    def _is_longer(self, paths: frozenset[str], length: int) -> bool:
        """Return whether a dimension is longer than one of its axes, whose name then tells its length.

        netCDF-C leaves the scale of an unlimited dimension short: a variable is as long as the dimension.
        """
        try:
            scale = self.file[min(paths - {""})]
            lengths = [scale.shape[0]]
            lengths += [self.file[one[0]].shape[one[1]] for one in scale.attrs.get("REFERENCE_LIST", ())]
        except READ_ERRORS:
            return True
        return bool(max(lengths) != length)

    def _pair(
        self,
        array: zarr.Array[Any],
        dataset: h5py.Dataset,
        path: str,
        found: Placement,
        times: Times | None,
    ) -> Pair:
        metadata = document(self.references.get(f"{array.path}/zarr.json"))
        regular = metadata.get("chunk_grid", {}).get("name", "regular") == "regular"
        chunk_shape = array.chunks if regular else None
        cut = dataset.chunks or dataset.shape if chunk_shape is None else chunk_shape
        fetch = None
        if self.remote is not None and _is_in(self.file, dataset) and can_fetch(dataset):
            fetch = BlockFetcher(remote=self.remote, dataset=dataset, place=found)
        return Pair(
            path=path,
            dataset=dataset,
            array=array,
            place=found,
            grid=Grid(shape=found.shape, chunk_shape=tuple(max(1, extent) for extent in cut)),
            # What a key stands for is a shard, where chunks are packed into some.
            chunk_axes=ChunkAxes.of(metadata, array.shape, array.shards if array.shards else chunk_shape),
            names_of=self._names_in(dataset),
            fetch=fetch,
            times=times,
        )

    # What is missing

    def _check_missing(self) -> None:
        reported = frozenset(
            problem.path for problem in self.provenance.problems if problem.attribute is None
        )
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
        selected = any(map(self._selection.selects, paths))
        return selected and not _is_reported(paths, reported)

    def _is_wanted(self, paths: Sequence[str], reported: frozenset[str]) -> bool:
        if not self._is_asked_for(paths, reported):
            return False
        dataset = self._get(paths[0])
        return not (isinstance(dataset, h5py.Dataset) and is_placeholder(dataset))


def _dimension_names(array: zarr.Array[Any]) -> Sequence[str | None]:
    told: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return told if told and len(told) == array.ndim else (None,) * array.ndim


def _is_without_text(dataset: h5py.Dataset) -> bool:
    """Return whether nothing was ever written, so that there is no text that is not UTF-8."""
    creation = dataset.id.get_create_plist()
    is_default = creation.fill_value_defined() != h5py.h5d.FILL_VALUE_USER_DEFINED
    return is_default and not dataset.is_virtual and dataset.id.get_storage_size() == 0


def _attributes_of(array: zarr.Array[Any]) -> Mapping[str, JSON]:
    """Return an array's attributes as xarray has them."""
    if array.metadata.zarr_format == 3:
        return dict(array.attrs)
    return with_mask(dict(array.attrs), array.metadata.fill_value, array.dtype.kind)


def _is_in(file: h5py.File, dataset: h5py.Dataset) -> bool:
    return bool(h5py.h5o.get_info(file.id).fileno == h5py.h5o.get_info(dataset.id).fileno)


def _with_ones(shape: Shape, added: Shape) -> Shape:
    """Return a dataset's shape with an axis of one element for each that only the array has."""
    extents = iter(shape)
    return tuple(1 if axis in added else next(extents) for axis in range(len(shape) + len(added)))


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in _METADATA_KEYS


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
