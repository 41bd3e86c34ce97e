# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The loops that grow with the number of chunks, datasets and attributes.

`iterate_chunks` lets `H5Dchunk_iter` store into columns; `render_references` writes columns as
JSON. `h5zarr._fallback` has the same two functions for installations without a compiler.
`ObjectReader` asks libhdf5 for what h5py gives in one object for each answer.
No HDF5 header is needed: arguments are integers of fixed width, and the addresses of functions
are those of the library that h5py has loaded.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Occurred
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

DEF MAXIMUM_RANK = 32  # H5S_MAX_RANK
DEF MOST_DIMENSIONS = 64  # of a Zarr array: NumPy's, and those of a dataset and its array datatype together
DEF FIRST_CAPACITY = 256
DEF DIGITS_OF_UINT64 = 20

ctypedef int (*chunk_callback)(
    const uint64_t *, unsigned int, uint64_t, uint64_t, void *) noexcept nogil
ctypedef int (*chunk_iter)(int64_t, int64_t, chunk_callback, void *) noexcept nogil


cdef int raise_pending() except? -1:
    """Raise what a file object of Python has raised while libhdf5 read from it."""
    return -1 if PyErr_Occurred() != NULL else 0


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
    raise_pending()
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


# Objects ----------------------------------------------------------------------------------

DEF LONGEST_ENCODED_TYPE_WORDS = 128
DEF LARGEST_ATTRIBUTE_BYTES = 65536
DEF MOST_CLIENT_DATA = 64
DEF LONGEST_FILTER_NAME = 256
DEF NULL_SPACE = 2  # H5S_NULL
DEF CONTIGUOUS = 1  # H5D_CONTIGUOUS
DEF CHUNKED = 2  # H5D_CHUNKED
DEF UNDEFINED_ADDRESS = 0xFFFFFFFFFFFFFFFF  # HADDR_UNDEF
DEF UNLIMITED = 0xFFFFFFFFFFFFFFFF  # H5S_UNLIMITED
DEF FILL_VALUE_UNDEFINED = 0  # H5D_FILL_VALUE_UNDEFINED
DEF FILL_VALUE_DEFAULT = 1  # H5D_FILL_VALUE_DEFAULT
DEF NEVER_FILLED = 1  # H5D_FILL_TIME_NEVER

ctypedef int (*note_function)(int64_t, const char *, const void *, void *) except -1
ctypedef int (*iterate_function)(int64_t, int, int, uint64_t *, note_function, void *) noexcept
ctypedef int64_t (*open_function)(int64_t, const char *, int64_t) noexcept
ctypedef int64_t (*part_function)(int64_t) noexcept
ctypedef uint64_t (*offset_function)(int64_t) noexcept
ctypedef size_t (*size_function)(int64_t) noexcept
ctypedef int (*code_function)(int64_t) noexcept
ctypedef int (*property_function)(int64_t, int *) noexcept
ctypedef int (*encode_function)(int64_t, void *, size_t *) noexcept
ctypedef int (*extents_function)(int64_t, uint64_t *, uint64_t *) noexcept
ctypedef int (*chunk_function)(int64_t, int, uint64_t *) noexcept
ctypedef int (*read_function)(int64_t, int64_t, void *) noexcept
ctypedef int (*reclaim_function)(int64_t, int64_t, int64_t, void *) noexcept
ctypedef int (*filter_function)(int64_t, unsigned int, unsigned int *, size_t *, unsigned int *, size_t,
                                char *, unsigned int *) noexcept


cdef int note_name(int64_t location, const char *name, const void *info, void *names) except -1:
    (<list>names).append(<bytes>name)
    return 0


cdef int64_t checked(int64_t status) except -1:
    if status < 0:
        raise_pending()
        raise RuntimeError("libhdf5 cannot read it")
    return status


cdef tuple integers(const uint64_t *numbers, int count):
    return tuple([numbers[position] for position in range(count)])


