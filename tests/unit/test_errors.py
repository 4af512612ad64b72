"""The error tree, and the translation from errno."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import pickle
import socket

import pytest

from naru import errors
from naru.errors import NaruError, PeerGoneError, from_errno, from_os_error

LEAVES = [
    leaf
    for _, leaf in inspect.getmembers(errors, inspect.isclass)
    if issubclass(leaf, NaruError) and leaf.__module__ == "naru.errors"
]

BUILTIN_PARENTS = [
    (errors.PeerGoneError, ConnectionError),
    (errors.TimedOutError, TimeoutError),
    (errors.TooBigError, ValueError),
    (errors.BadAddressError, ValueError),
    (errors.NotPermittedError, PermissionError),
    (errors.NameTakenError, FileExistsError),
    (errors.NoSuchNameError, FileNotFoundError),
    (errors.LimitError, OSError),
    (errors.NoSpaceError, OSError),
]

TRANSLATIONS = [
    (errno.EPIPE, errors.PeerGoneError),
    (errno.ECONNRESET, errors.PeerGoneError),
    (errno.ENOTCONN, errors.PeerGoneError),
    (errno.ECONNREFUSED, errors.PeerGoneError),
    (errno.ECONNABORTED, errors.PeerGoneError),
    (errno.ESHUTDOWN, errors.PeerGoneError),
    (errno.EHOSTDOWN, errors.PeerGoneError),
    (errno.ECANCELED, errors.ClosedError),
    (errno.EBADF, errors.ClosedError),
    (errno.EBADMSG, errors.CorruptedError),
    (errno.EPROTO, errors.ProtocolError),
    (errno.EPROTONOSUPPORT, errors.ProtocolError),
    (errno.EMSGSIZE, errors.TooBigError),
    (errno.ECHILD, errors.ForkedHandleError),
    (errno.EOPNOTSUPP, errors.UnsupportedError),
    (errno.EMFILE, errors.LimitError),
    (errno.ENFILE, errors.LimitError),
    (errno.ETOOMANYREFS, errors.LimitError),
    (errno.ENOBUFS, errors.LimitError),
    (errno.EADDRNOTAVAIL, errors.LimitError),
    (errno.EFBIG, errors.LimitError),
    (errno.ENOSPC, errors.NoSpaceError),
    (errno.ENOMEM, errors.NoSpaceError),
    (errno.EACCES, errors.NotPermittedError),
    (errno.EPERM, errors.NotPermittedError),
    (errno.EADDRINUSE, errors.NameTakenError),
    (errno.EEXIST, errors.NameTakenError),
    (errno.ENOENT, errors.NoSuchNameError),
    (errno.ETIMEDOUT, errors.TimedOutError),
    (errno.EBUSY, errors.NaruError),
    (errno.EIO, errors.NaruError),
    (99999, errors.NaruError),
]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = (errors.__doc__ or "").split("Holds:")[0]
    for leaf in LEAVES:
        assert leaf.__name__ in drawn
        assert leaf.__name__ in errors.__all__


@pytest.mark.parametrize(("leaf", "builtin"), BUILTIN_PARENTS)
def test_a_leaf_is_also_a_builtin(leaf: type[NaruError], builtin: type[Exception]) -> None:
    assert issubclass(leaf, builtin)
    with pytest.raises(builtin):
        raise leaf("gone")


@pytest.mark.parametrize("leaf", LEAVES)
def test_fields_and_text_survive_construction_copy_and_pickle(leaf: type[NaruError]) -> None:
    error = leaf("what happened", errno=28, operation="shm.listen", address="shm://orders")
    error.add_note("a note")
    for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is leaf
        assert str(same) == "what happened"
        assert (same.errno, same.operation, same.address) == (28, "shm.listen", "shm://orders")
        assert same.__notes__ == ["a note"]


@pytest.mark.parametrize("leaf", LEAVES)
def test_fields_are_none_when_not_given(leaf: type[NaruError]) -> None:
    error = leaf("only a text")
    assert (error.errno, error.operation, error.address) == (None, None, None)
    assert str(error) == "only a text"


def test_orderly_is_kept_by_pickle() -> None:
    assert pickle.loads(pickle.dumps(PeerGoneError("closed", orderly=True))).orderly is True
    assert PeerGoneError("died").orderly is False


@pytest.mark.parametrize(("number", "leaf"), TRANSLATIONS)
def test_errno_becomes_a_leaf(number: int, leaf: type[NaruError]) -> None:
    error = from_errno(-number, "shm.listen", "shm://orders")
    assert type(error) is leaf
    assert error.errno == number
    assert (error.operation, error.address) == ("shm.listen", "shm://orders")
    assert str(error).startswith('shm.listen "shm://orders": ')
    assert errno.errorcode.get(number, f"errno {number}") in str(error)
    assert str(error) == pickle.loads(pickle.dumps(error)).args[0]


@pytest.mark.parametrize(("number", "leaf"), TRANSLATIONS)
def test_os_error_becomes_the_same(number: int, leaf: type[NaruError]) -> None:
    error = from_os_error(OSError(number, os.strerror(number)), "send", "unix:@a")
    assert type(error) is leaf
    assert str(error) == str(from_errno(-number, "send", "unix:@a"))


def test_every_translated_error_has_a_test() -> None:
    assert set(errors._CAUSES) <= {number for number, _ in TRANSLATIONS}


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_only_an_orderly_close_is_orderly(number: int) -> None:
    error = from_errno(-number, "receive")
    if isinstance(error, PeerGoneError):
        assert error.orderly == (number == errno.ESHUTDOWN)


def test_detail_stands_before_the_remedy() -> None:
    detail = "/dev/shm has 2 MiB free, 16 MiB asked"
    text = str(from_errno(-errno.ENOSPC, "shm.listen", "shm://orders", detail=detail))
    assert text.startswith(f'shm.listen "shm://orders": no space (ENOSPC); {detail}: ')
    assert "capacity_bytes" in text


def test_no_address_no_quotes() -> None:
    assert str(from_errno(-errno.EIO, "probe")) == "probe: input/output error (EIO)"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "RLIMIT_NOFILE is "),
        (errno.EADDRNOTAVAIL, "net.ipv4.ip_local_port_range is "),
        (errno.EHOSTDOWN, "nothing heard from the peer within the heartbeat"),
        (errno.ESHUTDOWN, "the peer closed"),
        (errno.EPROTONOSUPPORT, "another version"),
    ],
)
def test_the_text_names_the_cause(number: int, words: str) -> None:
    assert words in str(from_errno(-number, "connect", "tcp://h:1"))


def test_a_naru_error_passes_unchanged() -> None:
    error = errors.NameTakenError("taken")
    assert from_os_error(error, "listen") is error


def test_socket_timeout_without_errno_is_timed_out() -> None:
    assert type(from_os_error(TimeoutError("timed out"), "connect")) is errors.TimedOutError


def test_resolver_failure_is_no_errno() -> None:
    exc = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = from_os_error(exc, "tcp.connect", "tcp://nowhere.invalid:1")
    assert type(error) is errors.NoSuchNameError
    assert error.errno is None
    assert "name or service not known" in str(error)


def test_os_error_with_a_text_only() -> None:
    error = from_os_error(OSError("something odd"), "fifo.open", "fifo:///a")
    assert type(error) is NaruError
    assert str(error) == 'fifo.open "fifo:///a": something odd'


def test_the_file_of_an_os_error_is_named_once() -> None:
    exc = FileNotFoundError(errno.ENOENT, "No such file", "/run/naru/locks")
    assert "'/run/naru/locks'" in str(from_os_error(exc, "shm.listen", "shm://a"))
    exc = FileNotFoundError(errno.ENOENT, "No such file", "/run/a")
    assert str(from_os_error(exc, "fifo.open", "fifo:///run/a")).count("/run/a") == 1
