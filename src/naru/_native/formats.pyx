# cython: language_level=3, binding=False, auto_pickle=False
"""The door from the verbs to naru.codec: its modules, loaded by their first use.

msgspec and numpy take longer to load than naru; and they are kept, since an import statement takes as
long as a message. Must not know: what the formats are.
"""

cdef object _objects = None
cdef object _arrays = None


cdef object objects():
    global _objects
    if _objects is None:
        from naru.codec import objects as module
        _objects = module
    return _objects

cdef object arrays():
    global _arrays
    if _arrays is None:
        from naru.codec import arrays as module
        _arrays = module
    return _arrays
