"""Parsing references as JSON into columns, against a parser of JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st

from h5zarr.errors import ReferencesError
from h5zarr.references import json_document, kerchunk_json
from h5zarr.references.json_document import ReferenceDocument, parse


def whole(document: ReferenceDocument) -> dict[str, Any]:
    """Return what was parsed as one document again."""
    refs = dict(document.references)
    if document.rows is not None:
        rows = document.rows
        columns = (rows.location_index, rows.byte_offset, rows.byte_length)
        for number, (at, start, length) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            assert rows.key(number) not in refs
            refs[rows.key(number)] = [rows.locations[at], start, length]
    return {**document.members, "refs": refs}


def with_refs(refs: str) -> str:
    return '{"version":1,"refs":{' + refs + '},"more":{"a":[{}]}}'


ROW = '"x/c/0":["u",1,2]'
ROWS: dict[str, tuple[str, int]] = {
    "none": (with_refs(""), 0),
    "one": (with_refs(ROW), 1),
    "blanks": (' {\n"version" : 1 ,\t"refs" : { "x/c/0" : [ "u" , 1 , 2 ] \r\n} }\n', 1),
    "an object alone": ('{"refs":{' + ROW + "}}", 1),
    "two files": (with_refs('"x/0":["u",1,2],"x/1":["v",3,4],"x/2":["u",5,6]'), 3),
    "the largest": (with_refs('"x/0":["u",999999999999999999,0]'), 1),
    "larger": (with_refs('"x/0":["u",18446744073709551615,0]'), 0),
    "negative": (with_refs('"x/0":["u",-1,0]'), 0),
    "fractions": (with_refs('"x/0":["u",1.0,2],"x/1":["u",1e3,2]'), 0),
    "whole files": (with_refs('"x/0":["u"],"x/1":[],"x/2":["u",1],"x/3":["u",1,2,3]'), 0),
    "no URL": (with_refs('"x/0":[null,1,2],"x/1":[["u"],1,2],"x/2":["u",1,[2]]'), 0),
    "text": (with_refs('"zarr.json":"{\\"a\\":[\\"u\\",1,2]}",' + ROW + ',"y":"base64:AA=="'), 1),
    "objects": (with_refs('"zarr.json":{"a":["u",1,2],"refs":{}},"y":{},"z":[[]],' + ROW), 1),
    "other values": (with_refs('"a":1,"b":null,"c":true,"d":-1.5e3 ,' + ROW), 1),
    "escapes in keys": (with_refs(r'"a\"b/0":["u",1,2],"x\/c\/0":["u",1,2],"\u00fc":["u",1,2]'), 0),
    "escapes in URLs": (with_refs(r'"x/0":["a\"b\\\/\u00fc",1,2]'), 1),
    "other characters": (with_refs('"ü/0":["u",1,2],"x/0":["ü",3,4],"\x7f":["u",1,2]'), 1),
    "brackets in text": (with_refs('"y":"]}[{,:","x/c/0":["]}[{,:",1,2],"z":{"a":"}]"}'), 1),
    "refs elsewhere": ('{"a":{"refs":{"x":1}},"refs":{' + ROW + '},"b":["refs"]}', 1),
}


@pytest.mark.parametrize(("text", "count"), ROWS.values(), ids=ROWS)
def test_rows_and_the_rest_are_the_document(text: str, count: int) -> None:
    document = parse(text.encode())
    assert whole(document) == json.loads(text)
    assert document.rows is not None
    assert len(document.rows) == count


LEFT_TO_THE_PARSER = {
    "refs twice": '{"refs":{},"refs":{"x":["u",1,2]}}',
    "an escaped name": r'{"r\u0065fs":{"x":["u",1,2]}}',
}


@pytest.mark.parametrize("text", LEFT_TO_THE_PARSER.values(), ids=LEFT_TO_THE_PARSER)
def test_what_is_not_expected_is_left_to_the_parser(text: str) -> None:
    document = parse(text.encode())
    assert document.rows is None
    assert whole(document) == json.loads(text)


WHOLE = with_refs('"zarr.json":"{\\"a\\":1}","x/c/0":["file:///a.h5",12,345],"y":{"b":[1,"c"]},"z":-1')


@pytest.mark.parametrize("end", range(len(WHOLE)))
def test_the_beginning_of_a_document_is_none(end: int) -> None:
    with pytest.raises(ReferencesError, match="not JSON"):
        parse(WHOLE[:end].encode())


BROKEN_ROWS = [
    *('"x"["u",1,2]', '"x":"u",1,2]', '"x":["u"1,2]', '"x":["u",1 2]', '"x":["u",1,2', '"x":["u",1,2}'),
    *('"x":["u",1,2],', ',"x":["u",1,2]', '"x":["u",1,2]"y":1', '"x":["u",1,2]]', "x:1"),
    *('"x":["\\x",1,2]', '"x":', '"x":,"y":1', '"x":["u",+1,2]', '"x":{"a"]', '"x":["u",1,,2]', '"x":tru'),
]


@pytest.mark.parametrize("refs", BROKEN_ROWS)
def test_what_is_no_json_is_refused(refs: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each parser has words of its own
        ujson.loads(with_refs(refs))
    with pytest.raises(ReferencesError, match="not JSON"):
        parse(with_refs(refs).encode())


@settings(deadline=None, max_examples=2000)
@given(st.integers(0, len(WHOLE) - 1), st.sampled_from('"\\{}[],: 0a\n-') | st.characters(), st.booleans())
def test_a_damaged_document_is_as_the_parser_sees_it(at: int, character: str, inserted: bool) -> None:
    text = (WHOLE[:at] + character + WHOLE[at + (not inserted) :]).encode("utf-8", "surrogatepass")
    try:
        expected = ujson.loads(text)
        assert isinstance(expected["refs"], dict)
    except (ValueError, TypeError, LookupError, AssertionError):
        with pytest.raises(ReferencesError):
            parse(text)
        return
    assert whole(parse(text)) == expected


@pytest.mark.parametrize("rank", [33, 64, 65])
def test_many_dimensions(rank: int) -> None:
    """An array datatype adds its dimensions to those of the dataset; NumPy has 64 at most."""
    members = [("deep/zarr.json", array([1] * rank)), ("deep/c" + "/0" * rank, ["u", 1, 2])]
    if rank > 64:
        with pytest.raises(ReferencesError, match="65 dimensions"):
            kerchunk_json.load(manifest_text(members))
        return
    hierarchy = kerchunk_json.load(manifest_text(members))
    text = b"".join(kerchunk_json.render(hierarchy, version="0"))
    assert f'"deep/c{"/0" * rank}":["u",1,2]'.encode() in text


def test_an_array_at_the_root_is_refused() -> None:
    text = with_refs(f'"zarr.json":{json.dumps(array([3]))},"c/0":["u",1,2]')
    with pytest.raises(ReferencesError, match="one array at the root"):
        kerchunk_json.load(text)


# As manifests ----------------------------------------------------------------------------


def array(shape: list[int]) -> str:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }
    return json.dumps(document)


def manifest_text(members: list[tuple[str, Any]]) -> str:
    """Return a manifest of the arrays ``x``, ``x2`` and ``scalar`` with these members as they stand."""
    documents = [
        ("zarr.json", json.dumps({"zarr_format": 3, "node_type": "group"})),
        ("x/zarr.json", array([12, 10])),
        ("x2/zarr.json", array([300])),
        ("scalar/zarr.json", array([])),
    ]
    lines = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in documents + members]
    return with_refs(",\n".join(lines))


def columns_of(text: str) -> dict[str, list[tuple[int, str, int, int]]]:
    """Return the references of each array by their grid position, and its inline chunks."""
    found = {}
    for node in kerchunk_json.load(text).arrays():
        own = node.manifest
        which = np.zeros(len(own.grid_position), int) if own.location_index is None else own.location_index
        urls = [own.locations[at] for at in which]
        numbers = (own.grid_position, own.byte_offset, own.byte_length)
        at, start, length = (column.tolist() for column in numbers)
        found[node.path] = [*zip(at, urls, start, length, strict=True), *own.inline.items()]
        assert at == sorted(at)
        assert list(own.locations) == list(dict.fromkeys(own.locations))
        assert set(own.locations) == set(urls)
    return found


MANIFESTS: dict[str, list[tuple[str, Any]]] = {
    "rows": [(f"x/c/{i}/{j}", ["u", i, j]) for i in range(12) for j in range(10)],
    "rows in another order": [(f"x/c/{i}/{j}", ["u", i, j]) for j in range(10) for i in range(12)],
    "several files": [(f"x2/c/{i}", [f"u{i * 7 % 5}", i, 2 * i]) for i in range(300)],
    "inline chunks among rows": [
        (f"x2/c/{i}", "base64:AAA=" if i % 3 else ["u", i, 1]) for i in range(0, 300, 7)
    ],
    "arrays that take turns": [
        item
        for i in range(10)
        for item in ((f"x/c/0/{i}", ["u", i, 1]), (f"x2/c/{i}", ["v", i, 1]), (f"x/c/1/{i}", ["w", i, 1]))
    ],
    "numbers that no row has": [("x/c/0/0", ["u", 10**18, 1]), ("x/c/0/1", ["v", 5, 1])],
    "a scalar": [("scalar/c", ["u", 5, 6])],
    "other texts": [("readme/of/it", "text"), ("x2/c/1", ["v", 1, 1]), ("x3", "text")],
}


@pytest.mark.parametrize("members", MANIFESTS.values(), ids=MANIFESTS)
def test_rows_become_the_same_manifest(
    members: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = manifest_text(members)
    document = parse(text.encode())
    assert document.rows is not None
    assert len(document.rows) > 0
    found = columns_of(text)
    monkeypatch.setattr(json_document, "_json_rows", None)
    assert parse(text.encode()).rows is None
    assert columns_of(text) == found


BAD_MANIFESTS: dict[str, list[tuple[str, Any]]] = {
    "outside of the grid": [("x/c/12/0", ["u", 1, 2])],
    "far outside": [("x2/c/18446744073709551616", ["u", 1, 2])],
    "too few cells": [("x/c/1", ["u", 1, 2])],
    "too many": [("x/c/1/1/1", ["u", 1, 2])],
    "no number": [("x/c/1/a", ["u", 1, 2])],
    "nothing": [("x/c/1/", ["u", 1, 2])],
    "another separator": [("x/c/1.1", ["u", 1, 2])],
    "no chunk": [("x/d/1/1", ["u", 1, 2])],
    "of no array": [("y/c/0", ["u", 1, 2])],
    "metadata in a file": [("x3/zarr.json", ["u", 1, 2])],
    "an array of Zarr v2 alone": [("y/.zarray", "{}"), ("x2/c/1", ["u", 1, 2])],
    "a cell of a scalar": [("scalar/c/0", ["u", 1, 2])],
    "twice": [("x2/c/1", ["u", 1, 2]), ("x2/c/2", ["u", 1, 2]), ("x2/c/1", ["u", 1, 2])],
    "twice, inline": [("x2/c/1", ["u", 1, 2]), ("x2/c/1", "text")],
}


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "not compiled"])
@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_rows_that_are_no_chunks_are_refused(
    name: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_compiled:
        monkeypatch.setattr(json_document, "_json_rows", None)
    text = manifest_text(BAD_MANIFESTS[name])
    if name.startswith("twice") and not is_compiled:
        kerchunk_json.load(text)  # a dict has the last of them alone
        return
    with pytest.raises(ReferencesError):
        kerchunk_json.load(text)
