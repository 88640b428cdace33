"""How Kubernetes' own kinds are named and shown, as kubectl's users know them."""

from __future__ import annotations

from drtp.api import core, internal
from drtp.api.kinds import AGE, KindInfo, PrinterColumn

KINDS = (
    KindInfo(
        kind="Namespace",
        group="",
        version="v1",
        plural="namespaces",
        singular="namespace",
        namespaced=False,
        short_names=("ns",),
        model=core.Namespace,
        status_subresource=True,
        printer_columns=(PrinterColumn("Status", "string", ".status.phase"), AGE),
    ),
    KindInfo(
        kind="Service",
        group="",
        version="v1",
        plural="services",
        singular="service",
        short_names=("svc",),
        categories=("all",),
        model=core.Service,
        status_subresource=True,
        printer_columns=(
            PrinterColumn("Type", "string", ".spec.type"),
            PrinterColumn("Cluster-IP", "string", ".spec.clusterIP"),
            PrinterColumn("Port(s)", "string", ".spec.ports[*].port"),
            AGE,
        ),
    ),
    KindInfo(
        kind="Secret",
        group="",
        version="v1",
        plural="secrets",
        singular="secret",
        model=core.Secret,
        printer_columns=(
            PrinterColumn("Type", "string", ".type"),
            PrinterColumn("Data", "integer", ".data"),
            AGE,
        ),
        selectable_fields=(".type",),
    ),
    KindInfo(
        kind="ConfigMap",
        group="",
        version="v1",
        plural="configmaps",
        singular="configmap",
        short_names=("cm",),
        model=core.ConfigMap,
        printer_columns=(PrinterColumn("Data", "integer", ".data"), AGE),
    ),
    KindInfo(
        kind="ServiceAccount",
        group="",
        version="v1",
        plural="serviceaccounts",
        singular="serviceaccount",
        short_names=("sa",),
        model=core.ServiceAccount,
    ),
    KindInfo(
        kind="ResourceQuota",
        group="",
        version="v1",
        plural="resourcequotas",
        singular="resourcequota",
        short_names=("quota",),
        model=core.ResourceQuota,
        status_subresource=True,
        printer_columns=(PrinterColumn("Request", "string", ".status.used"), AGE),
    ),
    KindInfo(
        kind="Event",
        group="",
        version="v1",
        plural="events",
        singular="event",
        short_names=("ev",),
        model=core.Event,
        printer_columns=(
            PrinterColumn("Last Seen", "date", ".lastTimestamp"),
            PrinterColumn("Type", "string", ".type"),
            PrinterColumn("Reason", "string", ".reason"),
            PrinterColumn("Object", "string", ".involvedObject"),
            PrinterColumn("Message", "string", ".message"),
        ),
        selectable_fields=(
            ".involvedObject.kind",
            ".involvedObject.namespace",
            ".involvedObject.name",
            ".involvedObject.uid",
            ".involvedObject.apiVersion",
            ".involvedObject.resourceVersion",
            ".involvedObject.fieldPath",
            ".reason",
            ".reportingComponent",
            ".source",
            ".type",
        ),
    ),
    KindInfo(
        kind="Lease",
        group="coordination.k8s.io",
        version="v1",
        plural="leases",
        singular="lease",
        model=core.Lease,
        printer_columns=(PrinterColumn("Holder", "string", ".spec.holderIdentity"), AGE),
    ),
    KindInfo(
        kind="EndpointSlice",
        group="discovery.k8s.io",
        version="v1",
        plural="endpointslices",
        singular="endpointslice",
        model=core.EndpointSlice,
        printer_columns=(
            PrinterColumn("AddressType", "string", ".addressType"),
            PrinterColumn("Ports", "string", ".ports[*].port"),
            PrinterColumn("Endpoints", "string", ".endpoints[*].addresses[0]"),
            AGE,
        ),
    ),
)

INTERNAL = tuple(
    KindInfo(
        kind=model.__name__.removesuffix("Record"),
        group=internal.GROUP,
        version=internal.VERSION,
        plural=plural,
        singular=model.__name__.removesuffix("Record").lower(),
        namespaced=False,
        model=model,
        internal=True,
    )
    for plural, model in (
        ("enrolmentsecrets", internal.EnrolmentSecret),
        ("edgeidentities", internal.EdgeIdentity),
        ("accounts", internal.Account),
        ("apitokens", internal.ApiToken),
        ("logins", internal.Login),
        ("claims", internal.Claim),
        ("signins", internal.SignInRecord),
    )
)
"""Known to stores and views, served by no API."""
