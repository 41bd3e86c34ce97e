"""The metadata documents and the manifest as a whole: valid, complete, canonical, and loadable again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import FIXTURE_NAMES, FIXTURES, open_zarr
from zarr_metadata.model import read_consolidated_metadata_v3, read_node_metadata_v3

import h5zarr
from h5zarr.converter import Conversion, convert
from h5zarr.errors import ReferencesError
from h5zarr.model import ArrayNode, Hierarchy
from h5zarr.references import kerchunk_json

BEYOND_THE_SPECIFICATIONS = {
    # zarr-python's own data types and codecs
    *("structured", "null_terminated_bytes", "fixed_length_utf32", "raw_bytes", "variable_length_bytes"),
    *("vlen-utf8", "vlen-bytes"),
    *("numcodecs.zlib", "numcodecs.shuffle", "numcodecs.fletcher32", "numcodecs.bz2"),
    # this package's
    *("h5zarr.hdf5", "h5zarr.numpy", "h5zarr.sequence", "hdf5_enum"),
}
"""Names that zarr-metadata has no definition of, and therefore does not check."""

RESERVED_NAMES = {"names_reserved.h5": {"...", "__reserved", "zarr.json"}}
"""Names that Zarr's specification forbids and zarr-python reads."""


@pytest.fixture(scope="module", params=FIXTURE_NAMES)
def conversion(request: pytest.FixtureRequest) -> Conversion:
    return convert(FIXTURES / request.param, inline_threshold=100)


