"""Conversations by name: listen, accept, connect."""

from __future__ import annotations

import gc
import warnings

from naru.errors import ClosedError, TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.children import until_sleeping


@check("listener")
def a_listener_gives_conversations(stage: Stage) -> None:
    """Each connect() meets one accept(); the conversations do not mix."""
    listener = stage.listener()
    links = [stage.connect(listener) for _ in range(3)]
    for number, (client, server) in enumerate(links):
        client.send(b"question %d" % number, timeout_s=PATIENCE_S)
        server.send(b"answer %d" % number, timeout_s=PATIENCE_S)
    for number, (client, server) in enumerate(links):
        demand_equal(server.receive(timeout_s=PATIENCE_S), b"question %d" % number, "the question")
        demand_equal(client.receive(timeout_s=PATIENCE_S), b"answer %d" % number, "the answer")


@check("listener")
def accept_waits_no_longer_than_told(stage: Stage) -> None:
    """With nobody there, accept() raises TimedOutError, and goes on with whoever comes next."""
    listener = stage.listener()
    for timeout_s in (0, 0.01):
        demand_raises(TimedOutError, listener.accept, timeout_s=timeout_s)
    demand_raises((ValueError, TypeError), listener.accept, timeout_s=-1)
    client, server = stage.connect(listener)
    client.send(b"hello", timeout_s=PATIENCE_S)
    demand_equal(server.receive(timeout_s=PATIENCE_S), b"hello", "receive()")


@check("listener", "wakes")
def close_wakes_whoever_accepts(stage: Stage) -> None:
    """close() by another thread ends accept() with ClosedError and iteration without an error."""
    listener = stage.listener()
    accepting = [stage.run(listener.accept) for _ in range(2)]
    iterating = stage.run(list, listener)
    for task in (*accepting, iterating):
        until_sleeping(task.native_id, patience_s=0.1)
    listener.close()
    for task in accepting:
        task.error(ClosedError)
    demand_equal(iterating.result(), [], "what iteration gave")


@check("listener")
def a_closed_listener_says_so(stage: Stage) -> None:
    """close() may be called again; accept() raises ClosedError; nobody gets in; open ones go on."""
    listener = stage.listener()
    client, server = stage.connect(listener)
    demand(str(listener.address) in repr(listener), f"{listener!r} does not name its address")
    for _ in range(3):
        listener.close()
    demand_equal(listener.closed, True, "closed")
    demand("closed" in repr(listener), f"{listener!r} does not say that it is closed")
    for _ in range(2):
        demand_raises(ClosedError, listener.accept)
    client.send(b"still there", timeout_s=PATIENCE_S)
    demand_equal(server.receive(timeout_s=PATIENCE_S), b"still there", "receive()")


@check("listener")
def several_threads_accept(stage: Stage) -> None:
    """Each connection goes to one of the threads that accept."""
    listener = stage.listener()
    make_connection = stage.under_test.make_connection
    assert make_connection is not None
    accepting = [stage.run(listener.accept, timeout_s=PATIENCE_S) for _ in range(4)]
    connecting = [stage.run(make_connection, listener) for _ in range(4)]
    clients = [stage.keep(task.result()) for task in connecting]
    servers = [stage.keep(task.result()) for task in accepting]
    for number, client in enumerate(clients):
        client.send(b"%d" % number, timeout_s=PATIENCE_S)
    got = sorted(server.receive(timeout_s=PATIENCE_S) for server in servers)
    demand_equal(got, [b"0", b"1", b"2", b"3"], "what the accepted ends received")


@check("listener")
def a_forgotten_listener_warns_and_closes(stage: Stage) -> None:
    """An open listener that is collected warns with ResourceWarning."""
    make_listener = stage.under_test.make_listener
    assert make_listener is not None
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_listener()
        gc.collect()
    said = [one for one in caught if issubclass(one.category, ResourceWarning)]
    demand(said, "a listener was forgotten in silence")


CHECKS = (
    a_listener_gives_conversations,
    accept_waits_no_longer_than_told,
    close_wakes_whoever_accepts,
    a_closed_listener_says_so,
    several_threads_accept,
    a_forgotten_listener_warns_and_closes,
)
