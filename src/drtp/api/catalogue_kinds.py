"""How the catalogue's kinds are named and shown."""

from __future__ import annotations

from drtp.api import catalogue, drtp
from drtp.api.kinds import AGE, KindInfo, PrinterColumn, condition_column

_CATEGORIES = ("drtp", "datum")
_REASON = PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Approved")].reason', 1)
_STATE = PrinterColumn("State", "string", ".status.state")
_EXPIRES = PrinterColumn("Expires", "string", ".status.expires", 1)

PUBLICATION = KindInfo(
    kind="DRTPPublication",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtppublications",
    singular="drtppublication",
    short_names=("drtppub",),
    categories=_CATEGORIES,
    model=catalogue.DRTPPublication,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Service", "string", ".spec.serviceRef.name"),
        PrinterColumn("Visibility", "string", ".spec.visibility"),
        PrinterColumn("Access", "string", ".spec.access.mode"),
        PrinterColumn("Subscribers", "integer", ".status.subscribers"),
        PrinterColumn("Pending", "integer", ".status.pending"),
        condition_column("Ready"),
        AGE,
        PrinterColumn("Scope", "string", ".spec.scope", 1),
        PrinterColumn("Title", "string", ".spec.title", 1),
    ),
)

SUBSCRIPTION = KindInfo(
    kind="DRTPSubscription",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpsubscriptions",
    singular="drtpsubscription",
    short_names=("drtpsub",),
    categories=_CATEGORIES,
    model=catalogue.DRTPSubscription,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Publication", "string", ".spec.publicationRef.name"),
        PrinterColumn("From", "string", ".spec.publicationRef.namespace"),
        _STATE,
        condition_column("Ready"),
        PrinterColumn("Connect", "string", ".status.connect"),
        AGE,
        _REASON,
        _EXPIRES,
    ),
    selectable_fields=(".spec.publicationRef.namespace", ".spec.publicationRef.name"),
)

APPROVAL = KindInfo(
    kind="DRTPApproval",
    group=drtp.GROUP,
    version=drtp.VERSION,
    plural="drtpapprovals",
    singular="drtpapproval",
    short_names=("drtpapp",),
    categories=_CATEGORIES,
    model=catalogue.DRTPApproval,
    status_subresource=True,
    printer_columns=(
        PrinterColumn("Publication", "string", ".spec.publicationRef.name"),
        PrinterColumn("Organization", "string", ".status.organization"),
        PrinterColumn("Project", "string", ".spec.subscriber.namespace"),
        PrinterColumn("Decision", "string", ".spec.decision"),
        _STATE,
        AGE,
        PrinterColumn("Purpose", "string", ".status.purpose", 1),
        _EXPIRES,
    ),
    selectable_fields=(".spec.publicationRef.name", ".spec.subscriber.namespace"),
)

ENTRY = KindInfo(
    kind="CatalogEntry",
    group=catalogue.CATALOG_GROUP,
    version="v1alpha",
    plural="catalogentries",
    singular="catalogentry",
    short_names=("catalog",),
    model=catalogue.CatalogEntry,
    computed=True,
    printer_columns=(
        PrinterColumn("Title", "string", ".spec.title"),
        PrinterColumn("Organization", "string", ".spec.organization"),
        PrinterColumn("Protocol", "string", ".spec.protocol"),
        PrinterColumn("Access", "string", ".spec.access"),
        PrinterColumn("State", "string", ".status.state"),
        PrinterColumn("Ready", "boolean", ".status.ready"),
        PrinterColumn("Connect", "string", ".status.connect"),
        AGE,
        PrinterColumn("Address", "string", ".status.address", 1),
        PrinterColumn("Scope", "string", ".spec.scope", 1),
    ),
    selectable_fields=(".spec.publicationRef.namespace", ".spec.organization", ".status.state"),
)

KINDS = (PUBLICATION, SUBSCRIPTION, APPROVAL)
"""Stored: each has a CustomResourceDefinition."""
