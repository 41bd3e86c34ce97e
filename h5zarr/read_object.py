"""One dataset or group of an open HDF5 file, read into the model."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
from h5py import h5, h5a, h5d, h5g, h5p, h5t

from h5zarr.errors import (
    DamagedFileError,
    NotFollowedError,
    NotHDF5Error,
    Problem,
    SourceNotFoundError,
    UntranslatableError,
)
from h5zarr.link_paths import ElsewhereTarget, encode_path, follow_path
from h5zarr.model import Attribute, Dataset, DatatypeClass, Group, Layout, Shape
from h5zarr.neighbours import Neighbourhood
from h5zarr.read_data import InlineBudget, all_elements, has_clean_padding, heap_values, stored_bytes
from h5zarr.read_storage import OpenDataset, external_files, open_dataset, stored_chunks
from h5zarr.read_values import READ_ERRORS, NameOf, TypeCache, list_attributes, read_attribute
from h5zarr.source import open_source
from h5zarr.virtual import source_names, virtual_chunks
from h5zarr.walk import is_dataset

_SAME_FILE = "."
# libhdf5 takes a source that it cannot open for one that was never written.
_MISSING = (SourceNotFoundError, NotHDF5Error, DamagedFileError)
_PREFIXES = "HDF5_VDS_PREFIX"
# As many links libhdf5 follows by default.
_MOST_FILES_DEEP = 16
_DIMENSION_LIST = b"DIMENSION_LIST"
_REFERENCE_LIST = b"REFERENCE_LIST"


@dataclass(kw_only=True, slots=True)
class Reader:
    """What reading one object needs to know of its file and of what was read before."""

    file: h5py.h5f.FileID
    """The open file."""
    name_of: NameOf
    """Finds the path of a referenced object."""
    budget: InlineBudget
    """How much may be read with the scan; shared by all files of a scan."""
    neighbourhood: Neighbourhood
    """Which other files the file may name."""
    problems: list[Problem]
    """Where to put what cannot be read."""
    url: str | None = None
    """URL of the file, where an external link led to it; None: the scanned file."""
    types: TypeCache = field(default_factory=TypeCache)
    """The datatypes of the file."""
    file_byte_length: int = field(init=False)
    """Size of the file."""

    def __post_init__(self) -> None:
        self.file_byte_length = self.file.get_filesize()


def read_group(reader: Reader, inner_path: str, names: list[str]) -> Group:
    """Return a group; what cannot be read of it becomes a problem.

    Parameters
    ----------
    reader
        The file.
    inner_path
        Absolute path in the file that holds it.
    names
        Absolute paths in the scanned file, the first of them for the hierarchy.
    """
    attributes: tuple[Attribute, ...] = ()
    try:
        group = h5g.open(reader.file, encode_path(inner_path))
        order = group.get_create_plist().get_attr_creation_order()
        attributes, _ = _read_attributes(reader, group, names[:1], order)
    except READ_ERRORS as error:
        reader.problems.append(_unreadable(names[0], "the group's attributes", error))
    return Group(path=names[0], other_names=tuple(names[1:]), attributes=attributes)


def read_dataset(reader: Reader, inner_path: str, names: list[str]) -> Dataset | None:
    """Return a dataset, or None and a problem where h5py cannot read it; parameters as `read_group`."""
    try:
        return _read_dataset(reader, inner_path, names)
    except READ_ERRORS as error:
        reader.problems.extend(_unreadable(name, "the dataset", error) for name in names)
    except UntranslatableError as refused:
        reader.problems.extend(
            Problem(path=name, found=refused.found, remedy=refused.remedy) for name in names
        )
    return None


def _read_dataset(reader: Reader, inner_path: str, names: list[str]) -> Dataset:
    dataset = open_dataset(reader.file, encode_path(inner_path), reader.types)
    known = dataset.known
    attributes, scales = _read_attributes(reader, dataset.identifier, names, dataset.attribute_order)
    fields = {
        "chunk_shape": dataset.chunk_shape,
        "filters": dataset.filters,
        "urls": (reader.url,) if reader.url else (),
        **_read_data(reader, dataset),
    }
    return Dataset(
        path=names[0],
        other_names=tuple(names[1:]),
        attributes=attributes,
        datatype=known.datatype,
        shape=dataset.shape,
        maximum_shape=dataset.maximum_shape,
        layout=dataset.layout,
        memory_dtype=known.packed_dtype,
        stored_type=known.stored_type,
        memory_type=known.encoded_packed_type,
        fill_value=dataset.fill_value,
        unfiltered_partial_chunks=dataset.unfiltered_partial_chunks,
        dimension_scales=scales,
        external_files=external_files(dataset, reader.neighbourhood),
        **fields,
    )


def _read_data(reader: Reader, dataset: OpenDataset) -> dict[str, Any]:
    """Return the fields of a dataset that tell where its data are, and those data that are read."""
    if dataset.layout is Layout.VIRTUAL:
        _check_virtual_sources(reader, dataset)
    index = stored_chunks(dataset, reader.file_byte_length)
    if dataset.shape is None:
        return {"chunk_index": index}
    if dataset.known.on_heap:
        values = heap_values(dataset, dataset.shape, reader.budget, reader.name_of)
        return {"chunk_index": index, "values": values}
    if dataset.layout is Layout.VIRTUAL:
        return {"chunk_index": index, **_virtual_data(reader, dataset, dataset.shape)}
    return {
        "chunk_index": index,
        "stored_bytes": stored_bytes(dataset, index, reader.budget),
        "clean_padding": has_clean_padding(dataset, dataset.shape),
    }


# Virtual datasets ------------------------------------------------------------------------


def _check_virtual_sources(reader: Reader, dataset: OpenDataset) -> None:
    """Refuse a virtual dataset that names files which may not be opened.

    libhdf5 opens the sources itself; through a remote file it would look for them on this machine.
    """
    creation = dataset.creation
    for number in range(creation.get_virtual_count()):
        name = creation.get_virtual_filename(number)
        if name == _SAME_FILE:
            continue
        reader.neighbourhood.find(name, _PREFIXES)
        if not reader.neighbourhood.is_local:
            raise UntranslatableError(
                f"a virtual dataset of a remote file, with sources in {posixpath.basename(name)}",
                "convert local copies of the files, then rewrite the URLs with --public-url",
            )


def _virtual_data(reader: Reader, dataset: OpenDataset, shape: Shape) -> dict[str, Any]:
    """Return the chunks of a virtual dataset's sources, or its elements where they do not fit."""
    sources = _Sources(reader=reader)
    try:
        chunks = virtual_chunks(dataset.creation, shape, dataset.fill_value, sources.read)
    except NotFollowedError:
        raise
    except UntranslatableError:
        chunks = None
    if chunks is None or chunks.source.stored_type != dataset.known.stored_type:
        sources.look_at_all(dataset.creation)
        return {"elements": all_elements(dataset, shape, reader.budget)}
    return {
        "chunk_shape": chunks.chunk_shape,
        "filters": chunks.source.filters,
        "chunk_index": chunks.index,
        "urls": chunks.urls,
        "url_index": chunks.url_index,
    }


