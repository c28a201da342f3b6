"""Requests to addresses that people typed in, so that nobody reaches what only this server can reach.

The host's addresses are looked up once, checked, and that very address is connected to, so a name cannot
change its meaning between check and use. Every redirect is checked anew. Loopback, private, link-local,
reserved and multicast addresses are refused, also where IPv6 wraps an IPv4 one, unless
`OUTGOING_PRIVATE_HOSTS` names the host.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from django.conf import settings
from django.utils.translation import gettext

PORTS: Final = {"http": 80, "https": 443}
MAX_REDIRECTS: Final = 3
REDIRECTS: Final = (301, 302, 303, 307, 308)
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
SECONDS: Final = 20.0  # for one object, all redirects together
READ: Final = 64 * 1024


class FetchRefused(Exception):
    """The address is not asked, or did not give what it should; the message says why."""


def fetch(url: str, *, hosts: Sequence[str], limit: int, seconds: float = SECONDS) -> bytes:
    """What lies at an address, `limit` bytes at most. Only hosts that a pattern names are asked."""
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = check_url(url)
        if not any(fnmatchcase(_host(parts), pattern.lower()) for pattern in hosts):
            raise FetchRefused(
                f"is an address at {_host(parts)}, and nothing is fetched from there; put the file into the "
                "zip, or have IMPORT_URL_ALLOWLIST name the host"
            )
        status, headers, body = _ask("GET", parts, deadline=deadline, limit=limit)
        if status in REDIRECTS and "location" in headers:
            url = urljoin(url, headers["location"])
            continue
        if status != http.client.OK:
            raise FetchRefused(f"was answered with status {status}")
        return body
    raise FetchRefused(f"leads on more than {MAX_REDIRECTS} times")


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> tuple[int, bytes]:
    """Send bytes; the reply's status and the first of its bytes. Redirects are not followed."""
    parts = check_url(url)
    deadline = time.monotonic() + seconds
    status, _, reply = _ask(
        "POST", parts, deadline=deadline, limit=READ, body=body, headers=headers, cut=True
    )
    return status, reply


def check_url(url: str) -> SplitResult:
    """The parts of an http(s) address without a name and password in it. Raises `FetchRefused`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchRefused(gettext("is no address: %(error)s") % {"error": error}) from error
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise FetchRefused(gettext("is no address that begins with https:// or http://"))
    if parts.username or parts.password:
        raise FetchRefused(gettext("has a name or password in it"))
    if any(character <= " " or character == "\x7f" for character in url) or not url.isascii():
        raise FetchRefused(gettext("has spaces or other characters that have to be encoded"))
    return parts


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").lower().rstrip(".")


def allowed_address(host: str, port: int) -> str:
    """The address to connect to. Raises `FetchRefused` if the host has one that is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchRefused(
            gettext("is at %(host)s, which is not found: %(error)s") % {"host": host, "error": error}
        ) from error
    addresses = [str(entry[4][0]) for entry in found]
    private = host in settings.OUTGOING_PRIVATE_HOSTS
    for address in addresses:
        if not private and not is_public(address):
            raise FetchRefused(gettext("is at %(host)s, which is no public host") % {"host": host})
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is of the open internet; so must be the IPv4 one that an IPv6 one wraps."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked at the moment of connecting."""

    def __init__(self, parts: SplitResult, *, deadline: float) -> None:
        self._tls = parts.scheme == "https"
        super().__init__(_host(parts), parts.port or PORTS[parts.scheme], timeout=_left(deadline))

    def connect(self) -> None:
        address = allowed_address(self.host, self.port)
        self.sock = socket.create_connection((address, self.port), self.timeout)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise FetchRefused("took too long")
    return left


def _ask(
    method: str,
    parts: SplitResult,
    *,
    deadline: float,
    limit: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    cut: bool = False,
) -> tuple[int, dict[str, str], bytes]:
    connection = _Connection(parts, deadline=deadline)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, body, {"User-Agent": "Tiebreak", "Accept": "*/*", **(headers or {})})
        reply = connection.getresponse()
        content = b""
        while not (reply.status in REDIRECTS and method == "GET"):
            part = reply.read1(READ)
            if not part:
                break
            content += part
            if len(content) > limit:
                if cut:
                    break
                raise FetchRefused(f"has more than {limit:,} bytes")
            _left(deadline)
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content[:limit]
    except (OSError, http.client.HTTPException) as error:
        raise FetchRefused(f"could not be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()
