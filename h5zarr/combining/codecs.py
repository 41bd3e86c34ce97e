"""One codec pipeline for chunks of several files, where theirs differ in filter masks only (pure).

Filters like lzf leave out chunks that they cannot compress. Codec ``h5zarr.hdf5`` tells which by their
stored lengths, so that what it is told depends on the data of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from h5zarr.chunk_form import ChunkForm
from h5zarr.combining.rules import same_json
from h5zarr.model import JSON, ArrayNode

_CODEC = "h5zarr.hdf5"


def common_codecs(arrays: Sequence[ArrayNode]) -> list[JSON] | None:
    """Return codecs that decode the chunks of all arrays; None where there are none.

    Parameters
    ----------
    arrays
        The arrays.
    """
    codecs: list[JSON] = arrays[0].metadata["codecs"]
    if all(same_json(codecs, array.metadata["codecs"]) for array in arrays[1:]):
        return codecs
    like = next((array.metadata["codecs"] for array in arrays if _is_told_by_length(array)), None)
    if like is None:
        return None
    forms = [_form_like(array, like) for array in arrays]
    form = _common_form(arrays, [form for form in forms if form is not None]) if all(forms) else None
    return None if form is None else [*like[:-1], {"name": _CODEC, "configuration": form.to_configuration()}]


def _is_told_by_length(array: ArrayNode) -> bool:
    return bool(array.metadata["codecs"][-1]["name"] == _CODEC)


def _form_like(array: ArrayNode, like: Sequence[JSON]) -> ChunkForm | None:
    """Return the form of an array's chunks, None where its codecs are others than some.

    Chunks that no filter was applied to have no codec at all, where they are all the chunks of a file.
    """
    own = array.metadata["codecs"]
    if _is_told_by_length(array):
        is_alike = same_json(own[:-1], like[:-1])
        return ChunkForm.from_configuration(own[-1]["configuration"]) if is_alike else None
    form = ChunkForm.from_configuration(like[-1]["configuration"])
    if form.stored_type is not None or not same_json(own, like[:-1]):
        return None
    if not _stored_lengths(array) <= {form.chunk_byte_length}:
        return None
    return replace(form, filter_mask=form.mask_of_unfiltered, mask_by_byte_length=())


def _common_form(arrays: Sequence[ArrayNode], forms: Sequence[ChunkForm]) -> ChunkForm | None:
    """Return a form in which each stored length tells the filter mask that its own form tells."""
    bare = {replace(form, filter_mask=0, mask_by_byte_length=()) for form in forms}
    if len(bare) > 1:
        return None
    masks: dict[int, int] = {}
    for array, form in zip(arrays, forms, strict=True):
        for byte_length in _stored_lengths(array):
            mask = form.mask_of(byte_length)
            if masks.setdefault(byte_length, mask) != mask:
                return None
    usual = Counter(masks.values()).most_common(1)[0][0] if masks else forms[0].filter_mask
    others = tuple((byte_length, mask) for byte_length, mask in masks.items() if mask != usual)
    return replace(bare.pop(), filter_mask=usual, mask_by_byte_length=others)


def _stored_lengths(array: ArrayNode) -> set[int]:
    """Return the lengths of all stored chunks (bytes)."""
    manifest = array.manifest
    return {*np.unique(manifest.byte_length).tolist(), *map(len, manifest.inline.values())}
