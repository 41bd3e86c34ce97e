"""Virtual datasets: references into the sources' chunks where these fit, values inline elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import open_zarr
from h5py import h5d, h5p, h5s, h5t

import h5zarr

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def write_sources(folder: Path, count: int, shape: tuple[int, ...], **options: object) -> list[str]:
    names = []
    for number in range(count):
        name = f"source-{number}.h5"
        with h5py.File(folder / name, "w") as file:
            data = np.arange(np.prod(shape), dtype="<i4").reshape(shape) + 1000 * number
            file.create_dataset("data", data=data, **options)
        names.append(name)
    return names


def stacked(folder: Path, names: list[str], shape: tuple[int, ...]) -> Path:
    """Blocks of frames, one after the other, as detectors write them."""
    layout = h5py.VirtualLayout((shape[0] * len(names), *shape[1:]), "<i4")
    for number, name in enumerate(names):
        layout[number * shape[0] : (number + 1) * shape[0]] = h5py.VirtualSource(name, "data", shape)
    return write_virtual(folder, layout)


def new_axis(folder: Path, names: list[str], shape: tuple[int, ...]) -> Path:
    layout = h5py.VirtualLayout((len(names), *shape), "<i4")
    for number, name in enumerate(names):
        layout[number] = h5py.VirtualSource(name, "data", shape)
    return write_virtual(folder, layout)


def interleaved(folder: Path, names: list[str], shape: tuple[int, ...]) -> Path:
    layout = h5py.VirtualLayout((shape[0] * len(names), *shape[1:]), "<i4")
    for number, name in enumerate(names):
        layout[number :: len(names)] = h5py.VirtualSource(name, "data", shape)
    return write_virtual(folder, layout)


def shifted(folder: Path, names: list[str], shape: tuple[int, ...]) -> Path:
    layout = h5py.VirtualLayout((shape[0] * len(names) + 1, *shape[1:]), "<i4")
    for number, name in enumerate(names):
        start = number * shape[0] + 1
        layout[start : start + shape[0]] = h5py.VirtualSource(name, "data", shape)
    return write_virtual(folder, layout)


def part_of_source(folder: Path, names: list[str], shape: tuple[int, ...]) -> Path:
    half = shape[0] // 2
    layout = h5py.VirtualLayout((half * len(names), *shape[1:]), "<i4")
    for number, name in enumerate(names):
        layout[number * half : (number + 1) * half] = h5py.VirtualSource(name, "data", shape)[half:]
    return write_virtual(folder, layout)


def write_virtual(folder: Path, layout: h5py.VirtualLayout) -> Path:
    path = folder / "virtual.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("x", layout, fillvalue=0)
    return path


CHUNKED = {"chunks": (2, 3, 4), "compression": "gzip", "shuffle": True}
CASES = {
    "stacked chunked": (stacked, (4, 6, 8), CHUNKED, True),
    "stacked chunked, partial at the edge": (stacked, (4, 5, 7), CHUNKED, True),
    "stacked contiguous": (stacked, (4, 6, 8), {}, True),
    "new axis": (new_axis, (6, 8), {"chunks": (3, 4)}, True),
    "new axis contiguous": (new_axis, (6, 8), {}, True),
    "half of each source": (part_of_source, (4, 6, 8), CHUNKED, True),
    "sources that end within a chunk": (stacked, (3, 6, 8), CHUNKED, False),
    "interleaved": (interleaved, (4, 6, 8), CHUNKED, False),
    "shifted": (shifted, (4, 6, 8), CHUNKED, False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("missing", [False, True], ids=["all there", "one missing"])
def test_virtual_dataset_is_equal(tmp_path: Path, name: str, missing: bool) -> None:
    build, shape, options, fits = CASES[name]
    names = write_sources(tmp_path, 3, shape, **options)
    path = build(tmp_path, names, shape)
    if missing:
        (tmp_path / names[1]).unlink()
    conversion = h5zarr.convert(path)
    assert not conversion.problems
    with h5py.File(path) as file:
        expected = file["x"][()]
    assert (expected == 0).any() if missing else expected.any()
    np.testing.assert_array_equal(open_zarr(conversion.references())["x"][...], expected)
    manifest = conversion.hierarchy.nodes["/x"].manifest
    assert bool(len(manifest.grid_position)) == fits


def test_values_over_the_limit_are_a_problem(tmp_path: Path) -> None:
    names = write_sources(tmp_path, 3, (4, 6, 8), **CHUNKED)
    path = interleaved(tmp_path, names, (4, 6, 8))
    (problem,) = h5zarr.convert(path, inline_limit=100).problems
    assert problem.path == "/x"
    assert "--inline-limit" in problem.remedy


@pytest.mark.parametrize("place", ["../outside.h5", "{folder}/outside.h5"], ids=["relative", "absolute"])
def test_sources_outside_the_folder_need_permission(tmp_path: Path, place: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (name,) = write_sources(tmp_path, 1, (4, 6, 8))
    (tmp_path / name).rename(tmp_path / "outside.h5")
    path = stacked(inside, [place.format(folder=tmp_path)], (4, 6, 8))
    (problem,) = h5zarr.convert(path).problems
    assert "--follow-external" in problem.remedy
    allowed = h5zarr.convert(path, follow_external=True)
    assert not allowed.problems
    with h5py.File(path) as file:
        np.testing.assert_array_equal(open_zarr(allowed.references())["x"][...], file["x"][()])


# Which elements of which source ----------------------------------------------------------


def other_shape(file: h5py.File) -> None:
    """As many elements, in another shape."""
    file.create_dataset("s", data=np.arange(8).reshape(4, 2), chunks=(2, 2))
    layout = h5py.VirtualLayout((2, 4), int)
    layout[:] = h5py.VirtualSource(".", "s", (4, 2))
    file.create_virtual_dataset("x", layout)


def part_of_numbered(file: h5py.File) -> None:
    for number in range(3):
        file.create_dataset(f"s{number}", data=np.arange(4) + 10 * number + 1, chunks=(2,))
    space = h5s.create_simple((6,), (h5s.UNLIMITED,))
    space.select_hyperslab((0,), (h5s.UNLIMITED,), (2,), (2,))
    source = h5s.create_simple((4,))
    source.select_hyperslab((2,), (2,))
    map_space(file, "x", space, [(space, b"s%b", source)])


def overlapping(file: h5py.File, **options: Any) -> None:
    """The later mapping counts, also where its chunks are absent."""
    file.create_dataset("s", data=np.arange(1, 9), chunks=(2,), **options)
    file.create_dataset("u", (8,), int, chunks=(2,), **options)
    layout = h5py.VirtualLayout((8,), int)
    layout[:] = h5py.VirtualSource(".", "s", (8,))
    layout[2:6] = h5py.VirtualSource(".", "u", (8,))[2:6]
    file.create_virtual_dataset("x", layout, **options)


def overlapping_with_fill_value(file: h5py.File) -> None:
    overlapping(file, fillvalue=7)


def escaped_name(file: h5py.File) -> None:
    """``%%`` stands for one ``%``."""
    file["p%q"] = np.arange(1, 5)
    file["p%%q"] = np.arange(11, 15)
    layout = h5py.VirtualLayout((4,), int)
    layout[:] = h5py.VirtualSource(".", "p%%q", (4,))
    file.create_virtual_dataset("x", layout)


def behind_the_end(file: h5py.File) -> None:
    """A source ends within a chunk, which holds more."""
    source = file.create_dataset("s", (5,), "i8", chunks=(4,), maxshape=(None,))
    source[:] = 1
    source.id.write_direct_chunk((4,), np.arange(10, 14).tobytes())
    file.create_dataset("u", data=np.full(8, 2), chunks=(4,), maxshape=(None,))
    mappings = []
    for row, name, length in ((0, b"s", 5), (1, b"u", 8)):
        shown = h5s.create_simple((2, 8), (2, h5s.UNLIMITED))
        shown.select_hyperslab((row, 0), (1, h5s.UNLIMITED), (1, 1), (1, 1))
        taken = h5s.create_simple((length,), (h5s.UNLIMITED,))
        taken.select_hyperslab((0,), (h5s.UNLIMITED,), (1,), (1,))
        mappings.append((shown, name, taken))
    map_space(file, "x", h5s.create_simple((2, 8), (2, h5s.UNLIMITED)), mappings)


def map_space(
    file: h5py.File, name: str, space: h5s.SpaceID, mappings: list[tuple[h5s.SpaceID, bytes, h5s.SpaceID]]
) -> None:
    creation = h5p.create(h5p.DATASET_CREATE)
    for shown, path, taken in mappings:
        creation.set_virtual(shown, b".", path, taken)
    extents = h5s.create_simple(space.get_simple_extent_dims(), space.get_simple_extent_dims(True))
    h5d.create(file.id, name.encode(), h5t.NATIVE_INT64, extents, creation)


SELECTIONS = [
    other_shape,
    part_of_numbered,
    overlapping,
    overlapping_with_fill_value,
    escaped_name,
    behind_the_end,
]


@pytest.mark.parametrize("write", SELECTIONS)
def test_elements_that_are_shown(write: Callable[[h5py.File], None], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file)
    with h5py.File(tmp_path / "x.h5") as file:
        expected = file["x"][()]
    conversion = h5zarr.convert(tmp_path / "x.h5")
    assert not conversion.problems
    np.testing.assert_array_equal(open_zarr(conversion.references())["x"][...], expected)
    assert h5zarr.validate(conversion.references()).ok


def test_source_without_elements(tmp_path: Path) -> None:
    """h5py cannot read it either."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["s"] = np.zeros((0,), int)
        layout = h5py.VirtualLayout((4,), int)
        layout[:] = h5py.VirtualSource(".", "s", (4,))
        file.create_virtual_dataset("x", layout)
    (problem,) = h5zarr.convert(tmp_path / "x.h5").problems
    assert problem.path == "/x"