def documents(references: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in references["refs"].items():
        if key == "zarr.json" or key.endswith("/zarr.json"):
            yield key.removesuffix("zarr.json").rstrip("/"), json.loads(value)


def rendered(conversion: Conversion) -> bytes:
    return b"".join(conversion.blocks())


# zarr-metadata ---------------------------------------------------------------------------


def test_every_document_is_valid(conversion: Conversion) -> None:
    problems = {}
    for path, document in documents(conversion.references()):
        reading = read_node_metadata_v3(document)
        problems[path] = [str(problem) for problem in reading.problems]
    assert "" in problems
    assert {path: found for path, found in problems.items() if found} == {}


def test_unchecked_names_are_known(conversion: Conversion) -> None:
    unclaimed: set[str] = set()
    for _, document in documents(conversion.references()):
        metadata = read_node_metadata_v3(document).metadata
        assert not metadata.must_understand_fields
        unclaimed |= {field.name for field in metadata.unclaimed_fields.values()}
    assert unclaimed <= BEYOND_THE_SPECIFICATIONS


def test_consolidated_metadata_is_the_nodes_own(conversion: Conversion) -> None:
    own = dict(documents(conversion.references()))
    consolidated = own.pop("")["consolidated_metadata"]
    assert consolidated["kind"] == "inline"
    assert consolidated["must_understand"] is False
    assert json.dumps(consolidated["metadata"], sort_keys=True) == json.dumps(own, sort_keys=True)


def test_consolidated_metadata_is_valid(conversion: Conversion) -> None:
    root = json.loads(conversion.references()["refs"]["zarr.json"])
    reading = read_consolidated_metadata_v3(root["consolidated_metadata"])
    name = Path(conversion.hierarchy.source.url).name
    assert {problem.loc[1] for problem in reading.problems} == RESERVED_NAMES.get(name, set())


def test_zarr_lists_all_nodes(tmp_path: Path) -> None:
    """zarr-python 3.1 loses nodes where siblings of one group are not listed side by side."""
    names = ["a/b/c/x", "a/y", "b/z", "a/b/w", "b/b/b", "c", "empty"]
    with h5py.File(tmp_path / "x.h5", "w", track_order=True) as file:
        for name in names[:-1]:
            file[name] = np.arange(3)
        file.create_group("empty/deeper/still")
    root = open_zarr(convert(tmp_path / "x.h5").references())
    groups = {"a", "a/b", "a/b/c", "b", "b/b", "empty", "empty/deeper", "empty/deeper/still"}
    assert {name for name, _ in root.members(max_depth=None)} == groups | set(names)
    assert set(root["a"].keys()) == {"b", "y"}
    assert set(root["empty/deeper"].keys()) == {"still"}


# The manifest ----------------------------------------------------------------------------


def test_the_same_file_gives_the_same_bytes(conversion: Conversion) -> None:
    path = FIXTURES / Path(conversion.hierarchy.source.url).name
    assert rendered(convert(path, inline_threshold=100)) == rendered(conversion)


def test_references_are_the_written_json(conversion: Conversion) -> None:
    text = rendered(conversion)
    assert json.loads(text) == conversion.references()
    keys = [key for key, _ in json.loads(text, object_pairs_hook=list)[1][1]]
    assert len(keys) == len(set(keys))


def test_references_are_version_1(conversion: Conversion) -> None:
    references = conversion.references()
    assert list(references) == ["version", "refs", "h5zarr"]
    assert references["version"] == 1
    url = conversion.hierarchy.source.url
    for value in references["refs"].values():
        if isinstance(value, list):
            location, byte_offset, byte_length = value
            assert location.startswith(url.rpartition("/")[0])
            assert type(byte_offset) is type(byte_length) is int
            assert byte_length > 0


def test_provenance(conversion: Conversion) -> None:
    provenance = json.loads(rendered(conversion))["h5zarr"]
    path = FIXTURES / Path(conversion.hierarchy.source.url).name
    assert provenance["version"] == h5zarr.__version__
    assert provenance["source"] == {
        "url": path.as_uri(),
        "byte_length": path.stat().st_size,
        "modified": path.stat().st_mtime,
        "etag": None,
    }
    assert provenance["problems"] == [problem.to_json() for problem in conversion.problems]
    assert all({"path", "found", "remedy"} <= problem.keys() for problem in provenance["problems"])


# Loading ---------------------------------------------------------------------------------


def same(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return what makes a hierarchy, in a form that can be compared."""
    return {
        "source": hierarchy.source,
        "selection": hierarchy.selection,
        "problems": hierarchy.problems,
        "metadata": {path: json.dumps(node.metadata) for path, node in hierarchy.nodes.items()},
        "manifests": {array.path: manifest_of(array) for array in hierarchy.arrays()},
    }


def manifest_of(array: ArrayNode) -> dict[str, Any]:
    manifest = array.manifest
    which = (
        manifest.location_index if manifest.location_index is not None else [0] * len(manifest.grid_position)
    )
    return {
        "grid_shape": manifest.grid_shape,
        "grid_position": manifest.grid_position.tolist(),
        "byte_offset": manifest.byte_offset.tolist(),
        "byte_length": manifest.byte_length.tolist(),
        "dtypes": {manifest.grid_position.dtype, manifest.byte_offset.dtype, manifest.byte_length.dtype},
        "locations": [manifest.locations[at] for at in which],
        "inline": manifest.inline,
    }


def test_what_is_written_loads_again(conversion: Conversion) -> None:
    loaded = kerchunk_json.load(rendered(conversion))
    assert same(loaded) == same(conversion.hierarchy)
    assert list(loaded.nodes) == list(conversion.hierarchy.nodes)


def test_references_load_again(conversion: Conversion) -> None:
    assert same(kerchunk_json.from_references(conversion.references())) == same(conversion.hierarchy)


def test_what_is_loaded_renders_the_same_bytes(conversion: Conversion) -> None:
    text = rendered(conversion)
    again = b"".join(kerchunk_json.render(kerchunk_json.load(text), version=h5zarr.__version__))
    assert again == text


@pytest.mark.parametrize("threshold", [0, 500])
def test_names_that_look_like_chunk_keys_load(threshold: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in ("c", "g/c", "g/d/c", "k/0/c", "zarr.json", "g/zarr.json/c", "k/c.0"):
            file[name] = np.float64(len(name))
        for name in ("0", "g/0", "h/c/c/c/0", "h/c/c/1", "h/d/c"):
            file[name] = np.arange(len(name))
    conversion = convert(tmp_path / "x.h5", inline_threshold=threshold)
    assert same(kerchunk_json.load(rendered(conversion))) == same(conversion.hierarchy)


GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
NO_MANIFESTS: list[tuple[Any, str]] = [
    ([1], "no refs"),
    ({}, "no refs"),
    ({"refs": []}, "no refs"),
    ({"refs": {}}, "no zarr.json"),
    ({"refs": {".zgroup": "{}"}}, "not Zarr v3"),
    ({"refs": {"zarr.json": "{"}}, "not a manifest"),
    ({"refs": {"zarr.json": "{}"}}, "not a manifest"),
    ({"refs": {"zarr.json": 5}}, "not a manifest"),
    ({"refs": {"zarr.json": GROUP}, "h5zarr": {"source": 5}}, "provenance"),
    ({"refs": {"zarr.json": GROUP}, "h5zarr": 5}, "provenance"),
]


@pytest.mark.parametrize("text", ["", "{", "no", '{"version": 1,', b"\xff"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ReferencesError, match="not JSON"):
        kerchunk_json.load(text)


@pytest.mark.parametrize(("document", "words"), NO_MANIFESTS)
def test_what_is_no_manifest_is_refused(document: Any, words: str) -> None:
    with pytest.raises(ReferencesError, match=words) as raised:
        kerchunk_json.load(json.dumps(document))
    assert "\n" not in str(raised.value)


BAD_CHUNKS: dict[str, Any] = {
    "no numbers": ["file:///x.h5", "0", "8"],
    "fractions": ["file:///x.h5", 0.5, 8],
    "too short": ["file:///x.h5", 0],
    "negative": ["file:///x.h5", -1, 8],
    "not base64": "base64:x",
    "an object": {"url": "file:///x.h5"},
}


BAD_KEYS = ["x/c/9", "x/c/-1", "x/c/0/0", "x/c/a", "x/c"]


def with_chunk(folder: Path, key: str, chunk: Any) -> dict[str, Any]:
    """Return references of an array `x` with one chunk, which is this one."""
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = np.arange(3)
    references = convert(folder / "x.h5").references()
    del references["refs"]["x/c/0"]
    references["refs"][key] = chunk
    return references


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_chunks_that_are_none_are_refused(chunk: Any, tmp_path: Path) -> None:
    references = with_chunk(tmp_path, "x/c/0", chunk)
    with pytest.raises(ReferencesError):
        kerchunk_json.from_references(references)


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("chunk", ["text", ["file:///x.h5", 0, 8]], ids=["inline", "reference"])
def test_chunks_outside_of_the_array_are_refused(key: str, chunk: Any, tmp_path: Path) -> None:
    references = with_chunk(tmp_path, key, chunk)
    with pytest.raises(ReferencesError):
        kerchunk_json.from_references(references)


def test_references_of_others_load() -> None:
    """What other tools write has no key ``h5zarr``, and whole files as ``[url]``."""
    group = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    loaded = kerchunk_json.load(
        json.dumps({"version": 1, "refs": {"zarr.json": group, "readme.txt": "text"}})
    )
    assert list(loaded.nodes) == ["/"]
    assert loaded.problems == ()
