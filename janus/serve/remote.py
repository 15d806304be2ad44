"""Pictures from other hosts, where the server allows it: those hosts alone, and never a private address."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence

import httpx

SECONDS = 20.0  # for one picture
_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, hosts: Sequence[str], most: int) -> bytes:
    """What lies at an http(s) address, at most `most` bytes.

    `hosts` are exact names, with a port where it is not the usual one; a redirect must lead to one of them,
    too.  The name is resolved once, and just that address is connected to, so that it can't be exchanged
    after it was checked.  Raises ValueError for everything that is not allowed or does not work.
    """
    deadline = time.monotonic() + SECONDS
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=SECONDS / 2) as client:
        for _ in range(_REDIRECTS + 1):
            where = _allowed(url, hosts)
            try:
                with client.stream(
                    "GET",
                    where.copy_with(host=_address(where)),
                    headers={"Host": where.netloc.decode(), "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": where.host},
                ) as answer:
                    if not answer.has_redirect_location:
                        return _body(answer, where.host, most, deadline)
                    url = str(where.join(answer.headers["Location"]))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ValueError(f"no picture came from {where.host} ({type(error).__name__})") from error
    raise ValueError(f"a picture's address redirects more than {_REDIRECTS} times")


def _allowed(url: str, hosts: Sequence[str]) -> httpx.URL:
    """Raises ValueError unless it is an address of one of the hosts."""
    try:
        where = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError("a picture's address is not a URL") from error
    if where.scheme not in ("http", "https"):
        raise ValueError(
            "a picture must be sent as data:image/...;base64,...; paths and other URLs are not read"
        )
    if where.userinfo or where.netloc.decode("ascii").lower() not in {host.lower() for host in hosts}:
        raise ValueError(
            f"pictures are not fetched from {where.host[:100]!r}; "
            "send the picture as data:image/...;base64,..."
        )
    return where


def _address(where: httpx.URL) -> str:
    """Raises ValueError where the name leads to an address that is not public."""
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(where.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"there is no host {where.host!r}") from error
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(map(_public, addresses)):
        raise ValueError(f"{where.host} is not at a public address; pictures are not fetched from there")
    return addresses[0]


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64
    ):
        return False  # an IPv4 address in disguise
    return ip.is_global and not ip.is_multicast


def _body(answer: httpx.Response, host: str, most: int, deadline: float) -> bytes:
    if answer.status_code != 200:
        raise ValueError(f"no picture came from {host} (status {answer.status_code})")
    data = bytearray()
    for chunk in answer.iter_raw(65536):
        data += chunk
        if len(data) > most:
            raise ValueError(f"the picture from {host} has more than {most:,} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"the picture from {host} took more than {SECONDS:.0f} s")
    return bytes(data)
