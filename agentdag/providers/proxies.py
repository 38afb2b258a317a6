"""What the environment says of the way to a server: proxies, and the certificates that are trusted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from agentdag.errors import UsageError

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class Proxy(NamedTuple):
    """A proxy by which a server is reached, and the variable that names it."""

    variable: str
    address: str

    @property
    def shown(self) -> str:
        """The address without the password that may stand in it."""
        parts = urlsplit(self.address)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}" if parts.scheme else self.address

    @property
    def words(self) -> str:
        """The way that it is, in words."""
        return f"through the proxy {self.shown} of {self.variable}"


def proxy_of(url: str) -> Proxy | None:
    """By which proxy *url* is reached, as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say; None for directly."""
    known: Mapping[str, str] = getproxies_environment()
    parts = urlsplit(url)
    scheme = parts.scheme if parts.scheme in known else "all"
    address = known.get(scheme)
    if not address or (parts.hostname and _is_exempt(parts.hostname, known.get("no", ""))):
        return None
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return Proxy(next((name for name in names if os.environ.get(name)), names[1]), address)


def _is_exempt(host: str, exempt: str) -> bool:
    """Whether NO_PROXY, which says *exempt*, names *host*, or a network that it is in."""
    if proxy_bypass_environment(host):
        return True
    for each in exempt.split(","):
        with contextlib.suppress(ValueError):
            if "/" in each and ip_address(host) in ip_network(each.strip(), strict=False):
                return True
    return False


def check_proxy(url: str) -> None:
    """Raise UsageError where *url* is reached by a proxy that cannot be used."""
    proxy = proxy_of(url)
    if proxy is None:
        return
    parts = urlsplit(proxy.address)
    hint = f"name an HTTP proxy (http://host:port), or exempt the server: NO_PROXY={urlsplit(url).hostname}"
    if parts.scheme.startswith("socks"):
        raise UsageError(f"{proxy.variable}={proxy.shown} is a SOCKS proxy, which agentdag cannot speak to", hint=hint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{proxy.variable}={proxy.shown} is no address of a proxy", hint=hint)


def certificate_problem(error: OSError) -> UsageError:
    """What *error* means that came while trusted certificates were read."""
    for name in _CERTIFICATES:
        path = os.environ.get(name)
        if path and not Path(path).exists():
            return UsageError(f"{name}={path}: there is no such file", hint=f"correct it, or unset {name}")
    return UsageError(
        f"the trusted certificates cannot be read: {error}", hint=f"look at {' and '.join(_CERTIFICATES)}"
    )
