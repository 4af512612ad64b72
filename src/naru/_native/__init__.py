"""The only door to the C core: a thin mirror in Cython.

endpoint   Endpoint, Sender, Receiver: every verb; the functions that make ends
views      Lease, Batch, View, Reservation: messages in place
system     segments, eventfds and message queues for the rendezvous
core.pxd   the C declarations
"""
