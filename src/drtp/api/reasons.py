"""The words of conditions: every type, and every reason that one is concluded for.

What each means, and what to do about it, is in `rules/advice.py`; the pages under docs/operations/conditions are made
from there. Nothing else is written into a status of ours.
"""

from __future__ import annotations

from enum import StrEnum


class Aspect(StrEnum):
    """One aspect of an object."""

    ACCEPTED = "Accepted"
    CONFLICTED = "Conflicted"
    CONNECTED = "Connected"
    ENFORCED = "Enforced"
    EXPOSED = "Exposed"
    PARTIALLY_INVALID = "PartiallyInvalid"
    PROGRAMMED = "Programmed"
    READY = "Ready"
    RESOLVED_REFS = "ResolvedRefs"
    SCHEDULED = "Scheduled"
    SECRET_REPLAYED = "SecretReplayed"  # noqa: S105 - a word about secrets


class Reason(StrEnum):
    """Why: stable, for scripts. Gateway API's own words where it has one."""

    ACCEPTED = "Accepted"
    ADDRESS_CLAIMED = "AddressClaimed"
    ADDRESS_NOT_CLAIMED = "AddressNotClaimed"
    ADDRESS_UNAVAILABLE = "AddressUnavailable"
    AGENT_DISCONNECTED = "AgentDisconnected"
    BACKEND_NOT_FOUND = "BackendNotFound"
    CONNECTED = "Connected"
    CONNECTING = "Connecting"
    CORDONED = "Cordoned"
    DEGRADED = "Degraded"
    DISABLED = "Disabled"
    DRAINING = "Draining"
    DRY_RUN = "DryRun"
    ENDPOINT_FAILED = "EndpointFailed"
    ENFORCED = "Enforced"
    EXPOSED = "Exposed"
    GATEWAY_FAILED = "GatewayFailed"
    GATEWAY_LOST = "GatewayLost"
    HOSTNAME_CLAIMED = "HostnameClaimed"
    HOSTNAME_CONFLICT = "HostnameConflict"
    HOSTNAME_RESERVED = "HostnameReserved"
    INVALID = "Invalid"
    INVALID_CERTIFICATE_REF = "InvalidCertificateRef"
    INVALID_PARAMETERS = "InvalidParameters"
    INVALID_KIND = "InvalidKind"
    INVALID_ROUTE_KINDS = "InvalidRouteKinds"
    LEASE_EXPIRED = "LeaseExpired"
    LISTENERS_NOT_VALID = "ListenersNotValid"
    LOCAL_SERVICE_UNREACHABLE = "LocalServiceUnreachable"
    NOTHING_TO_ENFORCE = "NothingToEnforce"
    NOT_ALLOWED = "NotAllowed"
    NOT_ALLOWED_BY_LISTENERS = "NotAllowedByListeners"
    NOT_REQUESTED = "NotRequested"
    NO_AGENT = "NoAgent"
    NO_CONFLICTS = "NoConflicts"
    NO_MATCHING_LISTENER = "NoMatchingListener"
    NO_MATCHING_LISTENER_HOSTNAME = "NoMatchingListenerHostname"
    NO_MATCHING_PARENT = "NoMatchingParent"
    NO_SERVERS = "NoServers"
    NO_SERVER_ALLOWED = "NoServerAllowed"
    NO_SUCH_GATEWAY = "NoSuchGateway"
    PARTLY_PROGRAMMED = "PartlyProgrammed"
    PENDING = "Pending"
    POOL_EXHAUSTED = "PoolExhausted"
    PORT_CLAIMED = "PortClaimed"
    PORT_UNAVAILABLE = "PortUnavailable"
    PROGRAMMED = "Programmed"
    PROGRAMMING = "Programming"
    PROTOCOL_CONFLICT = "ProtocolConflict"
    READY = "Ready"
    REF_NOT_PERMITTED = "RefNotPermitted"
    REGISTERING = "Registering"
    RESOLVED_REFS = "ResolvedRefs"
    SCHEDULED = "Scheduled"
    SECRET_REPLAYED = "SecretReplayed"  # noqa: S105 - a word about secrets
    SERVICE_NOT_FOUND = "ServiceNotFound"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_NOT_SUPPORTED = "TargetNotSupported"
    TARGET_REFUSED = "TargetRefused"
    UNHEALTHY = "Unhealthy"
    UNREADABLE_ALLOWLIST = "UnreadableAllowlist"
    UNSUPPORTED_ADDRESS = "UnsupportedAddress"
    UNSUPPORTED_PROTOCOL = "UnsupportedProtocol"
    UNSUPPORTED_VALUE = "UnsupportedValue"
