"""What few writers make, and where addresses, bytes or extents are not what they seem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, open_zarr
from h5py import h5d, h5p, h5s, h5t

from h5zarr.converter import convert
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

COUNT = 1000
"""Elements of most datasets: too many to stand in references."""


def create(
    file: h5py.File, name: str, datatype: h5t.TypeID, values: Any, creation: h5p.PropDCID | None = None
) -> None:
    """Write bytes or numbers as they are to be stored."""
    length = values.nbytes // datatype.get_size()
    dataset = h5d.create(file.id, name.encode(), datatype, h5s.create_simple((length,)), creation)
    dataset.write(h5s.ALL, h5s.ALL, values.view("u1"), mtype=datatype)


def partial(base: h5t.TypeID, bits: int) -> h5t.TypeID:
    datatype = base.copy()
    datatype.set_precision(bits)
    return datatype


def user_block(path: Path) -> None:
    """HDF5's address of nothing is another one behind a user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("x", (COUNT,), "u1")
        file.create_dataset("filled", (COUNT,), "f8", fillvalue=9.0)
        file["written"] = np.arange(COUNT)


def user_block_virtual(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as file:
        file.create_dataset("x", (COUNT,), "u1")
        layout = h5py.VirtualLayout((COUNT,), "u1")
        layout[:] = h5py.VirtualSource(".", "x", (COUNT,))
        file.create_virtual_dataset("virtual", layout)


def partial_integers(path: Path) -> None:
    """libhdf5 only swaps the bytes of such big-endian integers where little-endian ones are asked for."""
    with h5py.File(path, "w") as file:
        for order, base in ((">", h5t.STD_I16BE), ("<", h5t.STD_I16LE)):
            values = np.arange(-COUNT, COUNT).astype(f"{order}i2")
            datatype = partial(base, 12)
            create(file, f"signed{order}", datatype, values)
            create(file, f"other bits{order}", datatype, (values.astype("u2") ^ 0xF000).astype(f"{order}u2"))
            filled = h5p.create(h5p.DATASET_CREATE)
            filled.set_fill_value(np.array(-5, f"{order}i2"))
            filled.set_chunk((100,))
            h5d.create(file.id, f"fill{order}".encode(), datatype, h5s.create_simple((COUNT,)), filled)
        create(file, "unsigned", partial(h5t.STD_U16BE, 12), np.full(COUNT, 0xF123, ">u2"))
        compound = h5t.create(h5t.COMPOUND, 6)
        compound.insert(b"a", 0, partial(h5t.STD_I16BE, 12))
        compound.insert(b"b", 2, h5t.STD_I32LE)
        create(file, "compound", compound, np.arange(6 * COUNT, dtype="u1"))
        create(
            file,
            "array",
            h5t.array_create(partial(h5t.STD_I16BE, 12), (3,)),
            np.arange(6 * COUNT, dtype="u1"),
        )


def partial_integers_virtual(path: Path) -> None:
    with h5py.File(path, "w") as file:
        create(file, "x", partial(h5t.STD_I16BE, 12), np.arange(-COUNT, COUNT).astype(">i2"))
        space = h5s.create_simple((COUNT,))
        source = h5s.create_simple((2 * COUNT,))
        source.select_hyperslab((1,), (COUNT,), (2,))
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_virtual(space, b".", b"x", source)
        h5d.create(file.id, b"virtual", partial(h5t.STD_I16BE, 12), space, creation)


def times(path: Path) -> None:
    """h5py keeps times as opaque elements, of either byte order."""
    with h5py.File(path, "w") as file:
        for name, dtype in (("big", ">M8[s]"), ("little", "<M8[s]"), ("differences", ">m8[ms]")):
            values = np.arange(COUNT).astype(dtype)
            file.create_dataset(name, data=values.astype(h5py.opaque_dtype(values.dtype)))


def arrays_of_arrays(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, base in (("little", h5t.STD_I32LE), ("big", h5t.STD_I32BE)):
            datatype = h5t.array_create(h5t.array_create(base, (2,)), (3,))
            create(file, name, datatype, np.arange(24 * COUNT, dtype="u1"))
        compound = h5t.create(h5t.COMPOUND, 26)
        compound.insert(b"a", 0, h5t.array_create(h5t.array_create(h5t.STD_I32LE, (2,)), (3,)))
        compound.insert(b"b", 24, h5t.STD_I16LE)
        create(file, "compound", compound, np.arange(26 * COUNT, dtype="u1"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "user block, nothing written": user_block,
    "user block, virtual": user_block_virtual,
    "integers of less precision": partial_integers,
    "integers of less precision, virtual": partial_integers_virtual,
    "times": times,
    "arrays of arrays": arrays_of_arrays,
}


@pytest.mark.parametrize("inline_threshold", [0, 10**6], ids=["referenced", "inline"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_values_are_those_of_h5py(
    write: Callable[[Path], None], inline_threshold: int, tmp_path: Path
) -> None:
    write(tmp_path / "x.h5")
    conversion = convert(tmp_path / "x.h5", inline_threshold=inline_threshold)
    assert conversion.problems == ()
    root = open_zarr(conversion.references())
    with h5py.File(tmp_path / "x.h5") as file:
        for name in list(file):  # while `items` runs, h5py has its lock, which the codec needs
            expected, found = file[name][()], root[name][...]
            assert found.shape == expected.shape
            for member in expected.dtype.names or [...]:
                np.testing.assert_array_equal(found[member], expected[member], err_msg=name)
    assert validate(conversion.references()).ok


def opaque_in_padded_compound(file: h5py.File) -> None:
    opaque = h5t.create(h5t.OPAQUE, 3)
    opaque.set_tag(b"tag")
    compound = h5t.create(h5t.COMPOUND, 8)
    compound.insert(b"a", 0, opaque)
    compound.insert(b"b", 4, h5t.STD_I32LE)
    create(file, "x", compound, np.arange(16, dtype="u1"))


def big_endian_array_of_arrays_in_compound(file: h5py.File) -> None:
    compound = h5t.create(h5t.COMPOUND, 24)
    compound.insert(b"a", 0, h5t.array_create(h5t.array_create(h5t.STD_I32BE, (2,)), (3,)))
    create(file, "x", compound, np.arange(48, dtype="u1"))


INCONVERTIBLE = {
    "opaque in a padded compound": opaque_in_padded_compound,
    "big-endian array of arrays in a compound": big_endian_array_of_arrays_in_compound,
}


@pytest.mark.parametrize("write", INCONVERTIBLE.values(), ids=INCONVERTIBLE)
def test_what_libhdf5_cannot_convert_is_a_problem(write: Callable[[h5py.File], None], tmp_path: Path) -> None:
    """Each chunk would be an error when it is read."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file)
    (problem,) = convert(tmp_path / "x.h5").problems
    assert problem.path == "/x"
    assert "cannot be converted" in problem.found


def test_attributes_that_have_names_of_bookkeeping(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("g")
        group.attrs.update({"CLASS": "DIMENSION_SCALE", "NAME": "important", "hdf5_links": "mine"})
        file["h"] = group
    conversion = convert(tmp_path / "x.h5")
    attributes = dict(open_zarr(conversion.references())["g"].attrs)
    assert attributes == {"CLASS": "DIMENSION_SCALE", "NAME": "important", "hdf5_links": "mine"}
    (problem,) = conversion.problems
    assert (problem.path, problem.attribute) == ("/g", "hdf5_links")
    assert "/h" in problem.found
    assert validate(conversion.references()).ok
