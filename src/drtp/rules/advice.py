"""What each condition says and what to do about it: the registry behind docs/operations/conditions and behind Events.

One topic for each aspect, one piece of advice for each reason that the aspect is concluded for. A test holds it against
the rules and controllers, both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drtp.api.meta import Condition, ConditionStatus
from drtp.api.reasons import Aspect, Reason
from drtp.rules import advice_catalogue
from drtp.rules.advice_catalogue import PUBLICATION
from drtp.rules.counsel import Advice, Speaks, Topic

SERVER = "DRTPServer"
CONNECTION = "DRTPConnection"
SERVICE = "DRTPService"
POLICY = "DRTPAccessPolicy"
BACKEND_TLS = "BackendTLSPolicy"
CLASS = "GatewayClass"
GATEWAY = "Gateway"
LISTENER_SET = "ListenerSet"
LISTENER = "listener"
ROUTE = "route"


_SERVICE = "kubectl describe drtpservice NAME -n NAMESPACE"
_CONNECTIONS = "kubectl get drtpconnections -n NAMESPACE -o wide"
_CONNECTION = "kubectl describe drtpconnection NAME -n NAMESPACE"
_SERVERS = "kubectl get drtpservers -o wide"
_GATEWAYS = "kubectl get gateways -A"
_LISTENERS = "kubectl get gateway NAME -n NAMESPACE -o yaml"
_SET = "kubectl describe listenerset NAME -n NAMESPACE"
_ROUTE = "kubectl describe httproute,tcproute,tlsroute -n NAMESPACE"
_GRANTS = "kubectl get referencegrants -n OTHER_NAMESPACE"
_POLICY = "kubectl describe drtpaccesspolicy NAME -n NAMESPACE"
_SUITS = "Nothing: this is as it should be."
_WAIT = "Wait a moment. If it stays, see the conditions that come before it on the object."

_ACCEPTED: dict[Reason, Advice] = {
    Reason.ACCEPTED: Advice(
        (SERVICE, POLICY, PUBLICATION, CLASS, GATEWAY, LISTENER_SET, LISTENER, ROUTE),
        "What the object asks for is in force. Of a route the message names hostnames that it does not get.",
        _SUITS,
    ),
    Reason.ADDRESS_CLAIMED: Advice(
        (SERVICE,),
        "`spec.expose.address` belongs to another service, or another tenant let go of it less than a day ago.",
        "Ask for another address, or leave it out and share one.",
        code="DRTP-6006",
    ),
    Reason.ADDRESS_NOT_CLAIMED: Advice(
        (LISTENER,),
        "The annotation `datumapis.com/address` names an address that this namespace has not been given.",
        "Have the address through `spec.expose.address` of a DRTPService, or drop the annotation.",
    ),
    Reason.ADDRESS_UNAVAILABLE: Advice(
        (SERVICE,),
        "`spec.expose.address` is not in the Gateway's pool of addresses to give away whole.",
        "Leave it out, or have the operator add it to `datumapis.com/dedicated-addresses` of the Gateway.",
        (_GATEWAYS,),
        "DRTP-6013",
    ),
    Reason.HOSTNAME_CLAIMED: Advice(
        (SERVICE, LISTENER, ROUTE),
        "The hostname belongs to another object or tenant, lies under or over another's, or is the operator's own.",
        "Choose another hostname; `spec.expose` without one has a free name vended.",
        ("kubectl get drtpservices,httproutes,tlsroutes,listenersets -n NAMESPACE",),
        "DRTP-6006",
    ),
    Reason.HOSTNAME_CONFLICT: Advice(
        (LISTENER,),
        "A listener that came before has this port and hostname.",
        "Give one of them another hostname or port; of two on one Gateway the first in order stands.",
    ),
    Reason.HOSTNAME_RESERVED: Advice(
        (SERVICE,),
        "The hostname is not a name that can be had: it is malformed, or its label is reserved.",
        "Choose another label; words such as `www`, `admin` or `api` are kept back.",
        code="DRTP-6006",
    ),
    Reason.INVALID: Advice(
        (POLICY,),
        "A part of the policy cannot be read, or not be held where the policy is to hold, so the whole policy denies.",
        "Mend what the message names. Networks are written as 203.0.113.0/24, without host bits; countries, `through`, "
        "`limits` and DryRun are for policies on a DRTPService that hold at tunnel servers (DRTP-6031).",
        (_POLICY,),
        "DRTP-6009",
    ),
    Reason.INVALID_PARAMETERS: Advice(
        (CLASS, GATEWAY, LISTENER),
        "The object refers to parameters, which DRTP does not read.",
        "Take `parametersRef` away; settings of gateways are arguments of `drtp gateway`.",
        (_LISTENERS, "kubectl get gatewayclasses"),
    ),
    Reason.LISTENERS_NOT_VALID: Advice(
        (GATEWAY, LISTENER_SET),
        "Some listeners do not stand (`True`), or none does (`False`).",
        "Look at the conditions of each listener in the status; each says why.",
        (_LISTENERS,),
    ),
    Reason.NOT_ALLOWED: Advice(
        (LISTENER_SET, LISTENER),
        "The Gateway takes no listeners from this namespace.",
        "Ask the operator to widen `spec.allowedListeners` of the Gateway.",
        (_LISTENERS,),
    ),
    Reason.NOT_ALLOWED_BY_LISTENERS: Advice(
        (ROUTE,),
        "No listener that the route aims at admits its kind or its namespace.",
        "Aim at another listener, or have `allowedRoutes` of the listener widened.",
        (_LISTENERS,),
    ),
    Reason.NO_MATCHING_LISTENER: Advice(
        (SERVICE,),
        "The Gateway has no port for TLS that a passthrough service could share.",
        "Name a Gateway that has a TLS or HTTPS listener, or leave `gatewayRef` out.",
        (_GATEWAYS,),
        "DRTP-6012",
    ),
    Reason.NO_MATCHING_LISTENER_HOSTNAME: Advice(
        (SERVICE, ROUTE),
        "No listener has the hostnames asked for. Of a service the message names those that there are.",
        "Use a hostname under one of the listeners', or have a listener added.",
        (_LISTENERS,),
        "DRTP-6018",
    ),
    Reason.NO_MATCHING_PARENT: Advice(
        (ROUTE,),
        "The parent has no listener of this `sectionName` and `port`.",
        "Correct `parentRefs`, or leave both out to attach to every listener that admits the route.",
        (_LISTENERS,),
    ),
    Reason.NO_SUCH_GATEWAY: Advice(
        (SERVICE,),
        "`spec.expose.gatewayRef` names no Gateway of DRTP's class.",
        "Leave it out to use the operator's Gateway, or name one that is there.",
        (_GATEWAYS,),
        "DRTP-6012",
    ),
    Reason.POOL_EXHAUSTED: Advice(
        (SERVICE,),
        "No free name or port was found.",
        "Ask for a particular one, or have the operator enlarge the pool.",
        code="DRTP-6013",
    ),
    Reason.PORT_CLAIMED: Advice(
        (SERVICE,),
        "The port belongs to another service, or another tenant let go of it less than a day ago.",
        "Ask for another port, or leave it out and have one vended.",
        code="DRTP-6006",
    ),
    Reason.PORT_UNAVAILABLE: Advice(
        (SERVICE, LISTENER),
        "The port is not one that can be had on a shared address, or it is not this namespace's.",
        "Choose a port of 10000-32767 that is free, or leave it out.",
        code="DRTP-6006",
    ),
    Reason.PROTOCOL_CONFLICT: Advice(
        (LISTENER,),
        "A listener that came before uses this port for another protocol.",
        "Move one of them to another port. HTTPS and TLS share one; TCP shares with nobody.",
    ),
    Reason.TARGET_NOT_FOUND: Advice(
        (POLICY,),
        "The object that the policy targets does not exist in its namespace.",
        "Correct `targetRefs`, or make the object.",
        ("kubectl get drtpservices -n NAMESPACE",),
    ),
    Reason.TARGET_NOT_SUPPORTED: Advice(
        (POLICY, BACKEND_TLS),
        "A DRTPAccessPolicy targets something else than a DRTPService, a Gateway or a route, or a BackendTLSPolicy "
        "targets a DRTPService: nothing carries it out there.",
        "Target the DRTPService behind it. For TLS to a local service use `spec.local.tls` and its agent's own trust.",
        (_POLICY,),
    ),
    Reason.UNREADABLE_ALLOWLIST: Advice(
        (SERVICE,),
        "A line of `spec.edgeAllowlist` cannot be read, so nobody is admitted.",
        "Write networks as 203.0.113.0/24, without host bits. The API refuses others; this one was stored before.",
        code="DRTP-6009",
    ),
    Reason.UNSUPPORTED_ADDRESS: Advice(
        (GATEWAY, LISTENER),
        "The Gateway asks for an address of a type that is not bound, so none of its listeners stands.",
        "Use addresses of type IPAddress, or none to have the shared ones.",
        (_LISTENERS,),
    ),
    Reason.UNSUPPORTED_PROTOCOL: Advice(
        (LISTENER,),
        "This protocol, or this protocol in this TLS mode, is not served.",
        "Use HTTP, HTTPS, TCP, UDP, or TLS in mode Passthrough.",
        code="DRTP-6008",
    ),
    Reason.UNSUPPORTED_VALUE: Advice(
        (GATEWAY, LISTENER, ROUTE),
        "The object, or every rule of the route, asks for something that this gateway does not carry out.",
        "Take away what the message names.",
        (_ROUTE,),
    ),
}

_CONFLICTED: dict[Reason, Advice] = {
    Reason.NO_CONFLICTS: Advice((LISTENER,), "No other listener is in the way.", _SUITS),
}

_CONNECTED: dict[Reason, Advice] = {
    Reason.AGENT_DISCONNECTED: Advice(
        (CONNECTION,),
        "The agent was connected and now has no tunnel to any of its servers.",
        "See that `datumctl serve` runs and that its network lets it dial out; `datumctl diagnose` there says more.",
        (_CONNECTION, _SERVERS),
        "DRTP-6007",
    ),
    Reason.CONNECTED: Advice((SERVICE, CONNECTION), "The agent has tunnels, and its local service answers.", _SUITS),
    Reason.CONNECTING: Advice(
        (SERVICE, CONNECTION),
        "The agent has registered and is on its way to its servers.",
        "Wait a moment; if it stays, the agent's own log names the server that it cannot reach.",
        (_CONNECTION,),
        "DRTP-6007",
        Speaks.NEVER,
    ),
    Reason.LOCAL_SERVICE_UNREACHABLE: Advice(
        (CONNECTION,),
        "The agent is there, but the local service does not answer it. The message has the agent's own words.",
        "Start the local service, or correct `spec.local`; try the same address on the agent's machine.",
        (_CONNECTION,),
        "DRTP-6005",
    ),
    Reason.NO_AGENT: Advice(
        (SERVICE,),
        "No agent has registered for the service, or those that had are gone for a day.",
        "Run `datumctl serve` beside the local service.",
        (_CONNECTIONS,),
        "DRTP-6010",
        Speaks.LATER,
    ),
    Reason.TARGET_REFUSED: Advice(
        (CONNECTION,),
        "The agent was started for another target than the service names, or for an address that is never dialled.",
        "Start the agent for the target in `spec.local`, or change the service to the agent's target.",
        (_CONNECTION,),
        "DRTP-4012",
    ),
}

_ENFORCED: dict[Reason, Advice] = {
    Reason.DRY_RUN: Advice(
        (POLICY,),
        "The policy refuses nobody: `spec.mode` is DryRun. Tunnel servers count whom it would refuse.",
        "Read `drtp_pop_streams_would_refuse` of the POPs, ask `datumctl policy test`; then set the mode to Enforce.",
        (_POLICY,),
    ),
    Reason.ENFORCED: Advice((POLICY,), "Every live enforcement point has this generation of the policy.", _SUITS),
    Reason.NOTHING_TO_ENFORCE: Advice(
        (POLICY,),
        "No connection and no public place of the service is live, so no point has to hold it yet.",
        "Nothing: it is enforced as soon as there is one.",
        (_CONNECTIONS,),
        speaks=Speaks.LATER,
    ),
    Reason.PENDING: Advice(
        (POLICY,),
        "The points that the message names have not confirmed this generation. What they had before still holds.",
        "Wait a moment; if it stays, that POP or gateway is cut off or refuses the entry: its log says why.",
        (_SERVERS,),
        speaks=Speaks.NEVER,
    ),
    Reason.UNSUPPORTED_VALUE: Advice(
        (POLICY,),
        "A tunnel server's program is older than `limits.bytesPerSecond` and passes it over. The rules hold there.",
        "The operator updates the POPs that the message names.",
        (_SERVERS,),
    ),
}

_EXPOSED: dict[Reason, Advice] = {
    Reason.DISABLED: Advice(
        (SERVICE,),
        "`spec.enabled` is false: visitors are refused, name and port stay reserved.",
        "Run `datumctl enable NAME` to admit visitors.",
        speaks=Speaks.LATER,
    ),
    Reason.EXPOSED: Advice((SERVICE,), "Every gateway has confirmed the places that the message names.", _SUITS),
    Reason.GATEWAY_FAILED: Advice(
        (SERVICE,),
        "The gateway refused or could not bind what it was told. The message has its words where they are yours alone.",
        "Correct what it names; the operator's gateway log has more.",
        (_ROUTE,),
        "DRTP-6011",
    ),
    Reason.GATEWAY_LOST: Advice(
        (SERVICE,),
        "No gateway has been heard of for 15 s; whether visitors are received is not known.",
        "The operator looks at `drtp gateway`, its log, and its way to the control plane.",
        code="DRTP-6011",
    ),
    Reason.NOT_REQUESTED: Advice(
        (SERVICE,),
        "Neither `spec.expose` nor a route asks for a public address.",
        "Nothing, if that is meant; else add `spec.expose: {}`.",
        speaks=Speaks.LATER,
    ),
    Reason.PENDING: Advice((SERVICE,), "The public address is being prepared.", _WAIT, speaks=Speaks.NEVER),
    Reason.PROGRAMMING: Advice(
        (SERVICE,), "The gateway has not confirmed the public address yet.", _WAIT, speaks=Speaks.NEVER
    ),
}

_PARTIALLY_INVALID: dict[Reason, Advice] = {
    Reason.UNSUPPORTED_VALUE: Advice(
        (SERVICE, ROUTE),
        "What the message names is not carried out: rules of a route answer 500 and others serve; matches and parts of "
        "`spec.expose` are left out.",
        "Take away what the message names.",
        (_ROUTE, _SERVICE),
    ),
}

_PROGRAMMED: dict[Reason, Advice] = {
    Reason.ENDPOINT_FAILED: Advice(
        (CONNECTION,),
        "A POP could not open the endpoint where gateways reach this connection.",
        "The message says why; often the POP's port range is used up.",
        (_CONNECTION, _SERVERS),
        "DRTP-6004",
    ),
    Reason.INVALID: Advice(
        (GATEWAY, LISTENER_SET, LISTENER),
        "The listener does not stand, its certificate cannot be used, or the gateway could not bind it.",
        "See `Accepted` and `ResolvedRefs` of the listener; if both are True, the message is the gateway's.",
        (_LISTENERS,),
        "DRTP-6011",
    ),
    Reason.PARTLY_PROGRAMMED: Advice(
        (CONNECTION,), "Some of the assigned servers have an endpoint, others not yet.", _WAIT, (_CONNECTION,)
    ),
    Reason.PENDING: Advice(
        (GATEWAY, LISTENER_SET, LISTENER),
        "The gateways have not confirmed it.",
        "Wait a moment; if it stays, see that a gateway runs and is connected.",
        speaks=Speaks.NEVER,
    ),
    Reason.PROGRAMMED: Advice(
        (CONNECTION, GATEWAY, LISTENER_SET, LISTENER), "Whoever has to carry it out has confirmed it.", _SUITS
    ),
    Reason.PROGRAMMING: Advice(
        (CONNECTION,),
        "No tunnel server has opened an endpoint yet.",
        _WAIT,
        (_CONNECTION, _SERVERS),
        speaks=Speaks.NEVER,
    ),
}

_READY: dict[Reason, Advice] = {
    Reason.CORDONED: Advice(
        (SERVER,),
        "`spec.unschedulable` is set: the server serves what it has and takes nothing new.",
        "Clear it when the server shall take agents again.",
        (_SERVERS,),
    ),
    Reason.DEGRADED: Advice(
        (SERVICE, CONNECTION),
        "Visitors are served, over fewer tunnels than `spec.serverCount`: losing one more may lose visitors.",
        "Wait for a server to come back, or have the operator add a POP in another failure domain.",
        (_CONNECTIONS, _SERVERS),
        "DRTP-6003",
    ),
    Reason.DISABLED: Advice(
        (SERVICE, CONNECTION),
        "`spec.enabled` of the service is false: tunnels stay, visitors are refused.",
        "Run `datumctl enable NAME` to admit visitors.",
        speaks=Speaks.LATER,
    ),
    Reason.DRAINING: Advice(
        (SERVER,), "The server is stopping on purpose; its agents are moving away.", "Nothing.", (_SERVERS,)
    ),
    Reason.LEASE_EXPIRED: Advice(
        (SERVER,),
        "Nothing was heard from the server for 15 s.",
        "Look at the POP's process, its log, and its way to the control plane.",
        (_SERVERS, "kubectl get leases -n datum-system"),
        "DRTP-6001",
    ),
    Reason.READY: Advice(
        (SERVER, CONNECTION, SERVICE, *advice_catalogue.ALL), "It works: a visitor would be served.", _SUITS
    ),
    Reason.REGISTERING: Advice((SERVER,), "The server has enrolled and has not reported yet.", _WAIT),
    Reason.REVOKED: Advice(
        (SERVER,),
        "The identity of its POP was revoked, or locked as a copy: agents leave it, gateways send nobody there.",
        "Delete the server, or join it anew with a fresh secret if that is meant.",
        (_SERVERS,),
        "DRTP-2006",
    ),
    Reason.SERVICE_NOT_FOUND: Advice(
        (CONNECTION, *advice_catalogue.ALL),
        "The service that this connection or publication is for does not exist.",
        "Make the service again, or delete the publication; a connection is collected a day after its agent is gone.",
        (_CONNECTION, advice_catalogue.LOOK_PUBLICATION),
    ),
    Reason.UNHEALTHY: Advice(
        (SERVER,),
        "The server reports a health under 50 of 100: it is short of memory, descriptors or time.",
        "See what presses its machine; agents are moved to others meanwhile.",
        (_SERVERS,),
        "DRTP-6001",
    ),
}

_RESOLVED_REFS: dict[Reason, Advice] = {
    Reason.BACKEND_NOT_FOUND: Advice(
        (ROUTE,),
        "A DRTPService that the route leads to does not exist; its visitors get 500 or a reset.",
        "Correct the name, or make the service.",
        ("kubectl get drtpservices -n NAMESPACE",),
    ),
    Reason.INVALID_CERTIFICATE_REF: Advice(
        (LISTENER,),
        "The Secret does not exist, is no certificate with its key, or does not cover the listener's hostname.",
        "Make a Secret of type `kubernetes.io/tls` whose certificate names the listener's hostname.",
        ("kubectl get secrets -n NAMESPACE",),
    ),
    Reason.INVALID_KIND: Advice(
        (ROUTE,),
        "A backend is something else than a DRTPService.",
        "Use `group: datumapis.com`, `kind: DRTPService`.",
        (_ROUTE,),
    ),
    Reason.INVALID_ROUTE_KINDS: Advice(
        (LISTENER,),
        "A kind in `allowedRoutes` is not one that a listener of this protocol takes.",
        "Take it away; `supportedKinds` in the status names those that count.",
        (_LISTENERS,),
    ),
    Reason.REF_NOT_PERMITTED: Advice(
        (LISTENER, ROUTE),
        "A reference leads to another namespace, and nothing there permits it. Whether it is there is not said.",
        "Ask its owner for a ReferenceGrant to your namespace and kind, or refer to something of your own.",
        (_GRANTS,),
        "DRTP-6020",
    ),
    Reason.RESOLVED_REFS: Advice((LISTENER, ROUTE), "Everything referred to exists and may be used.", _SUITS),
    Reason.UNSUPPORTED_PROTOCOL: Advice(
        (ROUTE,),
        "A route of this kind cannot carry what the service speaks.",
        "Use the kind of route for the service's protocol: HTTPRoute, TLSRoute, TCPRoute or UDPRoute.",
        (_ROUTE,),
    ),
}

_SCHEDULED: dict[Reason, Advice] = {
    Reason.DEGRADED: Advice(
        (CONNECTION,),
        "Fewer servers than `spec.serverCount` of the service can be had in different failure domains.",
        "Have the operator add a POP in another failure domain, or uncordon one.",
        (_SERVERS,),
        "DRTP-6003",
    ),
    Reason.NO_SERVER_ALLOWED: Advice(
        (CONNECTION,),
        "Access policies name the POPs that may carry the bytes (`through`), and none of those takes connections.",
        "Widen `through`, or ask the operator for a POP there.",
        (_SERVERS,),
        "DRTP-6030",
    ),
    Reason.NO_SERVERS: Advice(
        (CONNECTION,),
        "No healthy tunnel server takes connections.",
        "The operator starts or uncordons a POP.",
        (_SERVERS,),
        "DRTP-6002",
    ),
    Reason.SCHEDULED: Advice((CONNECTION,), "The connection has its tunnel servers.", _SUITS),
    Reason.SERVICE_NOT_FOUND: Advice(
        (CONNECTION,),
        "The service that this connection is for does not exist.",
        "Make the service again, or stop the agent; the connection is collected a day after.",
        (_CONNECTION,),
    ),
}

_SECRET_REPLAYED: dict[Reason, Advice] = {
    Reason.SECRET_REPLAYED: Advice(
        (SERVICE,),
        "A spent one-time secret of the service was presented again, by another key. It was refused; agents go on.",
        "Find out who has it. The condition goes with the record of that secret.",
        ("kubectl get events -n NAMESPACE --field-selector reason=SecretReplayed",),
        "DRTP-2002",
    ),
}

_CERTIFICATE_ENDING: dict[Reason, Advice] = {
    Reason.RENEWAL_FAILS: Advice(
        (SERVER, CONNECTION),
        "The edge is connected, and its certificate is in the last third of its life: renewals have failed for hours.",
        "Look at the edge's log for `renewal failed`: most often its disk is full. It works until then.",
        (_SERVERS, _CONNECTION),
        "DRTP-2048",
    ),
}

TOPICS: Mapping[Aspect, Topic] = {
    Aspect.ACCEPTED: Topic(
        "Whether what the object asks for can be had.",
        _ACCEPTED | advice_catalogue.ACCEPTED,
        (_SERVICE, _SET, _ROUTE),
    ),
    Aspect.APPROVED: advice_catalogue.TOPIC,
    Aspect.CERTIFICATE_ENDING: Topic(
        "There only while the certificate of a connected edge ends without having been renewed.",
        _CERTIFICATE_ENDING,
        (_SERVERS, _CONNECTION),
        ConditionStatus.FALSE,
    ),
    Aspect.CONFLICTED: Topic(
        "Whether another listener is in the way.",
        _CONFLICTED,
        (_LISTENERS, _SET),
        ConditionStatus.FALSE,
        (Aspect.ACCEPTED,),
    ),
    Aspect.CONNECTED: Topic(
        "Whether an agent is there, and its local service.",
        _CONNECTED,
        (_SERVICE, _CONNECTIONS),
        passes_on=(Aspect.SCHEDULED,),
    ),
    Aspect.ENFORCED: Topic(
        "Whether a policy holds at every live point.", _ENFORCED, (_POLICY,), passes_on=(Aspect.ACCEPTED,)
    ),
    Aspect.EXPOSED: Topic(
        "Whether gateways receive visitors for the service.", _EXPOSED, (_SERVICE,), passes_on=(Aspect.ACCEPTED,)
    ),
    Aspect.PARTIALLY_INVALID: Topic(
        "There only while a part of the object is left out.", _PARTIALLY_INVALID, (_ROUTE,), ConditionStatus.FALSE
    ),
    Aspect.PROGRAMMED: Topic(
        "Whether the part that carries it out has it.",
        _PROGRAMMED,
        (_CONNECTION, _LISTENERS, _SET),
        passes_on=(Aspect.ACCEPTED,),
    ),
    Aspect.READY: Topic(
        "The conclusion of all others: whether a visitor would be served, or a server takes agents.",
        _READY | advice_catalogue.READY,
        (_SERVICE, _CONNECTIONS, _SERVERS),
        passes_on=(Aspect.ACCEPTED, Aspect.CONNECTED, Aspect.EXPOSED, Aspect.SCHEDULED, Aspect.PROGRAMMED),
    ),
    Aspect.RESOLVED_REFS: Topic(
        "Whether everything referred to exists and may be used.", _RESOLVED_REFS, (_ROUTE, _LISTENERS, _SET)
    ),
    Aspect.SCHEDULED: Topic("Whether a connection has its tunnel servers.", _SCHEDULED, (_CONNECTION, _SERVERS)),
    Aspect.SECRET_REPLAYED: Topic(
        "There only while somebody is known to have a spent secret.",
        _SECRET_REPLAYED,
        (_SERVICE,),
        ConditionStatus.FALSE,
    ),
}


def find(aspect: str, reason: str) -> Advice | None:
    """The advice for a condition, its own or one that it passes on; None for words of another version."""
    topic = next((known for one, known in TOPICS.items() if one == aspect), None)
    if topic is None:
        return None
    for passed in _sources(topic):
        for known, advice in passed.reasons.items():
            if known == reason:
                return advice
    return None


def _sources(topic: Topic) -> Iterator[Topic]:
    yield topic
    for aspect in topic.passes_on:
        yield from _sources(TOPICS[aspect])


def is_bad(condition: Condition) -> bool:
    """Whether somebody has to act, or to wait; a condition of another version is bad where it is not True."""
    good = next((topic.good for one, topic in TOPICS.items() if one == condition.type), ConditionStatus.TRUE)
    return condition.status not in {good, ConditionStatus.UNKNOWN}
