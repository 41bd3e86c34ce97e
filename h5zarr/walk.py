"""Which objects a file holds and under which names: the links, and nothing of the objects themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h5py
from h5py import h5, h5g, h5l, h5o, h5p

from h5zarr.errors import DamagedFileError, GroupNotFoundError, Problem
from h5zarr.libhdf5 import object_info
from h5zarr.link_paths import ElsewhereTarget, decode_path, encode_path, follow_path
from h5zarr.read_values import READ_ERRORS

_CHECK_FILE = "check the file with h5dump, or copy it again from its origin"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalLink:
    """A link to an object of another file."""

    path: str
    """Absolute path of the link."""
    filename: str
    """The other file, as the link has it."""
    target: str
    """Path of the object in that file."""


@dataclass(kw_only=True, slots=True)
class Walk:
    """Every object below a group, each once, with all its names."""

    group_names: dict[int, list[str]] = field(default_factory=dict)
    """Absolute paths of each group by the address of its object header (bytes), first name first."""
    dataset_names: dict[int, list[str]] = field(default_factory=dict)
    """Absolute paths of each dataset by the address of its object header (bytes), first name first."""
    external_links: list[ExternalLink] = field(default_factory=list)
    """Links to objects of other files, also soft links over such."""
    problems: list[Problem] = field(default_factory=list)
    """Links that lead nowhere."""

    def path_of_address(self) -> dict[int, str]:
        """Return the first name of every object by its address."""
        return {address: names[0] for address, names in (self.group_names | self.dataset_names).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Link:
    name: bytes
    kind: int
    address: int | None


def is_dataset(file: h5py.h5f.FileID, path: str) -> bool:
    """Return whether a path leads to a dataset; it must not lead out of the file.

    Raises
    ------
    OSError, RuntimeError, ValueError, KeyError
        It leads nowhere.
    """
    return bool(object_info(file, encode_path(path)).kind == h5o.TYPE_DATASET)


def walk(file: h5py.File, root: str) -> Walk:
    """Follow all links of the file below a group.

    Raises
    ------
    GroupNotFoundError
        The root is not a group of the file.
    DamagedFileError
        libhdf5 cannot read the root group.
    """
    found = Walk()
    soft: list[tuple[str, bytes]] = []
    _descend(file, root, _root_address(file, root), found, soft)
    for path, name in soft:
        _resolve_soft_link(file, path, name, found)
    return found


def _root_address(file: h5py.File, root: str) -> int:
    try:
        info = object_info(file.id, encode_path(root))
    except READ_ERRORS as error:
        if root == "/":
            raise DamagedFileError(f"{file.filename}: libhdf5 cannot read the root group: {error}") from error
        raise GroupNotFoundError(
            f"{file.filename}: no group {root}; h5zarr inspect lists the groups"
        ) from error
    if info.kind != h5o.TYPE_GROUP:
        raise GroupNotFoundError(f"{file.filename}: {root} is not a group; h5zarr inspect lists the groups")
    return info.address


def _descend(file: h5py.File, root: str, address: int, found: Walk, soft: list[tuple[str, bytes]]) -> None:
    found.group_names[address] = [root]
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            group = h5g.open(file.id, encode_path(path))
            links = _links(group)
        except READ_ERRORS as error:
            found.problems.append(_unreadable(path, "group", error))
            continue
        children = [_follow(group, path, link, found, soft) for link in links]
        pending.extend(child for child in reversed(children) if child is not None)


def _links(group: h5g.GroupID) -> list[_Link]:
    """Return the links of a group, in the order of creation where the file knows it."""
    tracked = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_TRACKED
    order = h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME
    links: list[_Link] = []

    def note(name: bytes, info: Any) -> None:
        address = info.u if info.type == h5l.TYPE_HARD else None
        links.append(_Link(name=name, kind=info.type, address=address))

    group.links.iterate(note, idx_type=order, info=True)
    return links


def _follow(
    group: h5g.GroupID, parent: str, link: _Link, found: Walk, soft: list[tuple[str, bytes]]
) -> str | None:
    """Note where a link leads; return the path of a group that was not known before."""
    path = parent.rstrip("/") + "/" + decode_path(link.name)
    if link.kind == h5l.TYPE_HARD:
        return _follow_hard(group, path, link, found)
    if link.kind == h5l.TYPE_SOFT:
        soft.append((path, link.name))
    elif link.kind == h5l.TYPE_EXTERNAL:
        _note_external_link(group, path, link.name, found)
    else:
        found.problems.append(
            Problem(
                path=path,
                found=f"a user-defined link of class {link.kind}",
                remedy="replace it by a soft link",
            )
        )
    return None


def _follow_hard(group: h5g.GroupID, path: str, link: _Link, found: Walk) -> str | None:
    assert link.address is not None
    for names in (found.group_names.get(link.address), found.dataset_names.get(link.address)):
        if names is not None:
            names.append(path)
            return None
    try:
        kind = object_info(group, link.name).kind
    except READ_ERRORS as error:
        found.problems.append(_unreadable(path, "object", error))
        return None
    if kind == h5o.TYPE_DATASET:
        found.dataset_names[link.address] = [path]
    elif kind == h5o.TYPE_GROUP:
        found.group_names[link.address] = [path]
        return path
    return None


def _resolve_soft_link(file: h5py.File, path: str, name: bytes, found: Walk) -> None:
    """Find the object of a soft link; one outside of the selection is walked under the link's name."""
    try:
        target = follow_path(file.id, path)
        if isinstance(target, ElsewhereTarget):
            link = ExternalLink(path=path, filename=target.filename, target=target.path)
            found.external_links.append(link)
            return
        info = object_info(file.id, encode_path(target))
    except READ_ERRORS:
        found.problems.append(_dangling(file, path, name))
        return
    for known in (found.group_names, found.dataset_names):
        if info.address in known:
            known[info.address].append(path)
            return
    if info.kind == h5o.TYPE_DATASET:
        found.dataset_names[info.address] = [path]
    elif info.kind == h5o.TYPE_GROUP:
        further: list[tuple[str, bytes]] = []
        _descend(file, path, info.address, found, further)
        for deeper, deeper_name in further:
            _resolve_soft_link(file, deeper, deeper_name, found)


def _dangling(file: h5py.File, path: str, name: bytes) -> Problem:
    try:
        parent = h5g.open(file.id, encode_path(path.rpartition("/")[0] or "/"))
        target = parent.links.get_val(name).decode("utf-8", "backslashreplace")
    except READ_ERRORS as error:
        return _unreadable(path, "soft link", error)
    return Problem(
        path=path,
        found=f"a soft link to {target}, where nothing is",
        remedy="nothing is lost; remove the link to be rid of this message",
    )


def _note_external_link(group: h5g.GroupID, path: str, name: bytes, found: Walk) -> None:
    try:
        value = group.links.get_val(name)
    except READ_ERRORS as error:
        found.problems.append(_unreadable(path, "external link", error))
        return
    filename, target = map(decode_path, value)
    found.external_links.append(ExternalLink(path=path, filename=filename, target=target))


def _unreadable(path: str, kind: str, error: BaseException) -> Problem:
    return Problem(
        path=path,
        found=f"libhdf5 cannot read the {kind}: {' '.join(str(error).split())}",
        remedy=_CHECK_FILE,
    )