@dataclass(kw_only=True, slots=True)
class _Sources:
    """The source datasets of one virtual dataset, each read once."""

    reader: Reader
    known: dict[tuple[str, str], tuple[str, Dataset] | None] = field(default_factory=dict)

    def read(self, filename: str, path: str) -> tuple[str, Dataset] | None:
        """Return URL and description of a source; None where there is none, which libhdf5 takes for fill.

        Raises
        ------
        UntranslatableError
            There is one, but it cannot be described.
        """
        if (filename, path) not in self.known:
            place = self.reader.neighbourhood
            if filename == _SAME_FILE:
                found = self._read_inside(self.reader.file, place, path, _MOST_FILES_DEEP)
            else:
                target = ElsewhereTarget(filename=filename, path=path)
                found = self._read_beside(place, target, _MOST_FILES_DEEP)
            self.known[filename, path] = found
        return self.known[filename, path]

    def look_at_all(self, creation: h5p.PropDCID) -> None:
        """Look at all sources before libhdf5 reads them itself, over links and virtual datasets in them.

        Raises
        ------
        NotFollowedError
            One is in a file that may not be opened.
        """
        for number in range(creation.get_virtual_count()):
            names = source_names(creation.get_virtual_filename(number), creation.get_virtual_dsetname(number))
            next((name for name in names if not self._is_there(*name)), None)

    def _is_there(self, filename: str, path: str) -> bool:
        try:
            return self.read(filename, path) is not None
        except NotFollowedError:
            raise
        except UntranslatableError:
            return True

    def _read_beside(
        self, place: Neighbourhood, target: ElsewhereTarget, deep: int
    ) -> tuple[str, Dataset] | None:
        url = place.find(target.filename, _PREFIXES)
        if not place.look(url).byte_length:
            return None
        try:
            with open_source(url) as opened:
                beside = replace(place, url=url, public_url=place.publish(url))
                return self._read_inside(opened.file.id, beside, target.path, deep - 1)
        except _MISSING:
            return None

    def _read_inside(
        self, file: h5py.h5f.FileID, place: Neighbourhood, path: str, deep: int
    ) -> tuple[str, Dataset] | None:
        try:
            target = follow_path(file, path)
            if not isinstance(target, ElsewhereTarget) and not is_dataset(file, target):
                return None
        except READ_ERRORS:
            return None
        if isinstance(target, ElsewhereTarget):
            return self._read_beside(place, target, deep) if deep else None
        return self._describe(file, place, target)

    def _describe(self, file: h5py.h5f.FileID, place: Neighbourhood, path: str) -> tuple[str, Dataset]:
        source = replace(
            self.reader,
            file=file,
            budget=InlineBudget(threshold=0, remaining=0),
            neighbourhood=place,
            problems=[],
            types=TypeCache(),
        )
        try:
            return place.public_url, _read_dataset(source, path, [path])
        except READ_ERRORS as error:
            problem = _unreadable(path, "the source", error)
            raise UntranslatableError(problem.found, problem.remedy) from error


