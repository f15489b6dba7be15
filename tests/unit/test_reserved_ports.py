"""Ports kept for other processes: no two alike, and nobody else's while they are kept."""

import errno
import socket

import pytest

from tests.reserved_ports import LOOPBACK, ReservedPorts

MANY = 400  # of some 14,000: were they not held, two would be alike


def test_no_two_reserved_ports_are_alike() -> None:
    with ReservedPorts() as free, ReservedPorts() as more:
        ports = [(free if turn % 2 else more).another() for turn in range(MANY)]

    assert len(set(ports)) == MANY


def test_a_reserved_port_is_refused_to_who_does_not_ask_for_its_reuse() -> None:
    with ReservedPorts() as free, socket.socket() as other:
        port = free.another()

        with pytest.raises(OSError) as refusal:
            other.bind((LOOPBACK, port))

    assert refusal.value.errno == errno.EADDRINUSE


def test_who_asks_for_its_reuse_listens_on_a_reserved_port_again_and_again() -> None:
    with ReservedPorts() as free:
        port = free.another()
        for _ in range(2):
            with socket.create_server((LOOPBACK, port)):
                socket.create_connection((LOOPBACK, port)).close()
