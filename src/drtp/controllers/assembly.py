"""All controllers of a control plane, with everything they look things up by."""

from __future__ import annotations

from drtp.api.internal import ENROLMENT_SECRET
from drtp.controllers import (
    backendtls,
    catalogue,
    claims,
    connection,
    events,
    expose,
    garbage,
    gateway,
    policy,
    quarantine,
    routes,
    server,
    service,
    surroundings,
)
from drtp.controllers.runtime import Controller
from drtp.store.view import View

KINDS: tuple[str, ...] = tuple(
    sorted(
        {
            "Namespace",
            "Secret",
            "Event",
            "Lease.coordination.k8s.io",
            ENROLMENT_SECRET,
            *backendtls.KINDS,
            *catalogue.KINDS,
            *garbage.KINDS,
            *claims.KINDS,
            *gateway.KINDS,
            *policy.KINDS,
        }
    )
)
"""Kinds that a View must follow for controllers."""


def controllers(view: View, suffix: str) -> tuple[Controller, ...]:
    """Every controller; declares their indexes on `view`. `suffix`: of public hostnames."""
    surroundings.declare(view)
    catalogue.declare(view)
    connection.declare(view)
    expose.declare(view)
    garbage.declare(view)
    return (
        server.ServerController(),
        connection.ConnectionController(),
        expose.ExposeController(suffix),
        service.ServiceController(suffix),
        claims.ClaimController(suffix),
        gateway.GatewayClassController(),
        gateway.GatewayController(),
        gateway.ListenerSetController(suffix),
        routes.RouteController(suffix),
        policy.PolicyController(),
        catalogue.PublicationController(),
        catalogue.SubscriptionController(),
        backendtls.BackendTlsController(),
        garbage.GarbageController(),
        events.EventController(),
        quarantine.QuarantineController(),
    )


record = events.record
"""The Manager's recorder."""
