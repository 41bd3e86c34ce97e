"""Zarr v3's metadata documents as those of Zarr v2, for readers that know only these (pure).

A node becomes ``.zgroup`` or ``.zarray``, and ``.zattrs``; ``.zmetadata`` has all of them.

**Fill values.** xarray takes v2's ``fill_value`` for netCDF's ``_FillValue`` and masks it, in chunks that
are there too. It therefore is the attribute ``_FillValue`` of the array; without one it is null, for which
zarr-python, from version 3 on, reads zeros where a chunk is absent. Other fill values of absent chunks
cannot be expressed.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from h5zarr.dimensions import whole_branches
from h5zarr.errors import Problem, UntranslatableError
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy
from h5zarr.references.keys import V2, V2_METADATA_KEYS, ZarrFormat, store_key

_DIMENSIONS = "_ARRAY_DIMENSIONS"
"""xarray's attribute for the names of dimensions, which v2 itself does not have."""
_READ_AS_V3 = "read it as Zarr v3"

_NUMBERS = {
    **{"bool": "b1", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8"},
    **{"uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8"},
    **{"float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16"},
}
_OBJECTS = {"string": "vlen-utf8", "variable_length_bytes": "vlen-bytes"}
_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
_METADATA_NAMES = frozenset(V2_METADATA_KEYS)
_KNOWN_FIELDS = frozenset(
    {"zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value"}
    | {"codecs", "attributes", "dimension_names"}
)


def with_zarr_v2(hierarchy: Hierarchy, zarr_format: ZarrFormat) -> Hierarchy:
    """Return a hierarchy whose problems tell of the arrays that Zarr v2 cannot express.

    Parameters
    ----------
    hierarchy
        What is to be written.
    zarr_format
        ``"3"`` changes nothing; of ``"2"``, those arrays are left out; of ``"both"``, they stay, for
        readers of v3. The result of a result is the same.
    """
    if zarr_format == "3":
        return hierarchy
    nodes: dict[str, GroupNode | ArrayNode] = {}
    problems = list(hierarchy.problems)
    for path, node in hierarchy.nodes.items():
        try:
            node_documents(node)
        except UntranslatableError as reason:
            problem = _problem(hierarchy.selection.hdf5_path(path), reason)
            if problem not in problems:
                problems.append(problem)
            if zarr_format == "2":
                continue
        nodes[path] = node
    return replace(hierarchy, nodes=nodes, problems=tuple(problems))


def _problem(path: str, reason: UntranslatableError) -> Problem:
    found = f"{reason.found}: readers of Zarr v2 do not see it"
    return Problem(path=path, found=found, remedy=reason.remedy)


def v2_documents(hierarchy: Hierarchy) -> dict[str, JSON]:
    """Return the metadata documents of all nodes by store key; arrays that v2 cannot express are left out."""
    documents: dict[str, JSON] = {}
    for path in whole_branches(hierarchy.nodes):  # of others, zarr-python 3.1 loses nodes
        try:
            own = node_documents(hierarchy.nodes[path])
        except UntranslatableError:
            continue
        documents |= {store_key(path, name): document for name, document in own.items()}
    return documents


def consolidated(documents: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the document ``.zmetadata`` of all others, which opens a store with one request."""
    return {"zarr_consolidated_format": 1, "metadata": documents}


def node_documents(node: GroupNode | ArrayNode) -> dict[str, JSON]:
    """Return the metadata documents of one node by name.

    Raises
    ------
    UntranslatableError
        Zarr v2 cannot express it.
    """
    if not _METADATA_NAMES.isdisjoint(node.path.split("/")):
        raise UntranslatableError("a name that metadata have in Zarr v2", "rename it with h5py")
    attributes = node.metadata.get("attributes", {})
    if isinstance(node, GroupNode):
        return {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}
    is_complete = len(node.manifest) == math.prod(node.manifest.grid_shape)
    return array_documents(node.metadata, is_complete=is_complete)


def array_documents(metadata: Mapping[str, JSON], *, is_complete: bool) -> dict[str, JSON]:
    """Return ``.zarray`` and ``.zattrs`` of an array (Zarr v2 storage specification, "Arrays").

    Parameters
    ----------
    metadata
        Its ``zarr.json``.
    is_complete
        Whether no chunk is absent, so that its fill value is never seen.

    Raises
    ------
    UntranslatableError
        Zarr v2 cannot express it.
    """
    if metadata["chunk_grid"]["name"] != "regular":
        raise UntranslatableError("chunks of different shapes, which Zarr v2 does not have", _READ_AS_V3)
    pipeline = _pipeline(metadata["codecs"])
    dtype = _dtype(metadata["data_type"], pipeline.order)
    fill = _fill(metadata, dtype, is_complete)
    zarray = {
        "zarr_format": 2,
        "shape": metadata["shape"],
        "chunks": metadata["chunk_grid"]["configuration"]["chunk_shape"],
        "dtype": dtype,
        "compressor": pipeline.compressor,
        "fill_value": fill.fill_value,
        "order": "C",
        "filters": pipeline.filters or None,
        "dimension_separator": V2.separator,
        **_further_fields(metadata),
    }
    return {".zarray": zarray, ".zattrs": _attributes(metadata, fill)}


def _further_fields(metadata: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the fields that readers may pass over, as they may in v2."""
    further = {name: metadata[name] for name in metadata.keys() - _KNOWN_FIELDS if metadata[name] != []}
    for name, field in sorted(further.items()):
        if not isinstance(field, dict) or field.get("must_understand", True):
            raise UntranslatableError(f"a field {name!r}, which Zarr v2 does not have", _READ_AS_V3)
    return further


def _attributes(metadata: Mapping[str, JSON], fill: _Fill) -> dict[str, JSON]:
    attributes = {**metadata.get("attributes", {}), **fill.attributes}
    if not fill.attributes:
        attributes.pop("_FillValue", None)
    names = list(metadata.get("dimension_names") or [])
    if attributes.get(_DIMENSIONS, names) != names:
        raise UntranslatableError(
            f"an attribute {_DIMENSIONS}, where Zarr v2 has the names of dimensions", _READ_AS_V3
        )
    return attributes if None in names else {**attributes, _DIMENSIONS: names}


# Data types ------------------------------------------------------------------------------


def _dtype(data_type: JSON, order: str) -> JSON:
    """Return a data type in NumPy's words (Zarr v2 storage specification, "Data type encoding")."""
    if isinstance(data_type, str):
        if data_type in _OBJECTS:
            return "|O"
        if data_type in _NUMBERS:
            return np.dtype(order + _NUMBERS[data_type]).str
    elif data_type["name"] in _WITH_PARAMETERS:
        return _WITH_PARAMETERS[data_type["name"]](data_type["configuration"], order)
    name = data_type if isinstance(data_type, str) else data_type["name"]
    raise UntranslatableError(f"data type {name}, which Zarr v2 does not have", _READ_AS_V3)


def _structured(configuration: Mapping[str, JSON], order: str) -> JSON:
    members = [[name, _dtype(member, order)] for name, member in configuration["fields"]]
    if any(isinstance(member, list) for _, member in members):
        raise UntranslatableError("a compound in a compound, which zarr 3.1 does not read", _READ_AS_V3)
    return members


_WITH_PARAMETERS: dict[str, Callable[[Mapping[str, JSON], str], JSON]] = {
    "null_terminated_bytes": lambda given, order: f"|S{given['length_bytes']}",
    "raw_bytes": lambda given, order: f"|V{given['length_bytes']}",
    "fixed_length_utf32": lambda given, order: f"{order}U{given['length_bytes'] // 4}",
    "numpy.datetime64": lambda given, order: _time("M", given, order),
    "numpy.timedelta64": lambda given, order: _time("m", given, order),
    "structured": _structured,
}


def _time(kind: str, configuration: Mapping[str, JSON], order: str) -> str:
    return np.dtype(f"{order}{kind}8[{configuration['scale_factor']}{configuration['unit']}]").str


# Codecs ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pipeline:
    order: str
    """NumPy's sign for the byte order of numbers."""
    filters: list[JSON]
    """numcodecs' configurations, in the order of writing."""
    compressor: JSON
    """That of the last codec, where it is one that readers look for there; None elsewhere."""


def _pipeline(codecs: list[JSON]) -> _Pipeline:
    first, *rest = [codec if isinstance(codec, dict) else {"name": codec} for codec in codecs]
    if first["name"] not in ("bytes", *_OBJECTS.values()):
        raise _no_codec(first["name"])
    filters = [] if first["name"] == "bytes" else [{"id": first["name"]}]
    filters += map(_numcodec, rest)
    compressor = filters.pop() if filters and filters[-1]["id"] in _COMPRESSORS else None
    order = ">" if first.get("configuration", {}).get("endian") == "big" else "<"
    return _Pipeline(order=order, filters=filters, compressor=compressor)


def _numcodec(codec: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return numcodecs' configuration of a codec."""
    name, configuration = codec["name"], dict(codec.get("configuration", {}))
    if name.startswith("numcodecs."):
        return {"id": name.removeprefix("numcodecs."), **configuration}
    match name:
        case "zstd":
            kept = ["level", "checksum"] if configuration.get("checksum") else ["level"]
        case "gzip":
            kept = ["level"]
        case "blosc":
            kept = ["cname", "clevel", "shuffle", "blocksize"]
            configuration["shuffle"] = ("noshuffle", "shuffle", "bitshuffle").index(configuration["shuffle"])
        case _:
            raise _no_codec(name)
    return {"id": name, **{key: configuration[key] for key in kept}}


def _no_codec(name: str) -> UntranslatableError:
    return UntranslatableError(f"codec {name}, which Zarr v2 does not have", _READ_AS_V3)


# Fill values -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fill:
    fill_value: JSON = None
    """What ``.zarray`` has."""
    attributes: Mapping[str, JSON]
    """``_FillValue``, where the attribute has to say what ``fill_value`` cannot; {} elsewhere."""


def _fill(metadata: Mapping[str, JSON], dtype: JSON, is_complete: bool) -> _Fill:
    absent = metadata["fill_value"]
    if isinstance(dtype, list) and "_FillValue" in metadata.get("attributes", {}):
        raise UntranslatableError("an attribute _FillValue of a compound", _READ_AS_V3)
    if isinstance(dtype, list):  # zarr-python 3.1 has no zeros for some of them, and xarray masks none
        return _Fill(fill_value=None if is_complete else absent, attributes={})
    zeros_serve = is_complete or _reads_as_null(absent, np.dtype(dtype))
    if "_FillValue" not in metadata.get("attributes", {}):
        if zeros_serve:
            return _Fill(attributes={})
        if absent == "NaN":  # masking it changes nothing
            return _Fill(fill_value=absent, attributes={})
        raise _no_fill_value(absent)
    masked = _decoded(metadata["attributes"]["_FillValue"], np.dtype(dtype))
    exact = _exact(masked, np.dtype(dtype))
    if exact is not None and (is_complete or json.dumps(exact) == json.dumps(absent)):
        return _Fill(fill_value=exact, attributes={})
    if zeros_serve and not isinstance(masked, list):
        return _Fill(attributes={"_FillValue": masked})
    raise _no_fill_value(absent)


def _no_fill_value(absent: JSON) -> UntranslatableError:
    return UntranslatableError(
        f"absent chunks of fill value {json.dumps(absent)}, which xarray would mask in Zarr v2", _READ_AS_V3
    )


def _reads_as_null(absent: JSON, dtype: np.dtype[Any]) -> bool:
    """Return whether zarr-python fills absent chunks with a value where ``fill_value`` is null."""
    match dtype.kind:
        case "M" | "m":
            return bool(absent == np.iinfo(np.int64).min)
        case "c":
            return json.dumps(absent) == "[0.0, 0.0]"
        case "f":
            return json.dumps(absent) == "0.0"
        case "V":
            return not any(base64.b64decode(absent))
        case _:  # 0, False, and the empty text
            return not absent


def _decoded(attribute: JSON, dtype: np.dtype[Any]) -> JSON:
    """Return the number of a ``_FillValue``: of floats v3 has the base64 of a little-endian float64."""
    if isinstance(attribute, list):
        return [_decoded(part, dtype) for part in attribute]
    if dtype.kind not in "fc" or not isinstance(attribute, str):
        return attribute
    try:
        (number,) = struct.unpack("<d", base64.standard_b64decode(attribute))
    except (ValueError, struct.error):
        raise UntranslatableError(f"a _FillValue {attribute!r}, which is no number", _READ_AS_V3) from None
    return number


def _exact(masked: JSON, dtype: np.dtype[Any]) -> JSON:
    """Return a number as a ``fill_value`` of a data type; None where the type does not have it."""
    if dtype.kind == "c" and isinstance(masked, list):
        parts = [_exact(part, np.dtype(f"f{dtype.itemsize // 2}")) for part in masked]
        return None if None in parts else parts
    if dtype.kind not in "biuf" or isinstance(masked, list):
        return None
    if dtype.kind == "f":
        return _exact_float(float(masked), dtype)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    is_whole = isinstance(masked, int) and limits[0] <= masked <= limits[1]
    return (bool(masked) if dtype.kind == "b" else int(masked)) if is_whole else None


def _exact_float(number: float, dtype: np.dtype[Any]) -> JSON:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    with np.errstate(over="ignore", under="ignore"):
        return number if float(dtype.type(number)) == number else None
