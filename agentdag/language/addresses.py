"""Which addresses are of this machine or of its network: no request goes there that the file does not allow."""

from __future__ import annotations

import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address

_DOTS = dict.fromkeys(map(ord, "\u3002\uff0e\uff61"), ".")
"""What stands for a dot in names of hosts, RFC 3490."""
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".home.arpa")


def is_private(host: str) -> bool:
    """Whether *host*, a name or an address, is certainly none of the public network; a name may still turn out so."""
    name = unicodedata.normalize("NFKC", host).translate(_DOTS).strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(_LOCAL_NAMES):
        return True
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return not _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            return False
        if int(address) >> 32 == 0x0064FF9B << 64:  # an IPv4 address behind NAT64, RFC 6052
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
