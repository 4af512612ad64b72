"""What every transport must do, one function a promise.

    catalogue   Check: a promise with its name, its reason, what it applies to
    stage       Stage: fresh ends and threads for one check; demand*: what a check says
    delivery    messages arrive, whole, once, in order     sizes      from 0 bytes to one too many
    batches     send_many, receive_many, receive_into      in_place   lease, lease_many, reserve
    waiting     timeouts, wake-ups, Ctrl-C                 pressure   a full receiver
    closing     close, and what the peer sees              threads    several on one end; fairness
    descriptors open files that travel                     facts      statistics, repr, pickling
    listening   conversations by name                  values     objects and arrays

A check uses nothing but the verbs, so that it runs on any implementation of them.
"""
