"""Reading chunks through references: near ones together, decoded in threads.

zarr-python's own pipeline has a coroutine for each chunk and for each of its codecs, and ten chunks under
way at a time. Of small chunks that takes ten times as long as decoding them, and of remote files most
of the time is waiting. Here a thread fetches, decodes and places several chunks that are near to one
another in the file. What decodes them are the same functions.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodecPartialDecodeMixin, Codec
from zarr.codecs import BytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer, cpu
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.storage import StorePath
from zlib_ng import zlib_ng

from h5zarr.compiled import native as _native
from h5zarr.model import Shape
from h5zarr.prefetch import redact
from h5zarr.reading.data_files import Content, DataFiles, Scratch
from h5zarr.reading.lookup import Reference
from h5zarr.reading.reference_store import ReferenceStore

_MOST_REMOTE_THREADS = 32
_MOST_BYTES_UNDER_WAY = 256 * 2**20
_BATCHES_PER_THREAD = 4
_LEAST_BATCH_BYTES = 64 * 1024
_LARGEST_BATCH_BYTES = 4 * 2**20
_LEAST_WINDOWED_BYTES = 64 * 1024


def use_reference_pipeline(array: zarr.Array[Any]) -> None:
    """Have an array of a `ReferenceStore` read by a `ReferencePipeline`.

    A pipeline that the user has configured stays: only zarr-python's default one is replaced.

    Parameters
    ----------
    array
        The array, which was opened just now.
    """
    default = array.async_array.codec_pipeline
    if type(default) is BatchedCodecPipeline:
        parts = {field.name: getattr(default, field.name) for field in fields(default)}
        # zarr-python takes the class from its global configuration, which other threads use as well.
        object.__setattr__(array.async_array, "codec_pipeline", ReferencePipeline(**parts))


class ReferencePipeline(BatchedCodecPipeline):
    """Reads chunks through a `ReferenceStore`, several in each thread."""

    async def read(
        self,
        batch_info: Iterable[tuple[Any, ArraySpec, Any, Any, bool]],
        out: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> Any:
        """Read chunks into an array, and tell of each whether it is there (zarr-python 3.4 asks)."""
        infos = list(batch_info)
        decoding = _Decoding.of(self)
        if not infos or decoding is None or not _is_here(out) or not all(map(_is_referenced, infos)):
            return await super().read(infos, out, drop_axes)
        reading = _Reading(
            store=infos[0][0].store,
            decoding=decoding,
            scratch=Scratch(),
            out=out.as_numpy_array(),
            drop_axes=drop_axes,
        )
        return await reading.read(infos)


def _is_here(out: NDBuffer) -> bool:
    """Return whether an array is in this machine's memory: those on other devices have other classes."""
    return isinstance(out, cpu.NDBuffer)


def _is_referenced(info: Sequence[Any]) -> bool:
    getter = info[0]
    return isinstance(getter, StorePath) and isinstance(getter.store, ReferenceStore)


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """A chunk to read, and where it goes."""

    key: str
    """Its key in the store."""
    found: bytes | Reference | None
    """What the key refers to; None where there is no such key."""
    spec: ArraySpec
    """Its shape, data type and fill value."""
    selection: Any
    """What of it is wanted."""
    out_selection: Any
    """Where that goes."""
    windowed: bool = False
    """Whether ``found`` are only the bytes from the first wanted element to the last."""

    @property
    def fill_value(self) -> Any:
        """What it holds where it is absent; Zarr v2's metadata may tell none."""
        fill_value = self.spec.fill_value
        return self.spec.dtype.default_scalar() if fill_value is None else fill_value


# Decoding --------------------------------------------------------------------------------

