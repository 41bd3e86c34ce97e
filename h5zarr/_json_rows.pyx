# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The references of chunks in a manifest as JSON, as columns.

A function that is given NULL, where what stands before was not as expected, returns NULL.
Only what is plainly ``"key":[url,byte_offset,byte_length]`` becomes a row. All else is given back as JSON
for a parser that knows all of it; so is the whole text where it is not what `scan_references` expects.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

DEF MOST_DIMENSIONS = 64  # NumPy's
DEF MOST_DIGITS = 18  # of a number that surely fits


cdef inline const char *skip_blanks(const char *at, const char *end) noexcept nogil:
    while at < end and (at[0] == b" " or at[0] == b"\n" or at[0] == b"\r" or at[0] == b"\t"):
        at += 1
    return at


cdef inline const char *skip_text(const char *at, const char *end, bint *is_plain) noexcept nogil:
    """Return where a JSON string ends, its last quote included; NULL where none begins or ends.

    It is plain where its characters stand for themselves: visible ASCII without escapes.
    """
    cdef unsigned char character
    if at == NULL or at >= end or at[0] != b'"':
        return NULL
    at += 1
    is_plain[0] = True
    while at < end:
        character = <unsigned char>at[0]
        if character == b'"':
            return at + 1
        if character == b"\\":
            is_plain[0] = False
            at += 1
        elif character < 0x20 or character > 0x7E:
            is_plain[0] = False
        at += 1
    return NULL


cdef const char *skip_value(const char *at, const char *end) noexcept nogil:
    """Return where a JSON value ends, of which only the brackets are looked at; NULL where it does not."""
    cdef bint is_plain
    cdef Py_ssize_t depth = 0
    while at < end:
        if at[0] == b'"':
            at = skip_text(at, end, &is_plain)
            if at == NULL:
                return NULL
        elif at[0] == b"{" or at[0] == b"[":
            depth += 1
            at += 1
        elif at[0] == b"}" or at[0] == b"]":
            if depth == 0:
                return at
            depth -= 1
            at += 1
        elif depth == 0 and at[0] == b",":
            return at
        else:
            at += 1
            continue
        if depth == 0:
            return at
    return NULL


cdef inline const char *read_number(const char *at, const char *end, uint64_t *number) noexcept nogil:
    """Return where a whole number ends; NULL where there is none, or one that is written otherwise."""
    cdef const char *start = at
    number[0] = 0
    if at == NULL:
        return NULL
    while at < end and at - start < MOST_DIGITS and b"0" <= at[0] <= b"9":
        number[0] = number[0] * 10 + <uint64_t>(at[0] - 48)
        at += 1
    if at == start or (start[0] == b"0" and at - start > 1):
        return NULL
    return at


cdef inline const char *skip_mark(const char *at, const char *end, char mark) noexcept nogil:
    """Return where the text goes on behind blanks, a mark, and blanks; NULL where the mark is not there."""
    if at == NULL:
        return NULL
    at = skip_blanks(at, end)
    if at >= end or at[0] != mark:
        return NULL
    return skip_blanks(at + 1, end)


cdef struct Row:
    const char *url
    const char *url_end
    uint64_t byte_offset
    uint64_t byte_length


cdef const char *read_row(const char *at, const char *end, Row *row) noexcept nogil:
    """Return where ``[url,byte_offset,byte_length]`` ends; NULL where there is something else."""
    cdef bint is_plain
    row.url = skip_mark(at, end, b"[")
    row.url_end = skip_text(row.url, end, &is_plain)
    at = read_number(skip_mark(row.url_end, end, b","), end, &row.byte_offset)
    at = read_number(skip_mark(at, end, b","), end, &row.byte_length)
    if at == NULL:
        return NULL
    at = skip_blanks(at, end)
    return at + 1 if at < end and at[0] == b"]" else NULL


cdef Py_ssize_t count_brackets(const char *at, const char *end) noexcept nogil:
    cdef Py_ssize_t count = 0
    while at < end:
        at = <const char *>memchr(at, b"[", end - at)
        if at == NULL:
            break
        count += 1
        at += 1
    return count


cdef class Rows:
    """Columns that are filled row by row."""

    cdef readonly bytearray key_start, key_end, byte_offset, byte_length, location_index
    cdef readonly dict locations
    cdef readonly Py_ssize_t count
    cdef int64_t *starts
    cdef int64_t *ends
    cdef uint64_t *offsets
    cdef uint64_t *lengths
    cdef uint32_t *indices
    cdef const char *last_url
    cdef Py_ssize_t last_url_length
    cdef uint32_t last_index

    def __init__(self, Py_ssize_t capacity):
        self.key_start, self.key_end = bytearray(8 * capacity), bytearray(8 * capacity)
        self.byte_offset, self.byte_length = bytearray(8 * capacity), bytearray(8 * capacity)
        self.location_index = bytearray(4 * capacity)
        self.starts = <int64_t *><char *>self.key_start
        self.ends = <int64_t *><char *>self.key_end
        self.offsets = <uint64_t *><char *>self.byte_offset
        self.lengths = <uint64_t *><char *>self.byte_length
        self.indices = <uint32_t *><char *>self.location_index
        self.locations = {}
        self.last_url = NULL

    cdef int append(self, int64_t key_start, int64_t key_end, Row *row) except -1:
        cdef Py_ssize_t length = row.url_end - row.url
        if (
            self.last_url == NULL
            or length != self.last_url_length
            or memcmp(row.url, self.last_url, length) != 0
        ):
            url = PyBytes_FromStringAndSize(row.url, length)
            self.last_index = self.locations.setdefault(url, len(self.locations))
            self.last_url = row.url
            self.last_url_length = length
        self.starts[self.count] = key_start
        self.ends[self.count] = key_end
        self.offsets[self.count] = row.byte_offset
        self.lengths[self.count] = row.byte_length
        self.indices[self.count] = self.last_index
        self.count += 1
        return 0


