"""Where the page listens.

For: binding before the network is loaded, so that a port that is taken is said at once. Not for:
which names the page answers to (``guard.py``).
"""

from __future__ import annotations

import ipaddress
import os
import socket


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises: ValueError: no such address here, or the port is taken or not allowed.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"port = {port} (must lie in 0..65535; 0 takes any that is free)")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=64)
    except (OSError, UnicodeError) as error:
        why = str(error)
        if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
            # create_server adds the address to the text, which says it already.
            why = os.strerror(error.errno or 0)
        raise ValueError(
            f"cannot listen at {host}, port {port} ({why.lower()}); give another --port (0: any "
            "that is free) or --host"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, listener: socket.socket) -> str:
    """What to open on this machine."""
    port = listener.getsockname()[1]
    shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else host
    return f"http://{shown}:{port}/"
