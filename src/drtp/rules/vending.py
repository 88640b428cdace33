"""Names and ports handed to services, and the claims that make them somebody's.

A claim is an object named after the claimed thing, so creating it is the arbitration: two controllers cannot both win.
A released claim stays in quarantine for a day, in which only its former tenant gets it back: what pointed at one
tenant must not lead to another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from random import Random
from typing import NamedTuple

from drtp.api.internal import Claim, ClaimKind
from drtp.rules import hostnames

PORT_MIN = 10000
PORT_MAX = 32767
"""The pool ends below the ephemeral range (32768-60999): an outgoing source port can block a listener."""

QUARANTINE = timedelta(hours=24)
ATTEMPTS_MAX = 64

_ADJECTIVES = (
    "able agile amber ample apt azure bold brave breezy bright brisk calm candid chief civil clear clever coral cosy "
    "crisp daring deft dapper eager early easy elder fair fancy fast fleet fond frank fresh gentle glad golden grand "
    "happy hardy hazel honest humble ideal jolly keen kind lively loyal lucid lucky mellow merry mild misty modest "
    "neat nimble noble opal patient placid plucky polite proud quick quiet rapid ready royal rustic sandy serene "
    "sharp shiny silver sleek smart snowy solar solid spry steady stellar sunny sure swift tidy tranquil true trusty "
    "upbeat valiant velvet vivid warm wise witty young zesty"
)
_ANIMALS = (
    "alpaca badger beaver bison bobcat condor coyote crane cricket curlew deer dingo dolphin dove eagle egret elk "
    "falcon ferret finch fox gazelle gecko gibbon goose grouse gull hare harrier hawk heron hippo ibex ibis iguana "
    "jackal jaguar jay kestrel kiwi koala lark lemur leopard lion llama lynx magpie marmot marten mole moose newt "
    "ocelot orca oriole osprey otter owl panda panther parrot pelican penguin petrel pika plover puffin puma quail "
    "rabbit raven robin salmon seal shrew skylark sparrow stork swallow swan swift tapir tern thrush tiger toucan "
    "turtle viper vole wallaby walrus weasel whale wolf wombat wren yak zebra"
)

_RESERVED = (
    "abuse account accounts admin administrator api auth autoconfig autodiscover billing cdn cloud "
    "config connect console control dashboard db debug default dns docs download drtp email example ftp gateway "
    " global graphql grpc health help home host hostmaster imap info internal invalid isatap local localhost "
    "login logout mail manage metrics mx noc ns ns1 ns2 ns3 oauth official ops pay payment payments "
    "pop pop3 portal postmaster prism private proxy public register root router secure security server sftp "
    "signin signup smtp ssh ssl sso staff staging static stats status support sys sysadmin system team "
    "tls tunnel update upload user users vpn webmail webmaster wpad www www1 www2 wwww"
)
"""Labels that would let a tenant pass for the operator, or that clients look up by themselves (wpad, autodiscover)."""


ADJECTIVES = tuple(_ADJECTIVES.split())
ANIMALS = tuple(_ANIMALS.split())
RESERVED = frozenset(_RESERVED.split())


class Tenant(NamedTuple):
    """A namespace and its uid: one that is made anew under an old name is another tenant."""

    namespace: str
    uid: str = ""


class Standing(Enum):
    """What a tenant may do with a claimable thing."""

    FREE = "free"
    OURS = "ours"
    RETAKE = "retake"
    EXPIRED = "expired"
    TAKEN = "taken"


def belongs(claim: Claim, tenant: Tenant) -> bool:
    """Whether the claim is, or before its release was, the tenant's."""
    known = claim.spec.owner_namespace_uid in {"", tenant.uid}
    return known and claim.spec.owner_namespace == tenant.namespace


def standing(claim: Claim | None, tenant: Tenant, owner_uid: str, now: datetime) -> Standing:
    """FREE: create it. OURS: held by this owner. RETAKE: released by this tenant. EXPIRED: replace. TAKEN: no."""
    if claim is None:
        return Standing.FREE
    released = claim.spec.released_at
    if released is None:
        mine = belongs(claim, tenant) and claim.spec.owner_uid == owner_uid
        return Standing.OURS if mine else Standing.TAKEN
    if belongs(claim, tenant):
        return Standing.RETAKE
    return Standing.EXPIRED if now - released >= QUARANTINE else Standing.TAKEN


def over(claim: Claim, now: datetime) -> bool:
    """Whether a claim's quarantine has passed, so that the object can go."""
    return claim.spec.released_at is not None and now - claim.spec.released_at >= QUARANTINE


def labels(owner_uid: str) -> Iterator[str]:
    """Readable labels such as `calm-otter-3f9a`, seeded by the owner's random uid.

    The same owner gets the same sequence, so that a repeated decision is the same decision; the next ones are for the
    case that the first is taken.
    """
    random = Random(owner_uid)  # noqa: S311 - the uid is the randomness; this only spells it
    for _ in range(ATTEMPTS_MAX):
        yield f"{random.choice(ADJECTIVES)}-{random.choice(ANIMALS)}-{random.getrandbits(16):04x}"


def ports(owner_uid: str) -> Iterator[int]:
    """Ports of the pool to try, in an order of this owner's own."""
    random = Random(owner_uid)  # noqa: S311 - the uid is the randomness; this only spells it
    for _ in range(ATTEMPTS_MAX):
        yield random.randint(PORT_MIN, PORT_MAX)


def in_pool(port: int) -> bool:
    """Whether a port may be asked for on a shared address."""
    return PORT_MIN <= port <= PORT_MAX


def reserved(hostname: str, suffix: str) -> bool:
    """Whether tenants do not get a name: for the label right under `suffix`, or because it stands for all of them."""
    if "." not in hostname or f".{suffix}".endswith(f".{hostname}"):
        return True
    if hostnames.is_wildcard(hostname) and (hostnames.covers(hostname, f"*.{suffix}") or hostname.count(".") < 2):
        return True
    if not hostname.endswith(f".{suffix}"):
        return False
    label = hostname.removesuffix(f".{suffix}").rpartition(".")[2]
    return label in RESERVED or label.startswith("xn--")


def claim_name(kind: ClaimKind, value: str) -> str:
    """The one name under which `value` can be claimed. `value` of a port is `<space>:<port>`."""
    if kind is ClaimKind.HOSTNAME:
        return f"hostname.wildcard-{value[2:]}" if value.startswith("*.") else f"hostname.is-{value}"
    if kind is ClaimKind.PORT:
        space, _, port = value.rpartition(":")
        return f"port.{space}.{port}"
    return f"address.{value.replace(':', '-')}".replace(".-", ".x-")


def pool_addresses(pool: str) -> Iterator[str]:
    """Every address of a comma-separated list of addresses and networks, in order. Unreadable parts give none."""
    for part in (piece.strip() for piece in pool.split(",")):
        try:
            network = ipaddress.ip_network(part, strict=False)
        except ValueError:
            continue
        if network.num_addresses == 1:
            yield str(network.network_address)
        else:
            yield from (str(address) for address in network.hosts())


def in_pool_addresses(pool: str, address: str) -> bool:
    """Whether `address` belongs to the operator's pool of dedicated addresses."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        return False
    for part in (piece.strip() for piece in pool.split(",")):
        try:
            if wanted in ipaddress.ip_network(part, strict=False):
                return True
        except ValueError:
            continue
    return False