cdef const char *scan_refs(const char *text, const char *at, const char *end, Rows rows, list others):
    """Return where the object of all references ends; NULL where it is not one."""
    cdef const char *key
    cdef const char *key_end
    cdef const char *value
    cdef bint is_plain
    cdef Row row
    at = skip_mark(at, end, b"{")
    if at == NULL:
        return NULL
    if at < end and at[0] == b"}":
        return at + 1
    while True:
        key = at
        key_end = skip_text(at, end, &is_plain)
        if key_end == NULL:
            return NULL
        value = skip_mark(key_end, end, b":")
        if value == NULL:
            return NULL
        at = read_row(value, end, &row) if is_plain else NULL
        if at != NULL:
            rows.append(key + 1 - text, key_end - 1 - text, &row)
        else:
            at = skip_value(value, end)
            if at == NULL or at == value:
                return NULL
            others.append(PyBytes_FromStringAndSize(key, at - key))
        at = skip_blanks(at, end)
        if at < end and at[0] == b"}":
            return at + 1
        at = skip_mark(at, end, b",")
        if at == NULL:
            return NULL


def scan_references(bytes text):
    """Return the rows of a manifest (fsspec's reference specification, version 1).

    Parameters
    ----------
    text
        The manifest.

    Returns
    -------
    members
        JSON text of the members beside ``refs``.
    others
        JSON text of the members of ``refs`` that are no rows.
    rows
        Where in the text each key begins and ends (int64), byte offset and byte length (uint64), which
        of the locations (uint32), and the number of each location by its JSON text. The buffers may be
        longer than `count` rows.

    Notes
    -----
    It returns None where the text is not of this form, be it valid or not.
    """
    cdef const char *start = PyBytes_AS_STRING(text)
    cdef const char *end = start + len(text)
    cdef const char *at
    cdef const char *key
    cdef const char *value
    cdef bint is_plain
    cdef Rows rows = Rows(count_brackets(start, end))
    cdef bint has_refs = False
    members = []
    others = []
    at = skip_mark(start, end, b"{")
    while at != NULL:
        key = at
        at = skip_text(at, end, &is_plain)
        if at == NULL or not is_plain:
            return None
        value = skip_mark(at, end, b":")
        if value == NULL:
            return None
        if at - key == 6 and memcmp(key, b'"refs"', 6) == 0:
            if has_refs:
                return None
            has_refs = True
            at = scan_refs(start, value, end, rows, others)
        else:
            at = skip_value(value, end)
            if at != NULL:
                members.append(PyBytes_FromStringAndSize(key, at - key))
        if at == NULL or at == value:
            return None
        at = skip_blanks(at, end)
        if at < end and at[0] == b"}":
            if not has_refs or skip_blanks(at + 1, end) != end:
                return None
            return b"{" + b",".join(members) + b"}", b"{" + b",".join(others) + b"}", rows
        at = skip_mark(at, end, b",")
    return None


def grid_positions(bytes text, const int64_t[::1] key_start, const int64_t[::1] key_end, bytes prefix,
                   char separator, tuple grid_shape, uint64_t[::1] positions):
    """Compute the grid positions of chunks from their keys, as far as these begin with a prefix.

    Parameters
    ----------
    text
        What the keys stand in.
    key_start, key_end
        (n,) where each key begins and ends in it.
    prefix
        What the keys of the array begin with.
    separator
        What stands between the grid cells.
    grid_shape
        (rank,) number of chunks along each dimension, at least one of them.
    positions
        (n,) linear positions in C order, which are written.

    Returns
    -------
    int
        How many keys begin with the prefix before one that does not.

    Raises
    ------
    ValueError
        One of them does not go on with a cell of the grid, or the grid has too many dimensions.
    """
    cdef const char *start = PyBytes_AS_STRING(text)
    cdef const char *at
    cdef const char *end
    cdef uint64_t extents[MOST_DIMENSIONS]
    cdef uint64_t cell, position
    cdef Py_ssize_t row, prefix_length = len(prefix)
    cdef int axis, rank = len(grid_shape)
    if rank > MOST_DIMENSIONS:
        raise ValueError(f"an array of {rank} dimensions")
    for axis in range(rank):
        extents[axis] = grid_shape[axis]
    for row in range(key_start.shape[0]):
        at, end = start + key_start[row], start + key_end[row]
        if end - at < prefix_length or memcmp(at, PyBytes_AS_STRING(prefix), prefix_length) != 0:
            return row
        at += prefix_length
        position = 0
        for axis in range(rank):
            if axis > 0:
                if at >= end or at[0] != separator:
                    raise ValueError(f"{text[key_start[row]:key_end[row]].decode()}: names no chunk")
                at += 1
            at = read_number(at, end, &cell)
            if at == NULL or cell >= extents[axis]:
                raise ValueError(f"{text[key_start[row]:key_end[row]].decode()}: names no chunk in the grid")
            position = position * extents[axis] + cell
        if at != end:
            raise ValueError(f"{text[key_start[row]:key_end[row]].decode()}: names no chunk")
        positions[row] = position
    return key_start.shape[0]
