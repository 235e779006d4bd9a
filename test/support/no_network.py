"""Keeps a process off the network: Python refuses to connect or to look up a name, but on this machine itself."""

from __future__ import annotations

import socket
import sys
from typing import Any

_LOCAL = frozenset({"", "localhost", "0.0.0.0", "::", "::1", socket.gethostname()})


def refuse_network() -> None:
    """Raise PermissionError from now on whenever something in this process reaches beyond the machine."""
    sys.addaudithook(_hook)


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name is None or name in _LOCAL or str(name).startswith("127.")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # of this machine: a path, or netlink's numbers
            return
        host = address[0]
    else:
        return
    if not (_is_local(host) or isinstance(host, int)):
        raise PermissionError(f"{event} {arguments!r}, though nothing here needs a network")