# Attributes ------------------------------------------------------------------------------


def _read_attributes(
    reader: Reader, owner: Any, names: list[str], creation_order: int
) -> tuple[tuple[Attribute, ...], tuple[tuple[str, ...], ...]]:
    """Return the attributes of an object, and the dimension scales that one of them names."""
    attributes: list[Attribute] = []
    scales: tuple[tuple[str, ...], ...] = ()
    order = h5.INDEX_CRT_ORDER if creation_order & h5p.CRT_ORDER_TRACKED else h5.INDEX_NAME
    try:
        listed = list_attributes(owner, order, _skipped_attributes(owner), reader.types)
    except READ_ERRORS as error:
        reader.problems.extend(_unreadable_attribute(path, b"*", error) for path in names)
        return (), ()
    for name, known in listed:
        try:
            attribute = known or read_attribute(owner, name, reader.types, reader.name_of)
        except READ_ERRORS as error:
            reader.problems.extend(_unreadable_attribute(path, name, error) for path in names)
            continue
        if name == _DIMENSION_LIST and _lists_scales(owner, attribute):
            scales = tuple(tuple(axis) for axis in attribute.value)
        else:
            attributes.append(attribute)
    return tuple(attributes), scales


def _lists_scales(owner: Any, attribute: Attribute) -> bool:
    """Return whether a DIMENSION_LIST is the one of the dimension scale API, not a user's own attribute."""
    datatype = attribute.datatype
    return (
        isinstance(owner, h5d.DatasetID)
        and attribute.shape is not None
        and len(attribute.shape) == 1
        and datatype.datatype_class is DatatypeClass.VLEN
        and datatype.base is not None
        and datatype.base.reference_kind == "object"
    )


def _skipped_attributes(owner: Any) -> frozenset[bytes]:
    """Return the names of the attributes that need not be read.

    Back references of dimension scales are as many as there are variables, and DIMENSION_LIST tells
    the same.
    """
    if not isinstance(owner, h5d.DatasetID) or not h5a.exists(owner, _REFERENCE_LIST):
        return frozenset()
    try:
        attribute = h5a.open(owner, _REFERENCE_LIST)
        is_real = attribute.get_space().get_simple_extent_ndims() == 1 and _has_reference(
            attribute.get_type()
        )
    except READ_ERRORS:  # reading it fails too, and makes it a problem
        return frozenset()
    return frozenset({_REFERENCE_LIST}) if is_real else frozenset()


def _has_reference(datatype: h5t.TypeID) -> bool:
    """Return whether a datatype is a compound with a reference to an object among its members."""
    if datatype.get_class() != h5t.COMPOUND:
        return False
    members = (datatype.get_member_type(number) for number in range(datatype.get_nmembers()))
    # "Not a region" instead of "an object": HDF5 1.12 has a newer type of references to both.
    return any(
        member.get_class() == h5t.REFERENCE and not member.equal(h5t.STD_REF_DSETREG) for member in members
    )


def _unreadable(path: str, what: str, error: BaseException) -> Problem:
    return Problem(
        path=path,
        found=f"h5py cannot read {what}: {' '.join(str(error).split())}",
        remedy="read it with h5dump; if that fails too, the file is damaged",
    )


def _unreadable_attribute(path: str, name: bytes, error: BaseException) -> Problem:
    return Problem(
        path=path,
        attribute=name.decode("utf-8", "backslashreplace"),
        found=f"h5py cannot read the attribute: {' '.join(str(error).split())}",
        remedy="read it from the HDF5 file with h5dump",
    )