Step = Callable[[Content, ArraySpec], Content]
"""A codec's decoding, of a chunk of some shape and data type."""
Values = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Decoding:
    """What makes elements of stored bytes, without an event loop."""

    steps: Sequence[Step]
    """From stored bytes to those of the elements."""
    serializer: Any
    """The codec that makes elements of bytes."""

    @classmethod
    def of(cls, pipeline: BatchedCodecPipeline) -> _Decoding | None:
        """Return the decoding of a pipeline; None where some codec of it needs an event loop."""
        serializer = pipeline.array_bytes_codec
        whole = not isinstance(serializer, ArrayBytesCodecPartialDecodeMixin)
        steps = [_step(codec) for codec in reversed(pipeline.bytes_bytes_codecs)]
        known = [step for step in steps if step is not None]
        if pipeline.array_array_codecs or len(known) < len(steps) or not hasattr(serializer, "_decode_sync"):
            return None
        return cls(steps=known, serializer=serializer) if whole else None

    def decode(self, chunk: _Chunk, content: Content) -> Values:
        """Return what is wanted of a chunk."""
        for step in self.steps:
            content = step(content, chunk.spec)
        if chunk.windowed:
            return self._windowed(chunk, content)
        wanted: Values = self._elements(chunk.spec, content)[chunk.selection]
        return wanted

    def _elements(self, spec: ArraySpec, content: Content) -> Values:
        if isinstance(self.serializer, BytesCodec):
            return np.frombuffer(content, _stored_dtype(self.serializer, spec)).reshape(spec.shape)
        buffer = spec.prototype.buffer.from_bytes(content)
        decoded: Values = self.serializer._decode_sync(buffer, spec).as_numpy_array()
        return decoded

    # Elements that are stored as they are need not be read all

    def narrowed(self, chunk: _Chunk) -> _Chunk:
        """Return a chunk of which only the bytes are read that are wanted, where others can be left out."""
        stored_as_is = not self.steps and isinstance(self.serializer, BytesCodec)
        if not stored_as_is or not isinstance(chunk.found, Reference):
            return chunk
        length, item = chunk.found.byte_length or 0, chunk.spec.dtype.to_native_dtype().itemsize
        bounds = _bounds(chunk.selection, chunk.spec.shape)
        if length < _LEAST_WINDOWED_BYTES or length != math.prod(chunk.spec.shape) * item or bounds is None:
            return chunk
        byte_offset = chunk.found.byte_offset + bounds[0] * item
        found = replace(chunk.found, byte_offset=byte_offset, byte_length=(bounds[1] - bounds[0]) * item)
        return replace(chunk, found=found, windowed=True)

    def _windowed(self, chunk: _Chunk, content: Content) -> Values:
        item = chunk.spec.dtype.to_native_dtype().itemsize
        flat = self._elements(replace(chunk.spec, shape=(len(content) // item,)), content)
        kept = [
            (part.indices(extent), step * item)
            for part, extent, step in zip(
                chunk.selection, chunk.spec.shape, _steps(chunk.spec.shape), strict=True
            )
            if isinstance(part, slice)
        ]
        shape, strides = [stop - start for (start, stop, _), _ in kept], [stride for _, stride in kept]
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _stored_dtype(serializer: BytesCodec, spec: ArraySpec) -> np.dtype[Any]:
    """Return the dtype of stored elements; the codec tells a byte order of those that have one."""
    dtype = spec.dtype.to_native_dtype()
    endian = getattr(serializer.endian, "value", serializer.endian)  # zarr-python 3.1 has an enumeration
    return dtype if endian is None else dtype.newbyteorder(endian)


def _steps(shape: Shape) -> tuple[int, ...]:
    """Return how many elements lie between neighbours along each dimension, in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _bounds(selection: Any, shape: Shape) -> tuple[int, int] | None:
    """Return a selection's first element and the one behind its last, in C order; None if it is no box."""
    if not isinstance(selection, tuple) or len(selection) != len(shape):
        return None
    first = last = 0
    for part, extent, step in zip(selection, shape, _steps(shape), strict=True):
        if isinstance(part, slice) and part.step in (None, 1):
            start, stop, _ = part.indices(extent)
        elif isinstance(part, int | np.integer):
            start, stop = int(part), int(part) + 1
        else:
            return None
        if stop <= start:
            return None
        first, last = first + start * step, last + (stop - 1) * step
    return first, last + 1


def _step(codec: Codec) -> Step | None:
    """Return what undoes a codec between bytes and bytes; None where that needs an event loop."""
    configuration = getattr(codec, "codec_config", None)
    wrapped = None if configuration is None else numcodecs.get_codec(dict(configuration))
    if isinstance(wrapped, numcodecs.Zlib):
        return _inflate
    if isinstance(wrapped, numcodecs.Shuffle) and _native is not None:
        return _unshuffler(wrapped.elementsize)
    if wrapped is not None:
        # zarr-python 3.1 has these for its event loop only.
        return lambda content, _spec: wrapped.decode(content)
    decode_sync: Callable[[Buffer, ArraySpec], Buffer] | None = getattr(codec, "_decode_sync", None)
    return None if decode_sync is None else _of_buffers(decode_sync)


def _of_buffers(decode_sync: Callable[[Buffer, ArraySpec], Buffer]) -> Step:
    def step(content: Content, spec: ArraySpec) -> Content:
        return decode_sync(spec.prototype.buffer.from_bytes(content), spec).as_numpy_array().data

    return step


def _inflate(content: Content, spec: ArraySpec) -> Content:
    """Return what numcodecs' zlib gives, in a fifth of the time; the length is known beforehand."""
    byte_length = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
    inflated: bytes = zlib_ng.decompress(content, bufsize=max(byte_length, 1))
    return inflated


def _unshuffler(element_size: int) -> Step:
    scratch = Scratch()

    def unshuffle(content: Content, _spec: ArraySpec) -> Content:
        out = scratch.take(len(content))
        _native.unshuffle(content, out, element_size)
        return out

    return unshuffle


# Reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reading:
    """One read of an array."""

    store: ReferenceStore
    """What it is read from."""
    decoding: _Decoding
    """How its chunks are decoded."""
    scratch: Scratch
    """Where stored bytes are put."""
    out: Values
    """The array to fill."""
    drop_axes: tuple[int, ...]
    """Axes of a chunk that the array does not have."""

    async def read(self, infos: Sequence[tuple[Any, ...]]) -> tuple[dict[str, str], ...]:
        """Fill the array; return whether each chunk is present."""
        # References may have to be read themselves.
        chunks = await asyncio.to_thread(self._look_up, infos)
        batches = list(_batches(chunks))
        pool = ThreadPoolExecutor(_threads(self.store.files, batches))
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(pool, self._read, batch) for batch in batches]
        try:
            await asyncio.gather(*futures)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.wait(futures)
        return tuple({"status": "missing" if chunk.found is None else "present"} for chunk in chunks)

    def _look_up(self, infos: Sequence[tuple[Any, ...]]) -> list[_Chunk]:
        find, narrowed = self.store.find, self.decoding.narrowed
        return [narrowed(_Chunk(getter.path, find(getter.path), *rest)) for getter, *rest, _ in infos]

    def _read(self, chunks: Sequence[_Chunk]) -> None:
        """Fetch, decode and place chunks, which stand all in one file or none in any."""
        for chunk, content in zip(chunks, self._contents(chunks), strict=True):
            if content is None:
                self.out[chunk.out_selection] = chunk.fill_value
                continue
            try:
                wanted = self.decoding.decode(chunk, content)
            except Exception as error:
                error.add_note(f"in the chunk {chunk.key}, whose bytes are {_described(chunk.found)}")
                raise
            self.out[chunk.out_selection] = wanted.squeeze(axis=self.drop_axes) if self.drop_axes else wanted

    def _contents(self, chunks: Sequence[_Chunk]) -> Iterable[Content | None]:
        references = [chunk.found for chunk in chunks if isinstance(chunk.found, Reference)]
        if references:
            return self.store.files.read(references, self.scratch)
        return [chunk.found for chunk in chunks if not isinstance(chunk.found, Reference)]


def _described(found: bytes | Reference | None) -> str:
    if not isinstance(found, Reference):
        return "in the references"
    return f"{found.byte_length} from byte {found.byte_offset} on of {redact(found.url)}"


def _threads(files: DataFiles, batches: Sequence[Sequence[_Chunk]]) -> int:
    """Return how many threads read: as many as compute, or more where most of them wait."""
    most = _cores()
    references = [chunk.found for batch in batches for chunk in batch if isinstance(chunk.found, Reference)]
    if not files.are_local(references):
        longest = max(sum(map(_stored_bytes, batch)) for batch in batches)
        most = max(most, min(_MOST_REMOTE_THREADS, _MOST_BYTES_UNDER_WAY // max(longest, 1)))
    return min(most, len(batches))


def _stored_bytes(chunk: _Chunk) -> int:
    return chunk.found.byte_length or 0 if isinstance(chunk.found, Reference) else 0


def _cores() -> int:
    """Return how many threads may compute: as zarr-python is configured, otherwise all cores there are."""
    configured: int | None = zarr.config.get("threading.max_workers")
    if configured is not None:
        return configured
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    """Yield chunks that one thread reads, near ones of one file together."""
    others = [chunk for chunk in chunks if not isinstance(chunk.found, Reference)]
    if others:
        yield others
    stored = [(chunk.found, chunk) for chunk in chunks if isinstance(chunk.found, Reference)]
    stored.sort(key=lambda pair: (pair[0].url, pair[0].byte_offset))
    share = sum(reference.byte_length or 0 for reference, _ in stored) // (_cores() * _BATCHES_PER_THREAD)
    most = min(max(share, _LEAST_BATCH_BYTES), _LARGEST_BATCH_BYTES)
    for _, in_one_file in itertools.groupby(stored, key=lambda pair: pair[0].url):
        yield from _cut(in_one_file, most)


def _cut(stored: Iterable[tuple[Reference, _Chunk]], most: int) -> Iterator[list[_Chunk]]:
    """Yield chunks in batches of at most so many bytes, or of one chunk."""
    batch: list[_Chunk] = []
    byte_length = 0
    for reference, chunk in stored:
        byte_length += reference.byte_length or most
        if batch and byte_length > most:
            yield batch
            batch, byte_length = [], reference.byte_length or most
        batch.append(chunk)
    yield batch