cdef class Identifier:
    """An identifier of libhdf5 that is closed with its owner."""

    cdef int64_t number
    cdef code_function close

    def __dealloc__(self):
        self.close(self.number)


cdef Identifier owned(int64_t number, code_function close):
    cdef Identifier identifier
    checked(number)
    identifier = Identifier.__new__(Identifier)
    identifier.number = number
    identifier.close = close
    return identifier


cdef class ObjectReader:
    """Reads attributes, and how datasets are stored, in fewer steps than h5py.

    The caller holds h5py's lock. What is not of the plain kinds is None, and where libhdf5 fails there
    is None or a RuntimeError: h5py then reads it, or raises what libhdf5 says.
    """

    cdef iterate_function iterate_attributes
    cdef open_function open_attribute
    cdef part_function attribute_type, attribute_space, dataset_type, dataset_space, creation_properties
    cdef code_function close_attribute, close_type, close_space, close_properties
    cdef code_function space_kind, layout, external_count, filter_count
    cdef property_function chunk_options, attribute_order, fill_state, fill_time
    cdef offset_function dataset_offset
    cdef size_function type_byte_length
    cdef encode_function encode_type
    cdef extents_function space_extents
    cdef chunk_function chunk_shape
    cdef read_function read_attribute, read_fill_value
    cdef reclaim_function reclaim_texts
    cdef filter_function filter

    def __init__(self, address_of):
        """`address_of` returns the address of a function of libhdf5 by its name."""
        self.iterate_attributes = <iterate_function><uintptr_t>address_of("H5Aiterate2")
        self.open_attribute = <open_function><uintptr_t>address_of("H5Aopen")
        self.attribute_type = <part_function><uintptr_t>address_of("H5Aget_type")
        self.attribute_space = <part_function><uintptr_t>address_of("H5Aget_space")
        self.read_attribute = <read_function><uintptr_t>address_of("H5Aread")
        self.close_attribute = <code_function><uintptr_t>address_of("H5Aclose")
        self.encode_type = <encode_function><uintptr_t>address_of("H5Tencode")
        self.type_byte_length = <size_function><uintptr_t>address_of("H5Tget_size")
        self.close_type = <code_function><uintptr_t>address_of("H5Tclose")
        self.space_kind = <code_function><uintptr_t>address_of("H5Sget_simple_extent_type")
        self.space_extents = <extents_function><uintptr_t>address_of("H5Sget_simple_extent_dims")
        self.close_space = <code_function><uintptr_t>address_of("H5Sclose")
        self.reclaim_texts = <reclaim_function><uintptr_t>address_of("H5Dvlen_reclaim")
        self.dataset_type = <part_function><uintptr_t>address_of("H5Dget_type")
        self.dataset_space = <part_function><uintptr_t>address_of("H5Dget_space")
        self.creation_properties = <part_function><uintptr_t>address_of("H5Dget_create_plist")
        self.dataset_offset = <offset_function><uintptr_t>address_of("H5Dget_offset")
        self.layout = <code_function><uintptr_t>address_of("H5Pget_layout")
        self.external_count = <code_function><uintptr_t>address_of("H5Pget_external_count")
        self.chunk_shape = <chunk_function><uintptr_t>address_of("H5Pget_chunk")
        self.chunk_options = <property_function><uintptr_t>address_of("H5Pget_chunk_opts")
        self.filter_count = <code_function><uintptr_t>address_of("H5Pget_nfilters")
        self.filter = <filter_function><uintptr_t>address_of("H5Pget_filter2")
        self.attribute_order = <property_function><uintptr_t>address_of("H5Pget_attr_creation_order")
        self.fill_state = <property_function><uintptr_t>address_of("H5Pfill_value_defined")
        self.fill_time = <property_function><uintptr_t>address_of("H5Pget_fill_time")
        self.read_fill_value = <read_function><uintptr_t>address_of("H5Pget_fill_value")
        self.close_properties = <code_function><uintptr_t>address_of("H5Pclose")

    cdef object known_type(self, int64_t datatype, dict known_types):
        cdef uint64_t words[LONGEST_ENCODED_TYPE_WORDS]
        cdef char *encoded = <char *>words
        cdef size_t length = sizeof(words)
        memset(encoded, 0, sizeof(words))
        checked(self.encode_type(datatype, encoded, &length))
        if length > sizeof(words):
            return None
        # libhdf5 tells the length in a call of its own only, which takes as long.
        while length and words[length // 8 - 1] == 0:
            length -= 8
        while length and encoded[length - 1] == 0:
            length -= 1
        return known_types.get(PyBytes_FromStringAndSize(encoded, length))

    # Attributes

    def attributes(self, int64_t owner, int index_type, frozenset skipped, dict known_types):
        """Return the attributes of an open object.

        Parameters
        ----------
        owner
            HDF5's identifier of the object.
        index_type
            By name or by order of creation (`H5_index_t`).
        skipped
            Names of attributes to leave out.
        known_types
            Each `h5zarr.read_values.KnownType` by its encoded datatype without the zeros at its end;
            others are not plain.

        Returns
        -------
        list
            Name and contents of each. The contents are the `KnownType`, the shape in elements (None for
            a null dataspace) and the elements: a bytearray in the known memory type, a list of bytes for
            strings of variable length. They are None where h5py has to read them.
        """
        cdef uint64_t position = 0
        names = []
        checked(self.iterate_attributes(owner, index_type, 0, &position, note_name, <void *>names))
        return [
            (name, self.attribute(owner, name, known_types)) for name in names if name not in skipped
        ]

    cdef object attribute(self, int64_t owner, bytes name, dict known_types):
        try:
            return self.plain_attribute(owner, name, known_types)
        except RuntimeError:
            return None

    cdef object plain_attribute(self, int64_t owner, bytes name, dict known_types):
        cdef Identifier attribute = owned(self.open_attribute(owner, name, 0), self.close_attribute)
        cdef Identifier datatype = owned(self.attribute_type(attribute.number), self.close_type)
        cdef Identifier space = owned(self.attribute_space(attribute.number), self.close_space)
        cdef uint64_t extents[MAXIMUM_RANK]
        cdef int64_t byte_length
        cdef int rank
        known = self.known_type(datatype.number, known_types)
        if known is None or known.plain_byte_length is None:
            return None
        if checked(self.space_kind(space.number)) == NULL_SPACE:
            return known, None, None
        rank = <int>checked(self.space_extents(space.number, extents, NULL))
        byte_length = bounded_product(known.plain_byte_length, extents, rank)
        if byte_length < 0:
            return None
        if known.datatype.variable_length:
            stored = self.texts(attribute.number, datatype.number, space.number, byte_length)
        else:
            stored = self.elements(attribute.number, known.memory_type.id, byte_length)
        return known, integers(extents, rank), stored

    cdef bytearray elements(self, int64_t attribute, int64_t memory_type, size_t byte_length):
        stored = bytearray(byte_length)
        checked(self.read_attribute(attribute, memory_type, PyByteArray_AS_STRING(stored)))
        return stored

    cdef list texts(self, int64_t attribute, int64_t datatype, int64_t space, size_t byte_length):
        cdef size_t position
        stored = bytearray(byte_length)
        cdef char **pointers = <char **>PyByteArray_AS_STRING(stored)
        checked(self.read_attribute(attribute, datatype, pointers))
        texts = [
            <bytes>pointers[position] if pointers[position] != NULL else b""
            for position in range(byte_length // sizeof(char *))
        ]
        checked(self.reclaim_texts(datatype, space, 0, pointers))
        return texts

    # Datasets

    def storage(self, int64_t dataset, dict known_types):
        """Return how a dataset is stored; None where its datatype is not known yet.

        Parameters
        ----------
        dataset
            HDF5's identifier of the open dataset.
        known_types
            As in `attributes`.

        Returns
        -------
        known
            Its `KnownType`.
        shape, maximum_shape
            Its extents in elements, None along unlimited dimensions; None for a null dataspace.
        layout
            Its layout (`H5D_layout_t`).
        external_count
            Number of its external files.
        byte_offset
            Where its contiguous storage begins in the file (bytes); None where there is none.
        chunk_shape
            Shape of a chunk in elements; None where it is not chunked.
        filters
            Number, flags, parameters and name of each filter, in the order of writing.
        chunk_options
            What `H5Pget_chunk_opts` tells; 0 without filters.
        attribute_order
            What `H5Pget_attr_creation_order` tells.
        fill_value
            One element of the known packed type; None where it is undefined, or on a heap.
        """
        cdef Identifier datatype = owned(self.dataset_type(dataset), self.close_type)
        cdef Identifier space = owned(self.dataset_space(dataset), self.close_space)
        cdef Identifier creation
        known = self.known_type(datatype.number, known_types)
        if known is None or known.by_h5py:
            return None
        creation = owned(self.creation_properties(dataset), self.close_properties)
        layout = checked(self.layout(creation.number))
        external_count = checked(self.external_count(creation.number)) if layout == CONTIGUOUS else 0
        filters = self.filters(creation.number)
        return (
            known,
            *self.extents(space.number),
            layout,
            external_count,
            self.byte_offset(dataset) if layout == CONTIGUOUS and not external_count else None,
            self.chunks(creation.number) if layout == CHUNKED else None,
            filters,
            property_of(self.chunk_options, creation.number) if filters else 0,
            property_of(self.attribute_order, creation.number),
            self.fill_value(creation.number, known),
        )

    cdef tuple extents(self, int64_t space):
        cdef uint64_t shape[MAXIMUM_RANK]
        cdef uint64_t maximum_shape[MAXIMUM_RANK]
        cdef int rank, axis
        if checked(self.space_kind(space)) == NULL_SPACE:
            return None, None
        rank = <int>checked(self.space_extents(space, shape, maximum_shape))
        limits = [
            None if maximum_shape[axis] == UNLIMITED else maximum_shape[axis] for axis in range(rank)
        ]
        return integers(shape, rank), tuple(limits)

    cdef object byte_offset(self, int64_t dataset):
        cdef uint64_t byte_offset = self.dataset_offset(dataset)
        if byte_offset == 0:
            raise RuntimeError("contiguous storage cannot begin where the file does")
        return None if byte_offset == UNDEFINED_ADDRESS else byte_offset

    cdef tuple chunks(self, int64_t creation):
        cdef uint64_t chunk_shape[MAXIMUM_RANK]
        cdef int64_t rank = checked(self.chunk_shape(creation, MAXIMUM_RANK, chunk_shape))
        return integers(chunk_shape, <int>min(rank, MAXIMUM_RANK))

    cdef tuple filters(self, int64_t creation):
        cdef int position, count = <int>checked(self.filter_count(creation))
        return tuple([self.one_filter(creation, position) for position in range(count)])

    cdef tuple one_filter(self, int64_t creation, unsigned int position):
        cdef unsigned int flags = 0
        cdef unsigned int client_data[MOST_CLIENT_DATA]
        cdef char name[LONGEST_FILTER_NAME + 1]
        cdef size_t count = MOST_CLIENT_DATA, each
        memset(name, 0, LONGEST_FILTER_NAME + 1)
        identifier = checked(self.filter(creation, position, &flags, &count, client_data,
                                         LONGEST_FILTER_NAME, name, NULL))
        if count > MOST_CLIENT_DATA:
            raise RuntimeError("a filter has more parameters than there is room for")
        return identifier, flags, tuple([client_data[each] for each in range(count)]), <bytes>name

    cdef object fill_value(self, int64_t creation, known):
        cdef int state
        if known.packed_type is None:
            return None
        state = property_of(self.fill_state, creation)
        if state == FILL_VALUE_UNDEFINED:
            return None
        if state == FILL_VALUE_DEFAULT or property_of(self.fill_time, creation) == NEVER_FILLED:
            return bytes(known.packed_dtype.itemsize)
        element = bytearray(self.type_byte_length(known.packed_type.id))
        checked(self.read_fill_value(creation, known.packed_type.id, PyByteArray_AS_STRING(element)))
        return bytes(element)


cdef int property_of(property_function function, int64_t properties) except? -1:
    cdef int value = 0
    checked(function(properties, &value))
    return value


cdef int64_t bounded_product(uint64_t product, const uint64_t *factors, int count) noexcept:
    """Return the product; -1 where it is more than an attribute that is read here may take (bytes)."""
    cdef int position
    for position in range(count):
        if factors[position] > LARGEST_ATTRIBUTE_BYTES:
            return -1
        product *= factors[position]
        if product > LARGEST_ATTRIBUTE_BYTES:
            return -1
    return product if product <= LARGEST_ATTRIBUTE_BYTES else -1


# References -------------------------------------------------------------------------------


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
    cdef uint64_t cells[MOST_DIMENSIONS]
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
    cdef uint64_t extents[MOST_DIMENSIONS]
    cdef const char *prefix = PyBytes_AsString(key_prefix)
    cdef bytes location = locations[0] if count else b""
    cdef Py_ssize_t longest = max([len(text) for text in locations], default=0)
    cdef Py_ssize_t capacity = prefix_length + longest + 8 + (DIGITS_OF_UINT64 + 1) * (rank + 2)
    if rank > MOST_DIMENSIONS:
        raise ValueError(f"an array of {rank} dimensions")
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


# Chunks -----------------------------------------------------------------------------------

DEF LEAST_BYTES_WITHOUT_GIL = 65536


cdef void join_bytes(const unsigned char *source, unsigned char *target, Py_ssize_t count,
                     Py_ssize_t element_size) noexcept nogil:
    cdef Py_ssize_t element, byte
    # With a size that the compiler knows, it uses the processor's vectors.
    if element_size == 1:
        memcpy(target, source, count)
    elif element_size == 2:
        for element in range(count):
            target[2 * element] = source[element]
            target[2 * element + 1] = source[count + element]
    elif element_size == 4:
        for element in range(count):
            target[4 * element] = source[element]
            target[4 * element + 1] = source[count + element]
            target[4 * element + 2] = source[2 * count + element]
            target[4 * element + 3] = source[3 * count + element]
    elif element_size == 8:
        for element in range(count):
            target[8 * element] = source[element]
            target[8 * element + 1] = source[count + element]
            target[8 * element + 2] = source[2 * count + element]
            target[8 * element + 3] = source[3 * count + element]
            target[8 * element + 4] = source[4 * count + element]
            target[8 * element + 5] = source[5 * count + element]
            target[8 * element + 6] = source[6 * count + element]
            target[8 * element + 7] = source[7 * count + element]
    else:
        for element in range(count):
            for byte in range(element_size):
                target[element_size * element + byte] = source[count * byte + element]


def unshuffle(const unsigned char[::1] source, unsigned char[::1] target, Py_ssize_t element_size):
    """Undo HDF5's filter 2.

    Parameters
    ----------
    source
        (n,) bytes: the first of every element, then the second, and so on; what is left at the end stays.
    target
        (n,) bytes, which are written.
    element_size
        Size of an element in bytes.
    """
    cdef Py_ssize_t length = source.shape[0]
    if target.shape[0] != length or element_size < 1:
        raise ValueError("target and source are of the same length, and elements have bytes")
    cdef Py_ssize_t count = length // element_size, joined = count * element_size
    if length == 0:
        return
    if length < LEAST_BYTES_WITHOUT_GIL:
        join_bytes(&source[0], &target[0], count, element_size)
    else:
        with nogil:
            join_bytes(&source[0], &target[0], count, element_size)
    if joined < length:
        memcpy(&target[joined], &source[joined], length - joined)
