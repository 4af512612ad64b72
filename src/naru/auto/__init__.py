"""auto://: listen and connect without naming a transport, and move to a better one while it runs.

    joining       listen, connect: both sides say what they can, the listener chooses and offers
    words         what they say to each other, and its strict reader                     (pure)
    carriers      connections of each transport whose descriptors can be passed on
    channels      AutoChannel and Selection: what users see
    judgement     when another transport is worth a move                                 (pure)
    conversation  one channel's control connection: offers, answers, moves
    watcher       one thread a process that listens to the control connections

The chain: `joining` makes a control connection and, over it, the first data connection; from then
on `conversation` leads or follows moves, between two data connections at a time. The moving itself
is native/transports/moving.c. Layer: above `choosing`, because it chooses.
"""
