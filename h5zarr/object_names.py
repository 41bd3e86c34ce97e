"""All names of all objects of an HDF5 file, found by following its links.

`validate` looks for itself instead of trusting the scanner's walk: an object that the scanner
overlooked would otherwise be missing on both sides.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import Any

import h5py
from h5py import h5d, h5g, h5l, h5o, h5p

from h5zarr.errors import GroupNotFoundError
from h5zarr.filter_registry import is_available
from h5zarr.libhdf5 import object_info
from h5zarr.prefetch.redact import redact

ObjectKey = tuple[int, int]
"""File number and address of an object: the same for all its names."""

_READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectNames:
    """The objects below a group, each with all its names (absolute paths)."""

    root: h5py.Group
    """The group. While it is open, the file that a link leads to it in keeps its number."""
    groups: dict[ObjectKey, list[str]] = field(default_factory=dict)
    """Names of each group."""
    datasets: dict[ObjectKey, list[str]] = field(default_factory=dict)
    """Names of each dataset."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Links that lead to nothing in this file, and what they are; objects that cannot be read."""

    def of(self, key: ObjectKey) -> list[str]:
        """Return the names of an object; none for one that is not below the group."""
        return self.datasets.get(key) or self.groups.get(key) or []


def find_objects(file: h5py.File, root: str) -> ObjectNames:
    """Follow every link below a group.

    Parameters
    ----------
    file
        An open HDF5 file.
    root
        Absolute path of the group.

    Raises
    ------
    GroupNotFoundError
        There is no such group.
    """
    group = file.get(root)
    if not isinstance(group, h5py.Group):
        raise GroupNotFoundError(f"{file.filename}: no group {root}, of which the references were made")
    names = ObjectNames(root=group)
    info = object_info(group.id)
    names.groups[info.file_number, info.address] = [root]
    soft_links = _descend(file, [root], names)
    while soft_links:
        path, target = soft_links.pop(0)
        soft_links += _follow_soft(file, path, target, names)
    return names


def object_key(file: h5py.File, path: str) -> ObjectKey | None:
    """Return what identifies the object at a path; None where there is none."""
    try:
        info = object_info(file.id, _encoded(path))
    except _READ_ERRORS:
        return None
    return info.file_number, info.address


def open_object(file: h5py.File, path: str) -> h5py.Group | h5py.Dataset | h5py.Datatype | None:
    """Open the object at a path; None where there is none.

    The files of external storage are looked for beside the HDF5 file, as those of virtual datasets
    are, and not in the folder where the process happens to run.
    """
    node = file.get(path)
    if isinstance(node, h5py.Dataset):
        _load_plugins(node)
    if node is None and not _is_dataset(file, path):
        return None
    if node is not None and (not isinstance(node, h5py.Dataset) or node.external is None):
        return node
    # libhdf5 opens no dataset twice with different prefixes: under another name, it may be open already
    del node
    access = h5p.create(h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5d.open(file.id, _encoded(path), access))


def _is_dataset(file: h5py.File, path: str) -> bool:
    try:
        return bool(object_info(file.id, _encoded(path)).kind == h5o.TYPE_DATASET)
    except _READ_ERRORS:
        return False


def _load_plugins(dataset: h5py.Dataset) -> None:
    """Import the packages that bring the dataset's filters to libhdf5."""
    creation = dataset.id.get_create_plist()
    for number in range(creation.get_nfilters()):
        is_available(creation.get_filter(number)[0])


def names_of_reference(holder: h5py.h5g.ObjectID, names: ObjectNames, reference: Any) -> frozenset[str]:
    """Return every name of the object that a reference points to; {""} for a null reference.

    Parameters
    ----------
    holder
        What holds the reference, which is to an object of the same file.
    names
        The names of all objects.
    reference
        The reference.
    """
    if not reference:
        return frozenset({""})
    own_name = h5py.h5r.get_name(reference, holder)
    try:
        info = object_info(h5py.h5r.dereference(reference, holder))
    except KeyError:  # external storage that is open with its prefix; by its name, it need not be opened
        if not own_name:
            raise
        info = object_info(h5py.h5i.get_file_id(holder), own_name)
    known = frozenset(names.of((info.file_number, info.address)))
    if not own_name:
        return known
    # What no link leads to in another file has a path there only.
    path, filename = _decoded(own_name), posixpath.basename(_decoded(h5py.h5f.get_name(holder)))
    is_here = info.file_number == object_info(names.root.id).file_number
    return known | {f"{filename}:{path}"} | ({path} if is_here else set())


def _descend(file: h5py.File, pending: list[str], names: ObjectNames) -> list[tuple[str, str]]:
    """Note all objects below groups; return the soft links that were met, with their targets."""
    soft_links: list[tuple[str, str]] = []
    while pending:
        parent = pending.pop()
        try:
            group = h5g.open(file.id, _encoded(parent))
            members: list[bytes] = []
            group.links.iterate(members.append)
        except _READ_ERRORS as error:
            names.elsewhere[parent] = f"a group that h5py cannot read: {error}"
            continue
        for member in members:
            path = f"{parent.rstrip('/')}/{_decoded(member)}"
            pending += _note_link(group, member, path, names, soft_links)
    return soft_links


def _note_link(
    group: h5g.GroupID, member: bytes, path: str, names: ObjectNames, soft_links: list[tuple[str, str]]
) -> list[str]:
    """Note where a link leads; return the path of a group that was not known before."""
    kind = group.links.get_info(member).type
    if kind == h5l.TYPE_HARD:
        return _note_object(group, member, path, names)
    if kind == h5l.TYPE_SOFT:
        soft_links.append((path, _decoded(group.links.get_val(member))))
    elif kind == h5l.TYPE_EXTERNAL:
        filename, target = group.links.get_val(member)
        names.elsewhere[path] = f"an external link to {_decoded(target)} in {redact(_decoded(filename))}"
    else:
        names.elsewhere[path] = f"a user-defined link of class {kind}"
    return []


def _note_object(location: Any, member: bytes, path: str, names: ObjectNames) -> list[str]:
    try:
        info = object_info(location, member)
    except _READ_ERRORS as error:
        names.elsewhere[path] = f"an object that h5py cannot read: {error}"
        return []
    if info.kind == h5o.TYPE_NAMED_DATATYPE:
        return []
    of_kind = names.groups if info.kind == h5o.TYPE_GROUP else names.datasets
    known = of_kind.setdefault((info.file_number, info.address), [])
    known.append(path)
    return [path] if info.kind == h5o.TYPE_GROUP and len(known) == 1 else []


def _follow_soft(file: h5py.File, path: str, target: str, names: ObjectNames) -> list[tuple[str, str]]:
    """Note what a soft link leads to; what is outside of the selection counts under the link's name."""
    key = object_key(file, path)
    if key is None:
        names.elsewhere[path] = f"a soft link to {target}, where nothing is"
        return []
    if key[0] != object_info(names.root.id).file_number:
        names.elsewhere[path] = f"a soft link to {target}, which is in another file"
        return []
    return _descend(file, _note_object(file.id, _encoded(path), path, names), names)


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _decoded(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
