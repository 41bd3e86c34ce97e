"""References to data that have moved: the URLs that they point into, by other names (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from h5zarr.errors import ReferencesError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy, Part, SourceIdentity
from h5zarr.prefetch.redact import redact
from h5zarr.references.provenance import known_files
from h5zarr.source import check_public, local_path

Renames = Mapping[str, str] | Sequence[tuple[str, str]]
"""Prefixes of URLs, and what stands there instead."""

_MOST_SHOWN = 3


def with_new_urls(hierarchy: Hierarchy, renames: Renames) -> Hierarchy:
    """Return a hierarchy whose references point to where the files are now.

    A prefix ends where a part of the path does: ``s3://a/b`` is one of ``s3://a/b/x.nc`` and of
    ``s3://a/b``, not of ``s3://a/bc``; ``s3://a/b/`` only of what is below. An absolute path stands for
    its ``file://`` URL too. Of several prefixes of one URL the longest counts, and each URL is renamed
    once.

    Parameters
    ----------
    hierarchy
        References; those that come from elsewhere stay as they are.
    renames
        Old and new prefixes.

    Returns
    -------
    Hierarchy
        Of files with a new name, its provenance no longer tells the time of modification and the entity
        tag, which a copy does not share.

    Raises
    ------
    ReferencesError
        A prefix is empty, or one of no URL; one has two new names; or two files would get the same name.
    SourceError
        A new prefix holds credentials, or names a file inside of another one.
    """
    rules = _rules(renames)
    urls = list(dict.fromkeys(_urls(hierarchy)))
    matching = {url: [old for old in rules if _is_prefix(old, url)] for url in urls}
    _refuse_unused(renames, set().union(*matching.values()), urls)
    new = {
        url: _renamed(url, max(prefixes, key=len), rules) if prefixes else url
        for url, prefixes in matching.items()
    }
    _refuse_same(new)
    return replace(
        hierarchy,
        nodes={path: _node(node, new) for path, node in hierarchy.nodes.items()},
        source=None if hierarchy.source is None else _identity(hierarchy.source, new),
        parts=tuple(_part(part, new) for part in hierarchy.parts),
        neighbours=tuple(_identity(one, new) for one in hierarchy.neighbours),
    )


# Rules -----------------------------------------------------------------------------------


def _rules(renames: Renames) -> dict[str, str]:
    """Return what stands for each prefix, with the URLs of absolute paths."""
    rules: dict[str, str] = {}
    for old, new in _pairs(renames):
        if not old or rules.get(old, new) != new:
            raise ReferencesError(f"the prefix {redact(old)!r} is empty, or has two new names")
        _check_new(new)
        rules[old] = new
    for old, new in _pairs(renames):
        if old.startswith("/"):
            rules.setdefault(f"file://{old}", f"file://{new}" if new.startswith("/") else new)
    return rules


def _check_new(prefix: str) -> None:
    """Refuse what may not stand in references; the name of a local file may have any characters."""
    if local_path(prefix) is None:
        check_public(prefix, way_out="as the new prefix")


def _pairs(renames: Renames) -> list[tuple[str, str]]:
    return list(renames.items() if isinstance(renames, Mapping) else renames)


def _is_prefix(old: str, url: str) -> bool:
    return url == old or url.startswith(old if old.endswith("/") else f"{old}/")


def _renamed(url: str, old: str, rules: Mapping[str, str]) -> str:
    rest = url[len(old.removesuffix("/")) :]
    return rules[old].removesuffix("/") + rest if rest else rules[old]


def _refuse_unused(renames: Renames, used: set[str], urls: list[str]) -> None:
    """Refuse a prefix that no URL has: it is a mistake, and the references would stay as they are."""
    for old, _ in _pairs(renames):
        if used.isdisjoint({old, f"file://{old}"}):
            some = ", ".join(map(redact, urls[:_MOST_SHOWN])) or "none"
            raise ReferencesError(f"no URL of the references begins with {redact(old)}; they are {some}")


def _refuse_same(new: Mapping[str, str]) -> None:
    """Refuse one new name for two files: only one of them can be there."""
    old: dict[str, str] = {}
    for before, after in new.items():
        if old.setdefault(after, before) != before:
            names = f"{redact(old[after])} and {redact(before)}"
            raise ReferencesError(f"{names} would both become {redact(after)}; rename them one by one")


# The hierarchy ---------------------------------------------------------------------------


def _urls(hierarchy: Hierarchy) -> Iterable[str]:
    for one in known_files(hierarchy):
        yield one.url
    for array in hierarchy.arrays():
        yield from array.manifest.locations


def _node(node: GroupNode | ArrayNode, new: Mapping[str, str]) -> GroupNode | ArrayNode:
    if isinstance(node, GroupNode):
        return node
    locations = tuple(new[location] for location in node.manifest.locations)
    return replace(node, manifest=replace(node.manifest, locations=locations))


def _part(part: Part, new: Mapping[str, str]) -> Part:
    neighbours = tuple(_identity(one, new) for one in part.neighbours)
    return replace(part, source=_identity(part.source, new), neighbours=neighbours)


def _identity(source: SourceIdentity, new: Mapping[str, str]) -> SourceIdentity:
    url = new[source.url]
    return source if url == source.url else replace(source, url=url, modified=None, etag=None)
