"""What counts as one, where strangers are limited by where they come from."""

from __future__ import annotations

import ipaddress


def networks_of(remote: str) -> tuple[str, ...]:
    """What is limited as one, the narrow first: an IPv4 address; an IPv6 /64, and the /48 that it is in.

    Anybody can get a /64 whole, and many have a /48, in which they can go from one /64 to the next for a long time.
    """
    address = ipaddress.ip_address(remote.partition("%")[0])
    if not isinstance(address, ipaddress.IPv6Address):
        return (str(address),)
    if address.ipv4_mapped is not None:
        return (str(address.ipv4_mapped),)
    return tuple(str(ipaddress.ip_network((address, length), strict=False)) for length in (64, 48))
