"""Where references come from, and what could not be expressed: the key ``h5zarr`` of every format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from h5zarr.errors import Problem, ReferencesError
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy, Part, Selection, SourceIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where references come from."""

    version: str | None
    """Version of h5zarr that wrote them; None where it did not."""
    source: SourceIdentity | None
    """The HDF5 file; None where there are several, or nobody told."""
    selection: Selection
    """The part of it that was asked for."""
    problems: tuple[Problem, ...]
    """What could not be expressed."""
    parts: tuple[Part, ...]
    """The files that were combined; () where none were."""
    options: Mapping[str, JSON] = field(default_factory=dict)
    """Options of `h5zarr.convert` that shaped them, where they were not the defaults."""
    neighbours: tuple[SourceIdentity, ...] = ()
    """Further files that ``source`` names, as of `FileScan`."""

    def hierarchy(self, nodes: Mapping[str, GroupNode | ArrayNode]) -> Hierarchy:
        """Return the hierarchy of nodes that come from there."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "version"}
        return Hierarchy(nodes=nodes, **own)


NOTHING_KNOWN = Provenance(version=None, source=None, selection=Selection(), problems=(), parts=())
"""Of references that do not tell."""


def known_files(origin: Provenance | Hierarchy) -> Iterator[SourceIdentity]:
    """Yield what is known of all files; of one, several may tell."""
    if origin.source is not None:
        yield origin.source
    yield from origin.neighbours
    for part in origin.parts:
        yield part.source
        yield from part.neighbours


def to_json(hierarchy: Hierarchy, version: str) -> dict[str, JSON]:
    """Return where a hierarchy comes from as JSON.

    Parameters
    ----------
    hierarchy
        The hierarchy.
    version
        Version of h5zarr.
    """
    document: dict[str, JSON] = {
        "version": version,
        "source": None if hierarchy.source is None else _source_json(hierarchy.source),
        "selection": _selection_json(hierarchy.selection),
        "problems": [problem.to_json() for problem in hierarchy.problems],
    }
    if hierarchy.parts:
        document["parts"] = [_part_json(part) for part in hierarchy.parts]
    if hierarchy.neighbours:
        document["neighbours"] = list(map(_source_json, hierarchy.neighbours))
    if hierarchy.options:
        document["options"] = dict(hierarchy.options)
    return document


def from_json(document: Mapping[str, JSON] | None) -> Provenance:
    """Return what `to_json` wrote; of None, that nothing is known.

    Raises
    ------
    ReferencesError
        It is something else.
    """
    if document is None:
        return NOTHING_KNOWN
    try:
        return Provenance(
            version=document["version"],
            source=None if document["source"] is None else SourceIdentity(**document["source"]),
            selection=_selection(document["selection"]),
            problems=tuple(map(Problem.from_json, document["problems"])),
            parts=tuple(map(_part, document.get("parts", ()))),
            options=dict(document.get("options", {})),
            neighbours=_neighbours(document),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReferencesError(f"their provenance, the key h5zarr, is damaged: {reason}") from error


def _source_json(source: SourceIdentity) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        "url": source.url,
        "byte_length": source.byte_length,
        "modified": source.modified,
        "etag": source.etag,
    }
    return {**told, "is_local_copy": True} if source.is_local_copy else told


def _neighbours(document: Mapping[str, JSON]) -> tuple[SourceIdentity, ...]:
    return tuple(SourceIdentity(**one) for one in document.get("neighbours", ()))


def _selection_json(selection: Selection) -> dict[str, JSON]:
    return {
        "root": selection.root,
        "include": list(selection.include),
        "exclude": list(selection.exclude),
    }


def _selection(document: Mapping[str, JSON]) -> Selection:
    return Selection(
        root=document["root"], include=tuple(document["include"]), exclude=tuple(document["exclude"])
    )


def _part_json(part: Part) -> dict[str, JSON]:
    document: dict[str, JSON] = {
        "source": _source_json(part.source),
        "selection": _selection_json(part.selection),
        "start": dict(part.start),
        "extent": dict(part.extent),
    }
    if part.neighbours:
        document["neighbours"] = list(map(_source_json, part.neighbours))
    if part.labels:
        document["labels"] = dict(part.labels)
    return document


def _part(document: Mapping[str, JSON]) -> Part:
    return Part(
        source=SourceIdentity(**document["source"]),
        selection=_selection(document["selection"]),
        start=dict(document["start"]),
        extent=dict(document["extent"]),
        neighbours=_neighbours(document),
        labels=dict(document.get("labels", {})),
    )
