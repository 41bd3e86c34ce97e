"""What stands on the pages: of a file, of references, of a validation (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

import numpy as np

from h5zarr.errors import Problem
from h5zarr.file_report import without_credentials
from h5zarr.html.byte_map import Pieces
from h5zarr.html.page import Cell, Column, Page, Section, Table, render, table
from h5zarr.html.pictures import map_picture, sizes_picture
from h5zarr.inspection import DatasetRow, Inspection, describe_datatype, filter_text, shape_text
from h5zarr.io_plan import IoPlan, io_plan
from h5zarr.model import ArrayNode, FileScan, GroupNode, Hierarchy
from h5zarr.references_inspection import ReferencesInspection, extension_name
from h5zarr.report import ValidationReport
from h5zarr.text import count, human_bytes, printable

_FOLDED_FROM = 400
"""Pages with more datasets show their groups folded."""

_REPACKING = "This mends it in a local copy. A netCDF-4 file stays one; nccopy -c changes chunk shapes too."

_DATASET_COLUMNS = (
    Column(title="dataset"),
    Column(title="shape"),
    Column(title="type"),
    Column(title="chunk shape"),
    Column(title="filters"),
    Column(title="chunks stored", is_number=True),
    Column(title="stored", is_number=True),
    Column(title="logical", is_number=True),
    Column(title="left out"),
)
_ARRAY_COLUMNS = (
    Column(title="array"),
    Column(title="shape"),
    Column(title="data type"),
    Column(title="chunk shape"),
    Column(title="codecs"),
    Column(title="references", is_number=True),
    Column(title="inline", is_number=True),
    Column(title="referenced", is_number=True),
)


def report_html(
    result: Inspection | ReferencesInspection | Hierarchy | ValidationReport, location: str = ""
) -> str:
    """Return a result as one self-contained HTML page, which needs neither network nor scripts.

    Parameters
    ----------
    result
        What `inspect`, `load` or `validate` returned.
    location
        Where the references are kept, of a hierarchy or validation.
    """
    if isinstance(result, Inspection):
        page = inspection_page(result)
    elif isinstance(result, ReferencesInspection):
        page = references_page(result.hierarchy, result.location)
    elif isinstance(result, Hierarchy):
        page = references_page(result, location)
    else:
        page = validation_page(result, location)
    return render(page, version=version("h5zarr"))


# A file ------------------------------------------------------------------------------------


def inspection_page(inspection: Inspection) -> Page:
    """Return the page of an HDF5 file.

    Parameters
    ----------
    inspection
        What is in it.
    """
    url = printable(inspection.source.url)
    lost = len(inspection.problems)
    return Page(
        title=url.rpartition("/")[2],
        location=url,
        verdict=f"{count(lost, 'problem')}: not all of it can be read as Zarr"
        if lost
        else "All of it can be read as Zarr, without a copy",
        good=not lost,
        facts=_file_facts(inspection),
        sections=tuple(_file_sections(inspection)),
    )


def _file_facts(inspection: Inspection) -> tuple[tuple[str, str], ...]:
    rows, byte_length = inspection.datasets, inspection.source.byte_length
    return (
        ("file", "unknown size" if byte_length is None else human_bytes(byte_length)),
        ("groups", f"{len(inspection.groups):,}"),
        ("datasets", f"{len(rows):,}"),
        ("chunks stored", f"{sum(row.chunks_stored for row in rows):,}"),
        ("data stored", human_bytes(sum(row.stored_bytes for row in rows))),
        ("data uncompressed", human_bytes(sum(row.logical_bytes for row in rows))),
    )


def _file_sections(inspection: Inspection) -> Iterable[Section]:
    if inspection.problems:
        yield _problems_section(inspection.problems)
    pieces = _pieces_of_file(inspection.scan)
    byte_length = inspection.source.byte_length
    if byte_length:
        yield Section(anchor="map", title="Where the data lie", map=map_picture(byte_length, pieces))
    yield from _sizes_section(pieces)
    yield _cloud_section(inspection.io or io_plan(inspection.scan))
    yield Section(anchor="datasets", title="Datasets", tables=tuple(_dataset_tables(inspection)))


def _cloud_section(plan: IoPlan) -> Section:
    """Return what the file costs to read over a network, and what would make it cost less."""
    sentences = [_sentence(text) for text in (plan.verdict, *(one.found for one in plan.advice))]
    return Section(
        anchor="cloud",
        title="In the cloud",
        texts=(*sentences, *((_REPACKING,) if plan.command else ())),
        commands=() if plan.command is None else (printable(plan.command),),
        facts=tuple(_cloud_facts(plan)),
    )


def _sentence(text: str) -> str:
    return printable(f"{text[:1].upper()}{text[1:]}.")


def _cloud_facts(plan: IoPlan) -> Iterable[tuple[str, str]]:
    if plan.fetched is not None:
        yield "requests of the scan", f"{plan.fetched.requests:,}"
        yield "bytes that came", human_bytes(plan.fetched.byte_length)
        yield "round trips", f"{plan.fetched.round_trips:,}"
        yield "reads not foreseen", f"{plan.fetched.misses:,}"
    if plan.metadata_byte_length is not None and plan.metadata_places is not None:
        yield "metadata, at most", human_bytes(plan.metadata_byte_length)
        yield "places of metadata", f"{plan.metadata_places:,}"
    if plan.page_byte_length is not None:
        yield "pages", human_bytes(plan.page_byte_length)
    if plan.chunks.count:
        yield "chunks below 1 MiB", f"{plan.chunks.small_share:.0%}"
        yield "chunks over 64 MiB", f"{plan.chunks.large_share:.0%}"


def _pieces_of_file(found: FileScan) -> list[Pieces]:
    """Return the chunks of each dataset that are in the file itself."""
    return [
        Pieces(
            name=dataset.path,
            byte_offset=dataset.chunk_index.byte_offset,
            byte_length=dataset.chunk_index.byte_length,
        )
        for dataset in found.datasets
        if len(dataset.chunk_index) and not dataset.urls and not dataset.external_files
    ]


def _sizes_section(pieces: Sequence[Pieces]) -> Iterable[Section]:
    lengths = [one.byte_length for one in pieces]
    picture = sizes_picture(np.concatenate(lengths)) if lengths else None
    if picture is not None:
        yield Section(anchor="sizes", title="How large the chunks are", histogram=picture)


def _problems_section(problems: Sequence[Problem]) -> Section:
    columns = [Column(title="where"), Column(title="found"), Column(title="what to do")]
    rows = [
        (one.path if one.attribute is None else f"{one.path} @{one.attribute}", one.found, one.remedy)
        for one in problems
    ]
    return Section(
        anchor="problems", title="What cannot be expressed", tables=(table("Problems", columns, rows),)
    )


def _dataset_tables(inspection: Inspection) -> Iterable[Table]:
    below: dict[str, list[DatasetRow]] = {group: [] for group in inspection.groups}
    for row in inspection.datasets:
        below.setdefault(row.path.rpartition("/")[0] or "/", []).append(row)
    folded = len(inspection.datasets) > _FOLDED_FROM
    for group, rows in below.items():
        if rows:
            stored = human_bytes(sum(row.stored_bytes for row in rows))
            yield _foldable(
                group, _DATASET_COLUMNS, map(_dataset_cells, rows), f"{len(rows):,}, {stored}", folded
            )


def _foldable(
    path: str, columns: tuple[Column, ...], rows: Iterable[tuple[Cell, ...]], note: str, folded: bool
) -> Table:
    return Table(
        title=printable(path), columns=columns, rows=tuple(rows), note=note, folded=folded, is_path=True
    )


def _dataset_cells(row: DatasetRow) -> tuple[Cell, ...]:
    share = 100 * row.chunks_stored / row.chunks_total if row.chunks_total else None
    lost = ["dataset"] if row.left_out else []
    lost += [f"attribute {name}" for name in row.attributes_left_out]
    return (
        _cell(row.path.rpartition("/")[2]),
        _cell(shape_text(row).replace(" x ", " × ")),
        _cell(describe_datatype(row.datatype)),
        _cell(_times(row.chunk_shape or ())),
        _cell(", ".join(map(filter_text, row.filters))),
        _cell(f"{row.chunks_stored:,} of {row.chunks_total:,}", share),
        _cell(human_bytes(row.stored_bytes)),
        _cell(human_bytes(row.logical_bytes)),
        _cell(", ".join(lost)),
    )


def _cell(text: str, share: float | None = None) -> Cell:
    return Cell(text=printable(text), share=None if share is None else round(share, 1))


def _times(extents: Iterable[int]) -> str:
    return " × ".join(f"{extent:,}" for extent in extents)


# References --------------------------------------------------------------------------------


def references_page(hierarchy: Hierarchy, location: str) -> Page:
    """Return the page of references.

    Parameters
    ----------
    hierarchy
        The references.
    location
        Where they are kept.
    """
    arrays = list(hierarchy.arrays())
    lost = len(hierarchy.problems)
    name = printable(without_credentials(location))
    return Page(
        title=name.rstrip("/").rpartition("/")[2],
        location=name,
        verdict=f"{count(lost, 'problem')}: something of the file is not in them"
        if lost
        else "They have all of what was asked for",
        good=not lost,
        facts=_references_facts(hierarchy, arrays),
        sections=tuple(_references_sections(hierarchy, arrays)),
    )


def _references_facts(hierarchy: Hierarchy, arrays: Sequence[ArrayNode]) -> tuple[tuple[str, str], ...]:
    manifests = [array.manifest for array in arrays]
    files = {location for manifest in manifests for location in manifest.locations}
    inline = sum(len(stored) for manifest in manifests for stored in manifest.inline.values())
    return (
        ("files", f"{len(files):,}"),
        ("groups", f"{len(hierarchy.nodes) - len(arrays):,}"),
        ("arrays", f"{len(arrays):,}"),
        ("references", f"{sum(len(manifest.grid_position) for manifest in manifests):,}"),
        ("data referenced", human_bytes(sum(int(manifest.byte_length.sum()) for manifest in manifests))),
        ("data inline", human_bytes(inline)),
    )


def _references_sections(hierarchy: Hierarchy, arrays: Sequence[ArrayNode]) -> Iterable[Section]:
    if hierarchy.problems:
        yield _problems_section(hierarchy.problems)
    pieces = [
        Pieces(
            name=array.path,
            byte_offset=array.manifest.byte_offset,
            byte_length=array.manifest.byte_length,
        )
        for array in arrays
        if len(array.manifest.grid_position)
    ]
    source = hierarchy.source
    if source is not None and source.byte_length and _in_one_file(arrays, source.url):
        yield Section(anchor="map", title="Where the data lie", map=map_picture(source.byte_length, pieces))
    yield from _sizes_section(pieces)
    yield Section(anchor="arrays", title="Arrays", tables=tuple(_array_tables(hierarchy)))


def _in_one_file(arrays: Sequence[ArrayNode], url: str) -> bool:
    return all(location == url for array in arrays for location in array.manifest.locations)


def _array_tables(hierarchy: Hierarchy) -> Iterable[Table]:
    below: dict[str, list[ArrayNode]] = {
        path: [] for path, node in hierarchy.nodes.items() if isinstance(node, GroupNode)
    }
    arrays = list(hierarchy.arrays())
    for array in arrays:
        below.setdefault(array.path.rpartition("/")[0] or "/", []).append(array)
    for group, members in below.items():
        if members:
            folded = len(arrays) > _FOLDED_FROM
            yield _foldable(group, _ARRAY_COLUMNS, map(_array_cells, members), f"{len(members):,}", folded)


def _array_cells(array: ArrayNode) -> tuple[Cell, ...]:
    metadata, manifest = array.metadata, array.manifest
    total = int(np.prod(manifest.grid_shape, dtype=object))
    return (
        _cell(array.path.rpartition("/")[2]),
        _cell(_times(metadata["shape"]) or "scalar"),
        _cell(extension_name(metadata["data_type"])),
        _cell(_chunk_shape(metadata["chunk_grid"])),
        _cell(", ".join(map(extension_name, metadata["codecs"]))),
        _cell(f"{len(manifest.grid_position):,}", 100 * len(manifest) / total if total else None),
        _cell(f"{len(manifest.inline):,}"),
        _cell(human_bytes(int(manifest.byte_length.sum()))),
    )


def _chunk_shape(grid: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    shape = grid["configuration"].get("chunk_shape")
    return "several" if shape is None else _times(shape)


# Validation --------------------------------------------------------------------------------


def validation_page(report: ValidationReport, location: str) -> Page:
    """Return the page of a validation.

    Parameters
    ----------
    report
        What was compared.
    location
        Where the references are kept.
    """
    name = printable(without_credentials(location))
    return Page(
        title=f"Validation of {name.rstrip('/').rpartition('/')[2]}",
        location=name,
        verdict="All that was compared is equal to what h5py reads"
        if report.ok
        else f"{count(report.mismatch_count, 'mismatch', 'mismatches')}: do not use these references",
        good=report.ok,
        facts=(
            ("compared with", printable(report.source)),
            ("arrays", f"{report.arrays_compared:,}"),
            ("chunks", f"{report.chunks_compared:,} of {report.chunks_total:,}"),
            ("values", human_bytes(report.bytes_compared)),
            ("mismatches", f"{report.mismatch_count:,}"),
            ("problems told", f"{report.problems_reported:,}"),
        ),
        sections=tuple(_validation_sections(report)),
    )


def _validation_sections(report: ValidationReport) -> Iterable[Section]:
    if report.ok:
        return
    columns = [Column(title=title) for title in ("where", "what", "expected", "found")]
    rows = []
    for one in report.mismatches:
        place, _, _ = str(one).partition(f": {one.kind}: ")
        rows.append((place, str(one.kind), one.expected, one.found))
    unlisted = report.mismatch_count - len(report.mismatches)
    yield Section(
        anchor="mismatches",
        title="What differs",
        texts=(f"{unlisted:,} more of the same objects are not listed.",) if unlisted else (),
        tables=(table("Mismatches", columns, rows),),
    )
