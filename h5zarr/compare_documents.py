"""Comparison of the places where a node's metadata stand: readers use the one or the other."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from h5zarr.compare import json_same, show
from h5zarr.errors import UntranslatableError
from h5zarr.model import JSON
from h5zarr.references.keys import (
    CONSOLIDATED_KEY,
    METADATA_KEY,
    V2_METADATA_KEYS,
    chunk_grid_shape,
    store_key,
)
from h5zarr.references.zarr_v2 import array_documents

_OWN_V2_KEYS = frozenset(V2_METADATA_KEYS) - {CONSOLIDATED_KEY}


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentDifference:
    """A node of which two documents say different things."""

    path: str
    """Path of the node in the hierarchy, without a leading slash."""
    expected: str
    """What the one says."""
    found: str
    """What the other says."""


def document(text: Any) -> dict[str, JSON]:
    """Return a metadata document; {} for what is none, of which opening the node tells."""
    try:
        parsed = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def document_differences(references: Mapping[str, Any]) -> Iterator[DocumentDifference]:
    """Yield what differs between a node's own documents, the consolidated ones, and those of Zarr v2.

    Parameters
    ----------
    references
        What stands under each key of the store.
    """
    root = document(references.get(METADATA_KEY))
    consolidated = (root.get("consolidated_metadata") or {}).get("metadata")
    if isinstance(consolidated, dict):
        yield from _consolidated_differences(references, consolidated)
    yield from _groups_of_their_own(references)
    second = document(references.get(CONSOLIDATED_KEY))
    # That of Parquet references is the only place of all documents.
    if isinstance(second.get("metadata"), dict) and "record_size" not in second:
        yield from _v2_consolidated_differences(references, second["metadata"])
    if root and ".zgroup" in references:
        yield from _v2_differences(references)


def _difference(path: str, whose: str, expected: JSON, found: JSON) -> Iterator[DocumentDifference]:
    if not json_same(expected, found):
        texts = show(expected, found)
        yield DocumentDifference(path=path, expected=f"{whose}, {texts[0]}", found=texts[1])


def _consolidated_differences(
    references: Mapping[str, Any], consolidated: Mapping[str, JSON]
) -> Iterator[DocumentDifference]:
    for path in sorted(_below_the_root(references) | consolidated.keys()):
        own = document(references.get(f"{path}/{METADATA_KEY}"))
        yield from _difference(path, "its own", _alone(own), _alone(consolidated.get(path, {})))
        yield from _further_metadata(path, consolidated.get(path, {}))


def _groups_of_their_own(references: Mapping[str, Any]) -> Iterator[DocumentDifference]:
    for path in sorted(_below_the_root(references)):
        yield from _further_metadata(path, document(references[f"{path}/{METADATA_KEY}"]))


def _below_the_root(references: Mapping[str, Any]) -> set[str]:
    ending = f"/{METADATA_KEY}"
    return {key.removesuffix(ending) for key in references if key.endswith(ending)}


def _further_metadata(path: str, node: Mapping[str, JSON]) -> Iterator[DocumentDifference]:
    """Tell of consolidated metadata below the root: zarr-python believes them, and nothing compares them."""
    told = (node.get("consolidated_metadata") or {}).get("metadata")
    if told:
        found = f"some, of {', '.join(sorted(told))}" if isinstance(told, dict) else repr(told)
        yield DocumentDifference(path=path, expected="consolidated metadata of the root alone", found=found)


def _alone(node: Mapping[str, JSON]) -> dict[str, JSON]:
    return {name: value for name, value in node.items() if name != "consolidated_metadata"}


# Zarr v2 ---------------------------------------------------------------------------------


def _v2_consolidated_differences(
    references: Mapping[str, Any], consolidated: Mapping[str, JSON]
) -> Iterator[DocumentDifference]:
    own_keys = {key for key in references if key.rpartition("/")[2] in _OWN_V2_KEYS}
    for key in sorted(own_keys | consolidated.keys()):
        own = document(references.get(key))
        path, _, name = key.rpartition("/")
        yield from _difference(path, f"its own {name}", own, consolidated.get(key, {}))


def _v2_differences(references: Mapping[str, Any]) -> Iterator[DocumentDifference]:
    """Compare documents of Zarr v2 with those that the ones of Zarr v3 become."""
    keys = {*_OWN_V2_KEYS, METADATA_KEY}
    paths = {key.rpartition("/")[0] for key in references if key.rpartition("/")[2] in keys}
    chunks = Counter(key.rpartition("/")[0] for key in references if key.rpartition("/")[2] not in keys)
    for path in sorted(paths):
        expected = _as_v2(path, document(references.get(store_key(path, METADATA_KEY))), chunks[path])
        for name in sorted(_OWN_V2_KEYS):
            found = document(references.get(store_key(path, name)))
            yield from _difference(path, f"a {name} as of Zarr v3", expected.get(name, {}), found)


def _as_v2(path: str, node: Mapping[str, JSON], chunk_count: int) -> dict[str, JSON]:
    """Return the documents of Zarr v2 by name; {} of what it cannot express, which problems tell."""
    if not node or not frozenset(V2_METADATA_KEYS).isdisjoint(path.split("/")):
        return {}
    if node.get("node_type") == "group":
        return {".zgroup": {"zarr_format": 2}, ".zattrs": node.get("attributes", {})}
    try:
        is_complete = chunk_count == math.prod(chunk_grid_shape(node))
        return array_documents(node, is_complete=is_complete)
    except (UntranslatableError, LookupError, TypeError, ValueError):  # of the last, opening the node tells
        return {}
