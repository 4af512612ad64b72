"""What stands in a message besides plain bytes: values and arrays.

    objects    send_object, receive_object: msgpack by msgspec; pickle on request
    arrays     send_array and its kin: numpy arrays, copied once or not at all
    header     the bytes before an array's data            \\  pure functions over bytes,
    dtypes     numpy's dtypes as text, and a strict parser /  which trust nothing
    retiring   what becomes of an array when its block ends

Every such message begins with a byte that msgpack never uses, a letter for its kind, and a version:
docs/objects-and-arrays.md shows them byte by byte.

Must not know: transports, rings, how an end sends. Joins: the verbs are methods of the ends
(naru._native.sending, receiving) that load these modules when they are first called.
"""

MARK = 0xC1
"""msgpack's only unused byte: no value in plain msgpack begins with it."""
