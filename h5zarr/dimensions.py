"""Names of dimensions, as the netCDF-4 conventions tell them (pure).

"NetCDF-4 format", "HDF5 Dimension Scales": a dimension is a dataset of class DIMENSION_SCALE; a
variable lists those of its axes in DIMENSION_LIST; a scale with several dimensions of its own
lists their numbers in _Netcdf4Coordinates. Axes without a scale get the names and the numbers
that h5netcdf gives them with ``phony_dims="sort"``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from h5zarr.attributes import is_dimension_scale
from h5zarr.model import Dataset, FileScan, Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    name: str
    extent: int
    is_unlimited: bool
    number: int | None


def dimension_names(scan: FileScan, *, phony: bool = True) -> dict[str, tuple[str | None, ...]]:
    """Return the dimension names of every dataset, by its path.

    Parameters
    ----------
    scan
        The scanned file.
    phony
        Whether axes without a scale are called ``phony_dim_N``, which xarray needs.
    """
    scales = _scales_by_group(scan.datasets)
    phony_names = _phony_names(scan, scales) if phony else {}
    extents = _scale_extents(scan.datasets)
    return {
        dataset.path: _names(dataset, scales, phony_names, extents)
        for dataset in scan.datasets
        if dataset.shape is not None
    }


def parent(path: str) -> str:
    """Return the path of the group that holds an object."""
    return path.rpartition("/")[0] or "/"


def leaf(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def whole_branches(paths: Iterable[str]) -> list[str]:
    """Return paths in their order, but each followed at once by all that is below it."""
    ranks = {path: rank for rank, path in enumerate(paths)}
    return sorted(ranks, key=lambda path: [ranks[above] for above in _line(path) if above in ranks])


def _line(path: str) -> list[str]:
    """Return a path's ancestors from the root down, and itself."""
    parts = path.rstrip("/").split("/")
    return ["/", *("/".join(parts[:end]) for end in range(2, len(parts) + 1))]


def _scales_by_group(datasets: Iterable[Dataset]) -> dict[str, dict[str, _Scale]]:
    scales: dict[str, dict[str, _Scale]] = defaultdict(dict)
    for dataset in datasets:
        if dataset.shape and is_dimension_scale(dataset.attributes):
            name = leaf(dataset.path)
            scales[parent(dataset.path)][name] = _Scale(
                name=name,
                extent=dataset.shape[0],
                is_unlimited=dataset.maximum_shape is not None and dataset.maximum_shape[0] is None,
                number=next(iter(_numbers(dataset, "_Netcdf4Dimid")), None),
            )
    return scales


def _numbers(dataset: Dataset, name: str) -> tuple[int, ...]:
    """Return an attribute of dimension numbers, () where there is none."""
    for attribute in dataset.attributes:
        if attribute.name == name and attribute.value is not None:
            values = np.asarray(attribute.value)
            return tuple(values.ravel().tolist()) if values.dtype.kind in "iu" else ()
    return ()


def _visible(path: str, scales: Mapping[str, Mapping[str, _Scale]]) -> dict[str, _Scale]:
    """Return the scales of a dataset's group and of all groups around it, nearest first."""
    found: dict[str, _Scale] = {}
    group = path
    while group != "/":
        group = parent(group)
        found = {**scales.get(group, {}), **found}
    return found


def _names(
    dataset: Dataset,
    scales: Mapping[str, Mapping[str, _Scale]],
    phony_names: Mapping[str, Sequence[tuple[int, str]]],
    extents: Mapping[str, int],
) -> tuple[str | None, ...]:
    assert dataset.shape is not None
    rank = len(dataset.shape)
    own = _own_names(dataset, scales)
    if own is not None and len(own) == rank:
        return own
    attached = _attached_names(dataset, extents)
    names: list[str | None] = attached if len(attached) == rank else [None] * rank
    if rank == 1 and names == [None] and leaf(dataset.path) in _visible(dataset.path, scales):
        return (leaf(dataset.path),)
    return _name_the_rest(names, dataset.shape, phony_names.get(parent(dataset.path), ()))


