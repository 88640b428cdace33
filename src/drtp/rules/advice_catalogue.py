"""What the catalogue's conditions say and what to do about them: a part of the registry in `rules/advice.py`."""

from __future__ import annotations

from drtp.api.reasons import Reason
from drtp.rules.counsel import Advice, Speaks, Topic

PUBLICATION = "DRTPPublication"
SUBSCRIPTION = "DRTPSubscription"
APPROVAL = "DRTPApproval"
ALL = (PUBLICATION, SUBSCRIPTION, APPROVAL)
_BOTH = (SUBSCRIPTION, APPROVAL)

LOOK_PUBLICATION = "kubectl describe drtppublication NAME -n NAMESPACE"
_SUBSCRIPTION = "kubectl describe drtpsubscription NAME -n NAMESPACE"
_APPROVALS = "kubectl get drtpapprovals -n NAMESPACE -o wide"
_CATALOG = "kubectl get catalogentries -n NAMESPACE"
_SUITS = "Nothing: this is as it should be."

ACCEPTED: dict[Reason, Advice] = {
    Reason.ALSO_PUBLIC: Advice(
        (PUBLICATION,),
        "The publication says `scope: Private`, and the service has a public address of its own all the same.",
        "Take `spec.expose` off the service, or say `scope: Public`.",
        (LOOK_PUBLICATION,),
    ),
    Reason.SERVICE_NOT_FOUND: Advice(
        (PUBLICATION,),
        "The service that is offered does not exist, so others do not see the publication.",
        "Make the service, or delete the publication.",
        (LOOK_PUBLICATION,),
        "DRTP-6056",
    ),
}

READY: dict[Reason, Advice] = {
    Reason.NOT_APPROVED: Advice(
        _BOTH,
        "The subscription is not approved, so nothing is said of the service.",
        "See the condition `Approved`.",
        (_SUBSCRIPTION,),
        speaks=Speaks.NEVER,
    ),
    Reason.NOT_EXPOSED: Advice(
        ALL,
        "The publication says `scope: Public`, and the service has no public address yet.",
        "Give the service `spec.expose`, or wait until its address is there.",
        (LOOK_PUBLICATION,),
        speaks=Speaks.LATER,
    ),
    Reason.SERVICE_NOT_READY: Advice(
        ALL,
        "The service would not answer now; the message has the reason of its own condition `Ready`.",
        "The publisher looks at the service. A subscriber waits, or asks the publisher.",
        (LOOK_PUBLICATION, _SUBSCRIPTION),
        speaks=Speaks.NEVER,
    ),
}

_APPROVED: dict[Reason, Advice] = {
    Reason.APPROVED: Advice(_BOTH, "The publisher has approved the subscription.", _SUITS),
    Reason.EXPIRED: Advice(
        _BOTH,
        "A date has passed: the subscription's own `spec.expires`, or the one that the publisher gave the approval.",
        "The message says whose date. The publisher can move the approval's; else subscribe again.",
        code="DRTP-6053",
    ),
    Reason.LISTED: Advice(_BOTH, "The publisher's list names the organisation or the project.", _SUITS),
    Reason.NOT_LISTED: Advice(
        _BOTH,
        "The publication is for those on the publisher's list, and the organisation or project is not on it.",
        "Ask the publisher to add your organisation to `spec.access.allowed`, or to approve this subscription.",
        code="DRTP-6054",
    ),
    Reason.OPEN: Advice(_BOTH, "The publication is open to all who see it.", _SUITS),
    Reason.PENDING: Advice(
        _BOTH,
        "The publisher has not decided yet.",
        "Wait. The publisher runs `datumctl catalog approve PUBLICATION PROJECT`, or `reject`.",
        (_SUBSCRIPTION, _APPROVALS),
        speaks=Speaks.NEVER,
    ),
    Reason.PUBLICATION_NOT_FOUND: Advice(
        (SUBSCRIPTION,),
        "There is no such publication, or it is not for the project to see: which of the two is not said.",
        "See what there is with `datumctl catalog list`, or ask the publisher to put your organisation on the list.",
        (_CATALOG,),
        "DRTP-6050",
    ),
    Reason.REJECTED: Advice(
        _BOTH,
        "The publisher has said no; the message has the reason that was given.",
        "Speak with the publisher. A rejected subscription can be approved later.",
        code="DRTP-6051",
    ),
    Reason.REVOKED: Advice(
        _BOTH,
        "The publisher has taken the approval back; live connections are cut.",
        "Speak with the publisher. What is revoked can be approved again.",
        code="DRTP-6052",
    ),
    Reason.TOO_MANY_SUBSCRIPTIONS: Advice(
        (SUBSCRIPTION,),
        "The project has as many subscriptions to this publication as one project may.",
        "Delete one that is not needed, or use one that is there.",
        (_SUBSCRIPTION,),
        "DRTP-6055",
    ),
    Reason.WITHDRAWN: Advice(
        _BOTH,
        "The subscription was approved, and its publication is gone or no longer for the project to see.",
        "Speak with the publisher, or delete the subscription.",
        code="DRTP-6052",
    ),
}

TOPIC = Topic(
    "Whether the publisher lets the subscriber use the service. Both sides read the same.",
    _APPROVED,
    (_SUBSCRIPTION, _APPROVALS),
)
