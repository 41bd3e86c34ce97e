"""Virtual datasets: references into the sources' chunks where these fit, values inline elsewhere."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import open_zarr

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
