# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The two loops that grow with the number of chunks.

`iterate_chunks` lets `H5Dchunk_iter` store into columns; `render_references` writes columns as
JSON. `h5zarr._fallback` has the same two functions for installations without a compiler.
No HDF5 header is needed: the callback's arguments are integers of fixed width, and the address
of `H5Dchunk_iter` is that of the library that h5py has loaded.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

DEF MAXIMUM_RANK = 32  # H5S_MAX_RANK
DEF FIRST_CAPACITY = 256
DEF DIGITS_OF_UINT64 = 20

ctypedef int (*chunk_callback)(
    const uint64_t *, unsigned int, uint64_t, uint64_t, void *) noexcept nogil
ctypedef int (*chunk_iter)(int64_t, int64_t, chunk_callback, void *) noexcept nogil


cdef class Column:
    """A growing column of integers that NumPy can look at without a copy."""

    cdef void *values
    cdef Py_ssize_t length
    cdef Py_ssize_t stride
    cdef const char *format

    def __cinit__(self, bint is_uint64):
        self.values = NULL
        self.length = 0
        self.stride = 8 if is_uint64 else 4
        self.format = b"Q" if is_uint64 else b"I"

    def __dealloc__(self):
        free(self.values)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.values if self.values != NULL else <void *>self.format
        view.obj = self
        view.len = self.length * self.stride
        view.readonly = 0
        view.itemsize = self.stride
        view.format = <char *>self.format
        view.ndim = 1
        view.shape = &self.length
        view.strides = &self.stride
        view.suboffsets = NULL
        view.internal = NULL

    cdef bint reserve(self, Py_ssize_t capacity) noexcept nogil:
        cdef void *grown = realloc(self.values, capacity * self.stride)
        if grown == NULL:
            return False
        self.values = grown
        return True


cdef struct Visit:
    int rank
    uint64_t chunk_shape[MAXIMUM_RANK]
    uint64_t grid_shape[MAXIMUM_RANK]
    uint64_t stride[MAXIMUM_RANK]
    uint64_t *grid_position
    uint64_t *byte_offset
    uint64_t *byte_length
    uint32_t *filter_mask
    Py_ssize_t count
    Py_ssize_t capacity
    Py_ssize_t outside_count
    bint is_sorted
    bint out_of_memory
    PyObject *columns


cdef bint grow(Visit *visit) noexcept with gil:
    cdef Py_ssize_t capacity = visit.capacity * 2 if visit.capacity else FIRST_CAPACITY
    cdef Column column
    for column in <tuple>visit.columns:
        if not column.reserve(capacity):
            return False
    point_into_columns(visit)
    visit.capacity = capacity
    return True


cdef void point_into_columns(Visit *visit):
    columns = <tuple>visit.columns
    visit.grid_position = <uint64_t *>(<Column>columns[0]).values
    visit.byte_offset = <uint64_t *>(<Column>columns[1]).values
    visit.byte_length = <uint64_t *>(<Column>columns[2]).values
    visit.filter_mask = <uint32_t *>(<Column>columns[3]).values


cdef int store_chunk(const uint64_t *chunk_offset, unsigned int filter_mask, uint64_t byte_offset,
                     uint64_t byte_length, void *op_data) noexcept nogil:
    cdef Visit *visit = <Visit *>op_data
    cdef uint64_t cell, position = 0
    cdef int axis
    for axis in range(visit.rank):
        cell = chunk_offset[axis] // visit.chunk_shape[axis]
        if cell >= visit.grid_shape[axis]:
            visit.outside_count += 1
            return 0
        position += cell * visit.stride[axis]
    if visit.count == visit.capacity and not grow(visit):
        visit.out_of_memory = True
        return -1
    if visit.count and position <= visit.grid_position[visit.count - 1]:
        visit.is_sorted = False
    visit.grid_position[visit.count] = position
    visit.byte_offset[visit.count] = byte_offset
    visit.byte_length[visit.count] = byte_length
    visit.filter_mask[visit.count] = filter_mask
    visit.count += 1
    return 0


