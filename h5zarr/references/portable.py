"""Arrays that readers other than zarr-python decode: which they are, and what becomes of the others.

Portable are Zarr's own codecs and those registered with it that other libraries have. Chunks stored
with another one are decoded by zarr-python and encoded anew with ``zstd``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from h5zarr.dtype_json import NUMPY_TYPE, SEQUENCE_TYPE
from h5zarr.errors import Problem
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy
from h5zarr.references.extensions import name_of

PORTABLE_CODECS = frozenset(
    {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-bytes", "vlen-utf8", "zstd"}
)
"""Names of codecs that stay as they are."""

_OWN_TYPES = frozenset({NUMPY_TYPE, SEQUENCE_TYPE})
_SERIALIZERS = frozenset({"bytes", "vlen-bytes", "vlen-utf8"})
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_COMPRESSION = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}


def without_own_types(hierarchy: Hierarchy) -> Hierarchy:
    """Return a hierarchy without arrays of data types that only h5zarr has; its problems tell of them.

    Parameters
    ----------
    hierarchy
        What is to be written. The result of a result is the same.
    """
    nodes: dict[str, GroupNode | ArrayNode] = {}
    problems = list(hierarchy.problems)
    for path, node in hierarchy.nodes.items():
        name = name_of(node.metadata["data_type"]) if isinstance(node, ArrayNode) else None
        if name in _OWN_TYPES:
            problems.append(_problem(hierarchy.selection.hdf5_path(path), name))
        else:
            nodes[path] = node
    return replace(hierarchy, nodes=nodes, problems=tuple(problems))


def _problem(path: str, name: str) -> Problem:
    found = f"the Zarr data type {name}, which only h5zarr reads: no other has what it stands for"
    return Problem(path=path, found=found, remedy="leave out --portable, and read it with h5zarr installed")


def portable_codecs(metadata: Mapping[str, JSON]) -> list[JSON]:
    """Return codecs that store an array's values for any reader: its own ones where they do.

    Parameters
    ----------
    metadata
        The array's ``zarr.json``.
    """
    codecs: list[JSON] = list(metadata["codecs"])
    if _are_portable(codecs) and not _is_big_complex(metadata):
        return codecs
    serializer = next((codec for codec in codecs if name_of(codec) in _SERIALIZERS), _LITTLE_ENDIAN)
    has_endian = not isinstance(serializer, str) and "endian" in serializer.get("configuration", {})
    return [_LITTLE_ENDIAN if has_endian else serializer, _COMPRESSION]


def _is_big_complex(metadata: Mapping[str, JSON]) -> bool:
    """Return whether big-endian complex numbers are stored: zarrs 0.2.3 exchanges their two parts."""
    is_complex = name_of(metadata["data_type"]).startswith("complex")
    return is_complex and '"big"' in json.dumps(metadata["codecs"])


def _are_portable(codecs: list[JSON]) -> bool:
    inner = [
        codec["configuration"][key]
        for codec in codecs
        if name_of(codec) == "sharding_indexed"
        for key in ("codecs", "index_codecs")
    ]
    names = {name_of(codec) for codec in codecs}
    return names <= PORTABLE_CODECS and all(map(_are_portable, inner))