# Where the files are ---------------------------------------------------------------------


def write_master(path: Path, source: str) -> None:
    """Write a dataset of two sources: one elsewhere, one in the file."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["own"] = np.arange(5, 9)
        layout = h5py.VirtualLayout((8,), int)
        layout[:4] = h5py.VirtualSource(source, "d", (4,))
        layout[4:] = h5py.VirtualSource(".", "own", (4,))
        file.create_virtual_dataset("x", layout)


PLACES = {
    "beside the file": ("a/src.h5", "src.h5", "a/x.h5", True),
    "in the current folder": ("src.h5", "src.h5", "a/x.h5", False),
    "absolute path of before, now beside the file": ("a/src.h5", "/old/place/src.h5", "a/x.h5", True),
    "beside the file that a link leads to": ("a/src.h5", "src.h5", "b/x.h5", True),
    "in a folder of the environment": ("b/src.h5", "src.h5", "a/x.h5", False),
    "nowhere": ("a/none.h5", "src.h5", "a/x.h5", True),
}
"""Where the source is, its name in the file, what is opened, and whether that is in its own folder."""


@pytest.mark.parametrize(("place", "name", "opened", "is_own"), PLACES.values(), ids=PLACES)
def test_places_where_libhdf5_looks(
    place: str, name: str, opened: str, is_own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_master(tmp_path / "a/x.h5", name)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.h5").symlink_to("../a/x.h5")
    with h5py.File(tmp_path / place, "w") as file:
        file["d"] = np.arange(1, 5)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if place == "src.h5" else tmp_path / "elsewhere")
    if place == "b/src.h5":
        monkeypatch.setenv("HDF5_VDS_PREFIX", f"{tmp_path}/none:{tmp_path}/b")
    with h5py.File(tmp_path / opened) as file:
        expected = file["x"][()]
    assert expected[0] == (0 if "none" in place else 1)
    if not is_own:
        (problem,) = h5zarr.convert(tmp_path / opened).problems
        assert "--follow-external" in problem.remedy
    for follow in (True, False) if is_own else (True,):
        conversion = h5zarr.convert(tmp_path / opened, follow_external=follow, inline_threshold=0)
        assert not conversion.problems
        np.testing.assert_array_equal(open_zarr(conversion.references())["x"][...], expected)