def _attached_names(dataset: Dataset, extents: Mapping[str, int]) -> list[str | None]:
    """Return the names of the scales attached to each axis.

    A netCDF variable may have fewer records than its unlimited dimension. xarray opens no file in
    which a dimension has two lengths, so that such an axis has its length in its name.
    """
    return [
        _with_extent(leaf(axis[-1]), extent, extents[axis[-1]]) if axis else None
        for axis, extent in zip(dataset.dimension_scales, dataset.shape or (), strict=False)
    ]


def _scale_extents(datasets: Iterable[Dataset]) -> dict[str, int]:
    """Return the length of each dimension by its scale's path: netCDF-C leaves an unlimited scale short."""
    extents: dict[str, int] = defaultdict(int)
    for dataset in datasets:
        if dataset.shape and is_dimension_scale(dataset.attributes):
            extents[dataset.path] = max(extents[dataset.path], dataset.shape[0])
        for axis, extent in zip(dataset.dimension_scales, dataset.shape or (), strict=False):
            if axis:
                extents[axis[-1]] = max(extents[axis[-1]], extent)
    return extents


def _with_extent(name: str, extent: int, scale_extent: int) -> str:
    return name if extent == scale_extent else f"{name}_{extent}"


def _own_names(dataset: Dataset, scales: Mapping[str, Mapping[str, _Scale]]) -> tuple[str, ...] | None:
    """Return the names that a scale of several dimensions lists by number."""
    numbers = _numbers(dataset, "_Netcdf4Coordinates")
    if not numbers or not is_dimension_scale(dataset.attributes):
        return None
    by_number = {scale.number: scale.name for scale in _visible(dataset.path, scales).values()}
    if not all(number in by_number for number in numbers):
        return None
    return tuple(by_number[number] for number in numbers)


def _name_the_rest(
    names: list[str | None], shape: Shape, available: Sequence[tuple[int, str]]
) -> tuple[str | None, ...]:
    """Give unnamed axes the group's dimensions of their extent, each once per dataset."""
    by_extent: dict[int, list[str]] = defaultdict(list)
    for extent, name in available:
        if name not in names:
            by_extent[extent].append(name)
    return tuple(
        name if name is not None or not by_extent[extent] else by_extent[extent].pop(0)
        for name, extent in zip(names, shape, strict=True)
    )


def _phony_names(
    scan: FileScan, scales: Mapping[str, Mapping[str, _Scale]]
) -> dict[str, list[tuple[int, str]]]:
    """Return extent and name of the dimensions for unlabelled axes, by group.

    h5netcdf numbers them on from the scales of the groups that it has seen, one branch after the other.
    """
    unlabelled: dict[str, list[Shape]] = defaultdict(list)
    for dataset in scan.datasets:
        for shape in _unlabelled_shapes(dataset):
            unlabelled[parent(dataset.path)].append(shape)
    names: dict[str, list[tuple[int, str]]] = {}
    following = 0
    for group in whole_branches(group.path for group in scan.groups):
        own = [(scale.extent, scale.name) for scale in scales.get(group, {}).values()]
        fixed = Counter(scale.extent for scale in scales.get(group, {}).values() if not scale.is_unlimited)
        missing = _missing(unlabelled[group], fixed)
        following += len(own)
        names[group] = own + [(extent, f"phony_dim_{following + at}") for at, extent in enumerate(missing)]
        following += len(missing)
    return names


def _unlabelled_shapes(dataset: Dataset) -> list[Shape]:
    if not dataset.shape or is_dimension_scale(dataset.attributes):
        return []
    if not any(dataset.dimension_scales):
        return [dataset.shape]
    bare = tuple(
        extent for extent, axis in zip(dataset.shape, dataset.dimension_scales, strict=False) if not axis
    )
    return [bare] if bare else []


def _missing(shapes: Iterable[Shape], labelled: Counter[int]) -> list[int]:
    """Return the extents for which a group has fewer dimensions than one of its datasets needs."""
    needed: Counter[int] = Counter()
    for shape in shapes:
        needed |= Counter(shape)
    return [extent for extent, count in needed.items() for _ in range(labelled[extent], count)]
