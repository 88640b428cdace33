"""How the DRTP kinds are named and shown."""

from __future__ import annotations

from drtp.api import catalogue_kinds, drtp
from drtp.api.kinds import AGE, KindInfo, PrinterColumn, condition_column

CATEGORIES = ("drtp", "datum")

SERVICE = KindInfo(
    kind="DRTPService",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpservices",
    singular="drtpservice",
    short_names=("drtpsvc",),
    categories=CATEGORIES,
    model=drtp.DRTPService,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Protocol", "string", ".spec.protocol"),
        PrinterColumn("Local", "string", ".status.localTarget"),
        PrinterColumn("Address", "string", ".status.address"),
        condition_column("Ready"),
        AGE,
        PrinterColumn("Enabled", "boolean", ".spec.enabled", 1),
        PrinterColumn("Connections", "integer", ".status.readyConnections", 1),
        PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ),
)

CONNECTION = KindInfo(
    kind="DRTPConnection",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpconnections",
    singular="drtpconnection",
    short_names=("drtpc",),
    categories=CATEGORIES,
    model=drtp.DRTPConnection,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Service", "string", ".spec.serviceRef.name"),
        PrinterColumn("Client", "string", ".spec.client.hostname"),
        PrinterColumn("Primary", "string", '.spec.servers[?(@.role=="Primary")].serverRef.name'),
        PrinterColumn("Secondary", "string", '.spec.servers[?(@.role=="Secondary")].serverRef.name'),
        condition_column("Ready"),
        AGE,
        PrinterColumn("Client-IP", "string", ".spec.client.ip", 1),
        PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ),
    selectable_fields=(".spec.serviceRef.name",),
)

SERVER = KindInfo(
    kind="DRTPServer",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpservers",
    singular="drtpserver",
    namespaced=False,
    short_names=("drtps",),
    categories=CATEGORIES,
    model=drtp.DRTPServer,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("POP", "string", ".spec.pop"),
        PrinterColumn("Server-IP", "string", ".spec.serverIP"),
        PrinterColumn("Health", "integer", ".status.health"),
        PrinterColumn("Connections", "integer", ".status.connections"),
        condition_column("Ready"),
        AGE,
        PrinterColumn("Latitude", "string", ".spec.location.latitude", 1),
        PrinterColumn("Longitude", "string", ".spec.location.longitude", 1),
        PrinterColumn("Region", "string", ".spec.region", 1),
        PrinterColumn("Country", "string", ".spec.country", 1),
        PrinterColumn("Version", "string", ".status.version", 1),
        PrinterColumn("Unschedulable", "boolean", ".spec.unschedulable", 1),
    ),
    selectable_fields=(".spec.pop",),
)

ACCESS_POLICY = KindInfo(
    kind="DRTPAccessPolicy",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpaccesspolicies",
    singular="drtpaccesspolicy",
    short_names=("drtpacl",),
    categories=CATEGORIES,
    model=drtp.DRTPAccessPolicy,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Default", "string", ".spec.defaultAction"),
        PrinterColumn("Target", "string", ".spec.targetRefs[0].name"),
        PrinterColumn("Accepted", "string", '.status.ancestors[0].conditions[?(@.type=="Accepted")].status'),
        PrinterColumn("Enforced", "string", '.status.ancestors[0].conditions[?(@.type=="Enforced")].status'),
        AGE,
        PrinterColumn("Mode", "string", ".spec.mode", 1),
    ),
)

KINDS = (SERVER, SERVICE, CONNECTION, ACCESS_POLICY, *catalogue_kinds.KINDS)
