#!/usr/bin/env python
"""Print the README's table of what becomes of each HDF5 feature, taken from the fixtures.

scripts/accuracy.py            print it
scripts/accuracy.py --write    put it into README.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5zarr
from h5zarr.model import ArrayNode

TOP = Path(__file__).parent.parent
BEGIN, END = "<!-- accuracy: scripts/accuracy.py -->\n", "<!-- end of accuracy -->\n"

FEATURES = {
    "integers and floats, both byte orders": ("datatype_integers.h5", "/int32_big"),
    "bool": ("datatype_bool.h5", "/x"),
    "enumeration": ("datatype_enum.h5", "/x"),
    "complex": ("datatype_complex.h5", "/complex128"),
    "complex of HDF5 2": ("datatype_complex_native.h5", "/c16"),
    "reduced precision, bit offset": ("datatype_integers_reduced_precision.h5", "/unsigned"),
    "bfloat16": ("datatype_floats_odd.h5", "/bfloat16"),
    "long double": ("datatype_floats_odd.h5", "/long_double"),
    "bitfield": ("datatype_bitfield.h5", "/x"),
    "24-bit integer": ("datatype_integers_reduced_precision.h5", "/three_bytes"),
    "fixed-length string": ("datatype_fixed_strings.h5", "/null_padded_utf8"),
    "fixed-length string, padded with spaces": ("datatype_fixed_strings.h5", "/space_padded_ascii"),
    "variable-length string": ("datatype_variable_length_strings.h5", "/x"),
    "variable-length string that is not UTF-8": ("datatype_variable_length_strings_not_utf8.h5", "/x"),
    "variable-length sequence": ("datatype_variable_length_sequences.h5", "/x"),
    "compound": ("datatype_compound.h5", "/x"),
    "compound, padded": ("datatype_compound_padded.h5", "/x"),
    "compound, big-endian or mixed": ("datatype_compound_big_endian.h5", "/mixed"),
    "compound that bears arrays": ("datatype_compound_nested.h5", "/x"),
    "compound with variable-length members": ("datatype_compound_variable_length.h5", "/x"),
    "array datatype": ("datatype_array.h5", "/f4"),
    "opaque": ("datatype_opaque.h5", "/x"),
    "opaque time of h5py": ("datatype_opaque.h5", "/datetime"),
    "object reference": ("datatype_references.h5", "/objects"),
    "region reference": ("datatype_references.h5", "/regions"),
    "null dataspace": ("null_dataspace.h5", "/x"),
    "scalar": ("scalar.h5", "/float"),
    "length 0": ("zero_length.h5", "/chunked"),
    "chunked, any index": ("chunk_index_extensible_array_last.h5", "/full"),
    "contiguous": ("contiguous.h5", "/x"),
    "compact": ("compact.h5", "/x"),
    "never written": ("contiguous_never_written.h5", "/x"),
    "external storage": ("external_storage.h5", "/x"),
    "virtual dataset": ("virtual_dataset.h5", "/x"),
    "user block": ("user_block_chunked.h5", "/full"),
    "deflate, shuffle, fletcher32": ("filter_orders.h5", "/sdf"),
    "zstd": ("filter_zstd.h5", "/x"),
    "blosc": ("filter_blosc.h5", "/lz4"),
    "bzip2": ("filter_bzip2.h5", "/x"),
    "lzf": ("filter_lzf.h5", "/x"),
    "scale-offset": ("filter_scaleoffset.h5", "/x"),
    "filter that libhdf5 does not have": ("filter_unregistered.h5", "/x"),
    "filter masks that differ": ("filter_mask.h5", "/mixed"),
    "partial chunks left unfiltered": ("unfiltered_partial_chunks.h5", "/x"),
    "external link": ("links_external.h5", "/external"),
    "name with a backslash": ("names.h5", "/back\\slash"),
}


def becomes(fixture: str, path: str) -> str:
    """Return what becomes of a dataset, in a few words."""
    # Nothing goes inline for being small, so that the table shows what large datasets become.
    conversion = h5zarr.convert(TOP / "fixtures" / fixture, inline_threshold=0)
    node = conversion.hierarchy.nodes.get(path)
    if isinstance(node, ArrayNode):
        return f"{storage(node)} `{data_type(node)}`{codecs(node)}"
    (problem,) = [problem for problem in conversion.problems if problem.path == path]
    return f"refused: {problem.found}"


def storage(node: ArrayNode) -> str:
    if len(node.manifest.grid_position):
        return "referenced, with some chunks inline, as" if node.manifest.inline else "referenced as"
    return "inline as" if node.manifest.inline else "fill value of"


def data_type(node: ArrayNode) -> str:
    declared = node.metadata["data_type"]
    return declared if isinstance(declared, str) else declared["name"]


def codecs(node: ArrayNode) -> str:
    names = [codec["name"] for codec in node.metadata["codecs"][1:]]
    return f", codecs {', '.join(f'`{name}`' for name in names)}" if names else ""


def table() -> str:
    rows = [f"| {feature} | {becomes(*place)} |" for feature, place in FEATURES.items()]
    return "\n".join(["| HDF5 | becomes |", "|---|---|", *rows, ""])


def replaced(readme: str) -> str:
    """Return the README with a fresh table."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


def main() -> None:
    if "--write" in sys.argv[1:]:
        readme = TOP / "README.md"
        readme.write_text(replaced(readme.read_text()))
    else:
        print(table())


if __name__ == "__main__":
    main()
