# The modules of naru.codec: see formats.pyx.
cdef object objects()
cdef object arrays()
