"""Pictures from other hosts: only those that are allowed, only at public addresses, and only so much."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from janus.serve import remote


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            body = {"/small": b"picture", "/host": self.headers["Host"].encode(), "/large": bytes(3000)}
            self.send_response(200 if self.path in body else 404)
            self.end_headers()
            self.wfile.write(body.get(self.path, b""))

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the names of hosts lead to; those at 127.0.0.1 pass for public."""
    known = {"pictures.example": ["127.0.0.1"]}

    real = socket.getaddrinfo

    def find(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host == "127.0.0.1":  # an address, on its way to the connection
            return real(host, port, *rest, **more)
        if host not in known:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    public = remote._public
    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(remote, "_public", lambda address: address == "127.0.0.1" or public(address))
    return known


def test_an_allowed_host_is_asked_by_its_name_at_the_checked_address(
    port: int, names: dict[str, list[str]]
) -> None:
    host = f"pictures.example:{port}"
    assert remote.fetch(f"http://{host}/small", [host], 100) == b"picture"
    assert remote.fetch(f"http://{host}/host", [host.upper()], 100).decode() == host
    assert remote.fetch(f"http://{host}/to/http://{host}/small", [host], 100) == b"picture"
    assert remote.fetch(f"http://{host}/to//small", [host], 100)  # a path alone stays at the host


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://other.example/a.png", "not fetched from 'other.example'"),
        ("http://pictures.example/a.png", "not fetched from"),  # another port
        ("http://127.0.0.1:{port}/small", "not fetched from"),
        ("http://pictures.example:{port}@127.0.0.1:{port}/small", "not fetched from"),
        ("http://me:word@pictures.example:{port}/small", "not fetched from"),
        ("http://pictures.example.evil.example:{port}/small", "not fetched from"),
        ("http://pictures.example:{port}/to/http://127.0.0.1:{port}/small", "not fetched from '127.0.0.1'"),
        ("http://pictures.example:{port}/to/file:///etc/passwd", "must be sent as data"),
        ("http://pictures.example:{port}/missing", "status 404"),
        ("http://pictures.example:{port}/large", "more than 1,000 bytes"),
        ("file:///etc/passwd", "must be sent as data"),
        ("ftp://pictures.example:{port}/small", "must be sent as data"),
        ("//pictures.example:{port}/small", "must be sent as data"),
        ("/etc/passwd", "must be sent as data"),
        ("http://[", "not fetched"),
        ("http://a\n/", "not a URL"),
        ("http://pictures.example:99999/", "not a URL|not fetched"),
        ("", "must be sent as data"),
    ],
)
def test_all_else_is_refused(port: int, names: dict[str, list[str]], url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        remote.fetch(url.replace("{port}", str(port)), [f"pictures.example:{port}"], 1000)


def test_it_does_not_go_round_in_circles(port: int, names: dict[str, list[str]]) -> None:
    host = f"pictures.example:{port}"
    url = f"http://{host}/small"
    for _ in range(4):
        url = f"http://{host}/to/{url}"
    with pytest.raises(ValueError, match="more than 3 times"):
        remote.fetch(url, [host], 100)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_a_name_that_leads_inside_is_refused(address: str, names: dict[str, list[str]]) -> None:
    for addresses in ([address], ["93.184.216.34", address]):
        names["inside.example"] = addresses
        with pytest.raises(ValueError, match="not at a public address"):
            remote.fetch("https://inside.example/a.png", ["inside.example"], 100)


def test_public_addresses_are_public() -> None:
    assert all(map(remote._public, ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]))