def iterate_chunks(uintptr_t function_address, int64_t dataset_id, tuple chunk_shape,
                   tuple grid_shape, tuple strides):
    """Visit the stored chunks of a dataset; the caller holds h5py's lock.

    Parameters
    ----------
    function_address
        Address of `H5Dchunk_iter`.
    dataset_id
        HDF5's identifier of the open dataset.
    chunk_shape
        (rank,) shape of a chunk in elements.
    grid_shape
        (rank,) chunks whose cell lies outside are counted, not stored.
    strides
        (rank,) weights of the cell's coordinates in the grid position.

    Returns
    -------
    status
        What `H5Dchunk_iter` returned; negative means failure.
    columns
        Grid position, byte offset, byte length (uint64) and filter mask (uint32).
    is_sorted
        Whether the grid positions rise strictly.
    outside_count
        Number of chunks outside the grid.
    """
    cdef Visit visit
    cdef int axis, status
    cdef chunk_iter function = <chunk_iter>function_address
    columns = (Column(True), Column(True), Column(True), Column(False))
    visit.rank = len(chunk_shape)
    for axis in range(visit.rank):
        visit.chunk_shape[axis] = chunk_shape[axis]
        visit.grid_shape[axis] = grid_shape[axis]
        visit.stride[axis] = strides[axis]
    visit.count = visit.capacity = visit.outside_count = 0
    visit.is_sorted = True
    visit.out_of_memory = False
    visit.columns = <PyObject *>columns
    with nogil:
        status = function(dataset_id, 0, store_chunk, &visit)
    if visit.out_of_memory:
        raise MemoryError("the chunk index does not fit into memory")
    finish(&visit)
    return status, columns, visit.is_sorted, visit.outside_count


cdef int finish(Visit *visit) except -1:
    """Give back what the columns did not need."""
    cdef Column column
    for column in <tuple>visit.columns:
        column.length = visit.count
        if visit.count:
            column.reserve(visit.count)
    return 0


cdef inline char *write_number(char *target, uint64_t number) noexcept nogil:
    cdef char digits[DIGITS_OF_UINT64]
    cdef int count = 0
    while True:
        digits[count] = <char>(48 + number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    while count:
        count -= 1
        target[0] = digits[count]
        target += 1
    return target


cdef inline char *write_bytes(char *target, const char *text, Py_ssize_t length) noexcept nogil:
    memcpy(target, text, length)
    return target + length


cdef char *write_cells(char *target, uint64_t position, const uint64_t *extents, int rank,
                       char separator) noexcept nogil:
    cdef uint64_t cells[MAXIMUM_RANK]
    cdef int axis
    for axis in range(rank - 1, -1, -1):
        cells[axis] = position % extents[axis]
        position //= extents[axis]
    for axis in range(rank):
        target[0] = separator
        target = write_number(target + 1, cells[axis])
    return target


def render_references(bytes key_prefix, tuple grid_shape, const uint64_t[::1] grid_position,
                      const uint64_t[::1] byte_offset, const uint64_t[::1] byte_length,
                      tuple locations, const uint32_t[::1] location_index=None):
    """Return references as JSON members, each ``"key":[location,byte_offset,byte_length]``.

    Parameters
    ----------
    key_prefix
        JSON text of the key up to the chunk's coordinates, with the opening quote: ``"a/b/c``.
    grid_shape
        (rank,) number of chunks along each dimension.
    grid_position, byte_offset, byte_length
        (n,) columns as in `h5zarr.model.Manifest`.
    locations
        JSON texts of the URLs, quotes included.
    location_index
        (n,) which of ``locations``; None: the first.

    Returns
    -------
    bytes
        The members, each followed by a comma and a newline.
    """
    cdef Py_ssize_t count = grid_position.shape[0], row, prefix_length = len(key_prefix)
    cdef int rank = len(grid_shape), axis
    cdef uint64_t extents[MAXIMUM_RANK]
    cdef const char *prefix = PyBytes_AsString(key_prefix)
    cdef bytes location = locations[0] if count else b""
    cdef Py_ssize_t longest = max([len(text) for text in locations], default=0)
    cdef Py_ssize_t capacity = prefix_length + longest + 8 + (DIGITS_OF_UINT64 + 1) * (rank + 2)
    for axis in range(rank):
        extents[axis] = grid_shape[axis]
    rendered = PyBytes_FromStringAndSize(NULL, capacity * count)
    cdef char *start = PyBytes_AsString(rendered)
    cdef char *target = start
    cdef const char *url = PyBytes_AsString(location)
    cdef Py_ssize_t url_length = len(location)
    for row in range(count):
        if location_index is not None:
            location = locations[location_index[row]]
            url = PyBytes_AsString(location)
            url_length = len(location)
        target = write_bytes(target, prefix, prefix_length)
        target = write_cells(target, grid_position[row], extents, rank, 47)
        target = write_bytes(target, b'":[', 3)
        target = write_bytes(target, url, url_length)
        target[0] = 44
        target = write_number(target + 1, byte_offset[row])
        target[0] = 44
        target = write_number(target + 1, byte_length[row])
        target = write_bytes(target, b"],\n", 3)
    return rendered[: target - start]
