"""What references in JSON can hold, but stores that are read by others cannot (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from h5zarr.errors import Problem
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy
from h5zarr.references.keys import METADATA_KEY

_REMEDY = "write references as JSON or Parquet, which keep it"


def without_metadata_names(hierarchy: Hierarchy) -> Hierarchy:
    """Return a hierarchy without nodes called ``zarr.json``; its problems tell of them.

    Readers that list a store take them for metadata, and a file system has no file and folder of one
    name.

    Parameters
    ----------
    hierarchy
        What is to be written. The result of a result is the same.
    """
    refused = [path for path in hierarchy.nodes if METADATA_KEY in path.split("/")]
    found = f"a name {METADATA_KEY}, which readers that list a store take for metadata"
    problems = [
        Problem(path=hierarchy.selection.hdf5_path(path), found=found, remedy=_REMEDY) for path in refused
    ]
    nodes = {path: node for path, node in hierarchy.nodes.items() if path not in refused}
    return replace(hierarchy, nodes=nodes, problems=(*hierarchy.problems, *problems))


def with_strict_attributes(hierarchy: Hierarchy, reader: str, *, remedy: str = _REMEDY) -> Hierarchy:
    """Return a hierarchy without the attributes that are not standard JSON; its problems tell of them.

    Python writes ``NaN`` and ``Infinity`` into JSON, and zarr-python reads them. RFC 8259 has neither,
    and readers that are not written in Python refuse the whole document.

    Parameters
    ----------
    hierarchy
        What is to be written. The result of a result is the same.
    reader
        Who refuses them, for the problems.
    remedy
        What to do about it, for the problems.
    """
    nodes: dict[str, GroupNode | ArrayNode] = {}
    problems = list(hierarchy.problems)
    for path, node in hierarchy.nodes.items():
        attributes = node.metadata.get("attributes", {})
        refused = [name for name, value in attributes.items() if not _is_strict(value)]
        kept = {name: value for name, value in attributes.items() if name not in refused}
        nodes[path] = replace(node, metadata={**node.metadata, "attributes": kept}) if refused else node
        hdf5_path = hierarchy.selection.hdf5_path(path)
        found = f"a NaN or an infinity, which standard JSON does not have: {reader} would refuse it"
        problems += [Problem(path=hdf5_path, attribute=name, found=found, remedy=remedy) for name in refused]
    return replace(hierarchy, nodes=nodes, problems=tuple(problems))


def _is_strict(value: JSON) -> bool:
    try:
        strict_text({"value": value})
    except ValueError:
        return False
    return True


def strict_text(document: Mapping[str, JSON]) -> bytes:
    """Return a metadata document as standard JSON.

    Raises
    ------
    ValueError
        It has a NaN or an infinity.
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
