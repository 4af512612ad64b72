"""The only door to the C core: a thin mirror in Cython.

endpoint    Endpoint: its life, its facts, how it waits
waiting     the slow half of every verb
views       Lease, Batch, View, Reservation: messages in place
sending     Sender, receiving  Receiver: every verb
ends        Channel, which is both
formats     the door to naru.codec, for the verbs of objects and arrays
opening     the functions that make ends, for the transports
multiplexing  what a loop over many ends needs besides the verbs
engine      Engine, Service: native protocols on one epoll loop
system      segments, eventfds and message queues for the rendezvous
core.pxd    the C declarations
"""
