"""The registry of error codes: what happened and what to do. The error pages are generated from it.

Blocks: 1000 API and validation; 2000 identity and enrolment; 3000 feed and edges; 4000 tunnel and agent;
5000 gateway; 6000 conditions that controllers conclude; 7000 commands and supervisor.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """One code's page: a short title, what happened, what to do."""

    title: str
    what: str
    remedy: str


API: dict[str, Code] = {
    "DRTP-1001": Code("Not found", "There is no such object.", "Check the name and the namespace."),
    "DRTP-1002": Code("Already exists", "An object of this name exists.", "Choose another name, or update the object."),
    "DRTP-1003": Code("Conflict", "The object has changed since it was read.", "Read it again and repeat the change."),
    "DRTP-1004": Code("Expired", "The history asked for is gone.", "List again and watch from the new version."),
    "DRTP-1005": Code(
        "Malformed object", "The object lacks what every object has.", "Give apiVersion, kind and metadata.name."
    ),
    "DRTP-1006": Code(
        "Store cannot write",
        "A change could not be made durable.",
        "Make room on the disk of the control plane's data directory, or check its health; then repeat the change. "
        "Reading, edges and visitors go on meanwhile, and no restart is needed.",
    ),
    "DRTP-1007": Code(
        "Store in use", "Another process uses this data directory.", "Stop it, or use another directory."
    ),
    "DRTP-1008": Code(
        "Store unusable",
        "The store's file is damaged, or is not a store.",
        "Restore a backup with `drtp restore`, or move the file away to start empty.",
    ),
    "DRTP-1009": Code(
        "Store too new",
        "A newer version of DRTP has written this store.",
        "Run that version or a newer one, or restore the copy made before the migration.",
    ),
    "DRTP-1010": Code("Invalid object", "The object breaks its kind's rules.", "Correct every fault listed."),
    "DRTP-1011": Code(
        "Not signed in", "The request proves no identity.", "Give a valid token or client certificate; tokens expire."
    ),
    "DRTP-1012": Code("Not allowed", "You may not do this.", "Ask the owner of the project or the operator."),
    "DRTP-1013": Code(
        "Unknown path or kind", "The API serves nothing there.", "Look at `kubectl api-resources` for what there is."
    ),
    "DRTP-1014": Code(
        "Unreadable body",
        "The body could not be read as the content type it names.",
        "Send JSON, or what kubectl sends.",
    ),
    "DRTP-1015": Code("Body too large", "The body is larger than the API takes.", "Send less than the limit named."),
    "DRTP-1016": Code(
        "Unsupported content type",
        "The API does not take this kind of body here.",
        "Use client-side apply or one of the patch types named.",
    ),
    "DRTP-1017": Code(
        "Wrong parameter", "A parameter of the request has a value that is not taken.", "Correct the parameter named."
    ),
    "DRTP-1018": Code("Method not taken", "The resource does not take this method.", "Use another verb."),
    "DRTP-1019": Code(
        "Namespace is going away", "The namespace is being deleted.", "Wait until it is gone, then make it again."
    ),
    "DRTP-1020": Code(
        "Too many requests", "This connection or caller has too many requests open.", "Close some, or try again later."
    ),
    "DRTP-1021": Code("Failure inside", "The API failed by its own fault.", "Try again; if it lasts, see its log."),
    "DRTP-1030": Code(
        "More than you have",
        "A role or binding would give a permission that you do not hold yourself.",
        "Give less, or ask somebody who holds it; `kubectl auth can-i --list` shows what you hold.",
    ),
    "DRTP-1031": Code(
        "No token of this user",
        "The user is in groups, such as the operator's, or was revoked: the API makes no token for such users, nor "
        "does it revoke those in groups.",
        "For users in groups use the control plane's operator socket; for a revoked one `datumctl create user "
        "--reinstate`.",
    ),
    "DRTP-1040": Code(
        "Entry not known here",
        "The other side sent an entry or a report that this version cannot read. It is left out; the others go on.",
        "Upgrade the older part.",
    ),
}

IDENTITY: dict[str, Code] = {
    "DRTP-2001": Code(
        "Enrolment refused",
        "The enrolment was refused.",
        "Make a new secret and use it within its lifetime, from an allowed address; secrets made before a restore are "
        "void. The log of the control plane says which check failed.",
    ),
    "DRTP-2002": Code(
        "Secret used already",
        "This one-time secret has been used by another key as often as it may be.",
        "Make a new secret. If you did not use the old one, somebody else did: revoke what enrolled with it.",
    ),
    "DRTP-2003": Code(
        "Too many attempts", "Too many attempts come from this address.", "Wait a minute and try again, less often."
    ),
    "DRTP-2004": Code(
        "Token not accepted", "The token is unknown, expired or revoked.", "Log in again, or make a new token."
    ),
    "DRTP-2005": Code(
        "Not allowed for this service",
        "You may not change one of the services named.",
        "Check the namespace and the names, or ask an owner of the namespace.",
    ),
    "DRTP-2006": Code(
        "Identity revoked",
        "This identity was revoked.",
        "Enrol again with a new secret, in an empty state directory.",
    ),
    "DRTP-2007": Code(
        "Identity locked",
        "An older certificate of this identity was used after a newer one: its key may have been copied.",
        "Find out where the state directory was copied to, then enrol again with a new secret.",
    ),
    "DRTP-2008": Code(
        "Identity unknown",
        "The control plane does not know this identity.",
        "If its database was restored from a backup older than this identity, enrol again with a new secret, in an "
        "empty state directory; until then the edge goes on by its last snapshot.",
    ),
    "DRTP-2009": Code(
        "Certificate expired too long ago",
        "The certificate expired longer ago than the grace period.",
        "Enrol again with a new secret.",
    ),
    "DRTP-2010": Code(
        "No identity in the certificate",
        "The certificate does not carry exactly one identity of the expected role.",
        "Use the certificate that enrolment gave.",
    ),
    "DRTP-2011": Code("Key not accepted", "The key is not ECDSA P-256.", "Let the agent make its own key."),
    "DRTP-2012": Code(
        "Certificate request not accepted",
        "The certificate request cannot be read, or its signature is wrong.",
        "Let the agent make its own request.",
    ),
    "DRTP-2013": Code(
        "Secret cannot be read",
        "The secret is not of the form drtp_enr_...@host:port#pin, or a character is wrong.",
        "Copy the whole string again.",
    ),
    "DRTP-2014": Code(
        "Wrong certificate authority",
        "The control plane's authority does not have the fingerprint that the secret or context names.",
        "Check the address. If it is right, the root was rotated long ago, and a new secret or context is needed; or "
        "somebody stands between you and the control plane.",
    ),
    "DRTP-2015": Code(
        "Not enrolled", "There is no identity in the state directory.", "Enrol with a secret or as a logged-in user."
    ),
    "DRTP-2016": Code(
        "Request too large", "The request is larger than an enrolment can be.", "Send less; the cap is 64 KiB."
    ),
    "DRTP-2017": Code(
        "Service gone",
        "The service that this secret or identity was made for is gone.",
        "Run `datumctl serve` with its target again, which makes the service anew; an agent by secret needs a new "
        "secret and an empty state directory.",
    ),
    "DRTP-2018": Code(
        "Renewal too often", "The certificate was renewed a moment ago.", "Nothing: the edge asks again by itself."
    ),
    "DRTP-2019": Code(
        "Audit log damaged",
        "The audit log is not the unbroken chain it was written as.",
        "Keep the file for examination, move it away, and start again.",
    ),
    "DRTP-2020": Code(
        "Secret request not valid",
        "A secret cannot be made with these values.",
        "Correct the number of uses, the lifetime or the source networks.",
    ),
    "DRTP-2041": Code(
        "Audit log broken",
        "The audit log is not the unbroken chain it was written as.",
        "Keep the files for examination. What is before the place named holds; compare the rest with exports and with "
        "the heads in logs and metrics.",
    ),
    "DRTP-2042": Code(
        "Audit log moved on",
        "The place in the audit log where this answer was to go on is gone: its file was rotated away.",
        "Ask again from the beginning, for fewer lines or a shorter time.",
    ),
    "DRTP-2050": Code(
        "Too many of a kind",
        "This caller has as many connectors, or this project as many tokens of programs or open invitations, as may "
        "be.",
        "Delete what is not needed any more, or wait: each ends by itself.",
    ),
    "DRTP-2051": Code(
        "Too many changes",
        "An edge says of itself something else each time it connects.",
        "Nothing has to be done: it is let in again in a minute. If it lasts, see whether two programs use one state "
        "directory.",
    ),
    "DRTP-2048": Code(
        "Certificate ends",
        "The certificate of a connected edge is in the last third of its life, and no renewal has succeeded.",
        "Look at the edge's log for `renewal failed`: most often its disk is full. Nothing has to be restarted.",
    ),
    "DRTP-2044": Code(
        "Root missing",
        "The store names a root of the authority that is not on the control plane's disk.",
        "Restore store and authority from one backup.",
    ),
    "DRTP-2045": Code(
        "Rotation under way",
        "The root is being rotated, and what was asked for cannot be done meanwhile.",
        "Look with `drtp ca status`; wait for the rotation's end, or go back with `drtp ca rollback`.",
    ),
    "DRTP-2046": Code(
        "No rotation under way",
        "There is no rotation of the root to go on with or back from.",
        "Begin one with `drtp ca rotate --root`.",
    ),
    "DRTP-2047": Code(
        "Rotation waits",
        "Not every edge has taken what this step of the rotation rests on.",
        "Wait: `drtp ca status` names the edges and the time. With --force, those that are behind are cut off until "
        "they have asked for the roots anew, which they do by themselves once they reach the control plane.",
    ),
    "DRTP-2043": Code(
        "Audit head not found",
        "A head that was recorded earlier is not in the audit log.",
        "If its file was not rotated away since, lines were removed or written anew: keep the files for examination.",
    ),
    "DRTP-2021": Code(
        "Not an organisation",
        "The project is not an organisation's own: that is the one with the organisation's name.",
        "Ask for it in the organisation's own project, or let the operator make the organisation: "
        "`datumctl create organization NAME`.",
    ),
    "DRTP-2022": Code(
        "Invitation not accepted",
        "The invitation is unknown, used by somebody else, expired, or whoever made it may not invite any more.",
        "Ask for a new one: an invitation is for one person, and for days.",
    ),
    "DRTP-2023": Code(
        "Organisation has projects",
        "An organisation goes after its projects: who got one of its name later would get them too.",
        "Delete its projects first, or take the organisation's label from them.",
    ),
    "DRTP-2024": Code(
        "Quota exceeded",
        "The project or its organisation has as many as its quota lets it have.",
        "Delete what is not needed any more, or ask the operator for more; `kubectl get resourcequotas` shows what is "
        "used.",
    ),
    "DRTP-2030": Code(
        "ID token not accepted",
        "The ID token proves nobody here. The caller is told 401 and no more; the audit log has the reason.",
        "Sign in again with `datumctl login`. For another program's tokens: check issuer and audience in the issuers "
        "file, and the clocks of both sides.",
    ),
    "DRTP-2031": Code(
        "Issuer's keys not fetched",
        "The control plane cannot fetch the keys of a configured issuer.",
        "Check the issuer's address, its certificate (`caFile` in the issuers file) and the network between. Keys that "
        "are known are used for 24 hours; other issuers and users are not concerned.",
    ),
    "DRTP-2032": Code(
        "Sign-in refused",
        "Name or password is wrong.",
        "Try again; an operator sets a new password with `datumctl create password NAME`.",
    ),
    "DRTP-2033": Code(
        "Too many sign-ins",
        "Too many attempts came from this address or for this account.",
        "Wait a minute, then try again.",
    ),
    "DRTP-2034": Code(
        "Refresh token used twice",
        "A refresh token that was spent came again, so somebody else may hold a copy: the sign-in was ended.",
        "Sign in again. If no copy of the context is in use elsewhere, find out who else could read it.",
    ),
    "DRTP-2035": Code(
        "Token too narrow",
        "What was shown allows less than what was asked to be made of it.",
        "Sign in with `datumctl login`, or ask for no more projects, days or rights than the token at hand has.",
    ),
    "DRTP-2036": Code(
        "Token not valid",
        "A token cannot be made with these values.",
        "Correct the projects, the days or the description.",
    ),
    "DRTP-2037": Code(
        "Password not accepted",
        "A password has 12 to 256 characters and is not the name itself.",
        "Choose a longer one: some words that nobody would guess together.",
    ),
    "DRTP-2038": Code(
        "Sign-in not completed",
        "It was not begun in this browser, or too long ago, or its issuer does not confirm it.",
        "Open the site again. If it stays so, see that this browser keeps cookies, and that the issuer knows the "
        "redirect that the guide names.",
    ),
    "DRTP-2039": Code(
        "In too many groups",
        "The groups by which organisations here know you do not fit into what POPs are told of a visitor.",
        "Have fewer groups given roles of organisations, or be given one by name.",
    ),
}

FEED: dict[str, Code] = {
    "DRTP-3001": Code(
        "Control plane unreachable",
        "The control plane cannot be reached.",
        "Nothing, if it is being restarted: what worked goes on. Otherwise check address, network and proxy.",
    ),
    "DRTP-3002": Code(
        "Control plane stopping", "The control plane is going down.", "Nothing: the edge comes back by itself."
    ),
    "DRTP-3003": Code(
        "Replaced by a newer connection",
        "The same identity connected from another process.",
        "Run one process per state directory, and never copy one.",
    ),
    "DRTP-3004": Code(
        "Feed protocol error", "The other side sent something the feed does not allow.", "Upgrade the older part."
    ),
    "DRTP-3005": Code(
        "Feed silent", "Nothing was heard from the other side for three heartbeats.", "Nothing: it reconnects."
    ),
    "DRTP-3006": Code(
        "Feed version not supported", "The two parts' versions are too far apart.", "Upgrade the older part."
    ),
    "DRTP-3007": Code(
        "Registration refused",
        "The edge registered under a name, or with values, that its identity may not use.",
        "Start it with the name it was enrolled for, or enrol it again.",
    ),
    "DRTP-3008": Code(
        "Tunnel server deleted",
        "The DRTPServer of this POP was deleted.",
        "Enrol the POP again with a new secret if it should come back.",
    ),
    "DRTP-3009": Code(
        "Proxy refused",
        "The proxy on the way to the control plane refused the connection. Newer versions say why: DRTP-4050 to 4054.",
        "Check HTTPS_PROXY and NO_PROXY, and the proxy's user name and password.",
    ),
    "DRTP-3010": Code(
        "Request refused", "The API server refused the request.", "Correct the request as the message says."
    ),
    "DRTP-3011": Code(
        "Context not usable", "The context file cannot be read.", "Check the file given by --context or DRTP_CONTEXT."
    ),
    "DRTP-3012": Code(
        "Clock differs",
        "By this machine's clock the control plane's certificate is not valid now.",
        "Set this machine's clock (chrony, systemd-timesyncd). If it is right, the control plane's is wrong, or its "
        "certificate was not renewed.",
    ),
    "DRTP-3013": Code(
        "Proxy setting not usable",
        "A variable or option that should name a proxy does not name one that can be used.",
        "Give http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before the host where it asks for them "
        "(special letters as %XX); `direct` in DRTP_PROXY asks for none. TLS to the proxy itself (https://) and SOCKS4 "
        "are not spoken.",
    ),
}

TUNNEL: dict[str, Code] = {
    "DRTP-4001": Code(
        "Identity not usable",
        "The certificate, its key or the roots cannot be used for the tunnel.",
        "Enrol again with a new secret; if that does not help, check the machine's clock.",
    ),
    "DRTP-4002": Code(
        "Tunnel configuration not usable",
        "The tunnel could not read what it was given.",
        "Upgrade the older of control plane and edge; their versions may be too far apart.",
    ),
    "DRTP-4003": Code(
        "No socket for the tunnel",
        "A socket, thread or address that the tunnel needs could not be had.",
        "Stop the program that uses the address, or raise the limit of open files (ulimit -n).",
    ),
    "DRTP-4004": Code("Tunnel closed", "The tunnel has ended.", "Start it again; its log says why it ended."),
    "DRTP-4010": Code(
        "State directory in use",
        "Another process runs with this state directory.",
        "Stop that process; to serve the same twice, give this one its own --state-dir.",
    ),
    "DRTP-4011": Code(
        "Replaced by a newer instance",
        "A newer process with the same identity serves now, so this one stopped.",
        "Run one process per state directory, and never copy one: give each machine its own secret.",
    ),
    "DRTP-4012": Code(
        "Target not allowed here",
        "The control plane names another service or local target than the one that was given on this machine.",
        "Start it with the new target, or with --allow-target if the control plane may choose; use each service's own "
        "secret.",
    ),
    "DRTP-4013": Code(
        "Local service unreachable",
        "The local service does not accept connections.",
        "Start it, and check host and port; visitors are refused until it answers.",
    ),
    "DRTP-4014": Code(
        "State not readable",
        "A file in the state directory is damaged.",
        "Restore the state directory, or enrol again with a new secret in an empty one.",
    ),
    "DRTP-4015": Code(
        "Services not usable",
        "Some services of this agent could not be put in force.",
        "Read each service's message; the others go on.",
    ),
    "DRTP-4016": Code(
        "Local status address taken",
        "The address named for the local status pages cannot be had; or none was named, and no port near the usual one "
        "is free.",
        "Choose another with --inspector, port 0 for any that is free, or leave the pages out.",
    ),
    "DRTP-4017": Code(
        "Target never dialled",
        "The target is, or its name leads to, an address that an agent never dials: of cloud metadata, link-local, "
        "multicast, or loopback that was not named as such.",
        "Name a target of the private network, or localhost.",
    ),
    "DRTP-4020": Code(
        "No endpoint port free",
        "Every port of the POP's range is in use or in quarantine.",
        "Give the POP a wider range or another address of its pod network.",
    ),
    "DRTP-4021": Code(
        "Endpoint ports not readable",
        "The POP's file of endpoint ports is damaged.",
        "Restore it, or remove it: gateways then learn new ports as soon as the POP reports them.",
    ),
    "DRTP-4022": Code(
        "Endpoint ports not usable",
        "The range of endpoint ports reaches into the ports that the system hands out by itself, or is empty.",
        "Choose a range between 1024 and 32767.",
    ),
    "DRTP-4023": Code(
        "Endpoint path too long",
        "The path of a Unix endpoint would be longer than the system allows.",
        "Give the POP a data directory with a shorter path.",
    ),
    "DRTP-4024": Code(
        "Entry not for a POP", "The snapshot holds an entry that a POP does not know.", "Upgrade the POP."
    ),
    "DRTP-4025": Code(
        "Tunnel driver stuck",
        "The POP's tunnel driver has not moved for some seconds.",
        "Restart the POP; visitors reach the service through the other POP meanwhile.",
    ),
    "DRTP-4040": Code(
        "State directory is a copy",
        "This state directory was copied from another place, and the original may still serve with the same identity.",
        "Enrol anew in an empty directory, with its own secret. If it was moved and the original is gone: --moved.",
    ),
    "DRTP-4050": Code(
        "Proxy wants other credentials",
        "The proxy on the way wants a user name and a password: none were given, or not these.",
        "Put them into the proxy's URL in HTTPS_PROXY, ALL_PROXY or DRTP_PROXY: http://USER:PASSWORD@HOST:PORT, "
        "special letters as %XX. A proxy that takes Negotiate or NTLM only needs a helper on this machine, such as Px "
        "or cntlm. An agent asks again every 20 s: stop it if the proxy locks accounts.",
    ),
    "DRTP-4051": Code(
        "Proxy refused the connection",
        "The proxy on the way knows the request and does not allow it.",
        "Ask whoever runs it to allow CONNECT to the control plane and the tunnel servers (`datumctl diagnose` lists "
        "them), or exempt them in NO_PROXY if they can be reached straight.",
    ),
    "DRTP-4052": Code(
        "Proxy's answer unreadable",
        "What answers as a proxy speaks something else, or ended the connection in the middle.",
        "Check scheme and port in the variable or option that names the proxy: http:// for HTTP CONNECT, socks5:// for "
        "SOCKS5.",
    ),
    "DRTP-4053": Code(
        "Proxy cannot reach the other end",
        "The proxy would let us through, but cannot reach the place asked for.",
        "If the control plane and other agents are well, ask whoever runs the proxy whether it may reach that address "
        "and port, and whether it resolves that name.",
    ),
    "DRTP-4054": Code(
        "Proxy unreachable",
        "The proxy does not answer, or its name leads nowhere.",
        "Check its host and port in the variable or option that names it. On a network without it, unset the variable, "
        "or set DRTP_PROXY=direct.",
    ),
    "DRTP-4055": Code(
        "TLS intercepted",
        "Something on the way ends TLS and answers with a certificate of its own.",
        "Nothing, where `datumctl diagnose` says that the WebSocket opens: our own TLS passes inside it. For kubectl, "
        "and where it does not open, ask whoever runs the network not to look into TLS to the addresses that are "
        "listed.",
    ),
    "DRTP-4056": Code(
        "WebSocket not opened",
        "The tunnel server or the control plane, or something in its place, does not answer as a WebSocket.",
        "If no way works, ask whoever runs the network to let WebSockets, or TLS without inspection, pass to the "
        "addresses that `datumctl diagnose` lists. What is too old has no WebSocket: upgrade it.",
    ),
    "DRTP-4060": Code(
        "Not allowed to connect",
        "There is no service of this name that you may connect to.",
        "Check its name, NAMESPACE/SERVICE. Its owner lets you in by the verb connect on drtpservices/connect in that "
        "project; the role `edit` has it.",
    ),
    "DRTP-4061": Code(
        "Serving agent away",
        "No agent serves this service now.",
        "Its owner starts `datumctl serve` for it; connect goes on by itself then.",
    ),
    "DRTP-4062": Code(
        "Local port not to be had",
        "The local address, port or path to present a service at cannot be used.",
        "Choose another with --local or --unix; --local 0 takes a free port.",
    ),
    "DRTP-4063": Code(
        "Connection not answered",
        "A connection reached the service's agent, or nearly, and was refused.",
        "The event says where: the owner looks whether the local service is up (`datumctl status` on its side).",
    ),
    "DRTP-4064": Code(
        "Place does not fit the protocol",
        "Datagrams of a UDP service come to a port: not to a Unix socket, and not to standard input. A UDP port takes "
        "no connections.",
        "Present a UDP service with --local, any other without udp://.",
    ),
    "DRTP-4065": Code(
        "End-to-end encryption broke",
        "At the other end was not the agent that the control plane names, or bytes were changed or cut on their way.",
        "Tell the operator: a tunnel server, or a network that it trusts, does what it must not. No changed byte was "
        "delivered.",
    ),
    "DRTP-4066": Code(
        "No tunnel server connected",
        "No tunnel server on which the service is has a session with this connector yet.",
        "If it stays so: `datumctl diagnose` finds what is in the way.",
    ),
    "DRTP-4067": Code(
        "Service disabled",
        "The owner has disabled the service.",
        "The owner enables it with `datumctl enable`; connect goes on by itself then.",
    ),
    "DRTP-4068": Code(
        "Whom to let in is not said",
        "An address that other machines can reach was asked for, without saying which of them may use it.",
        "Name them with --allow-remote CIDR, or present the service on 127.0.0.1.",
    ),
    "DRTP-4069": Code(
        "Login needed to connect",
        "This connector's certificate has ended, and only its user can get another.",
        "Log in, then run the command again.",
    ),
    "DRTP-4070": Code(
        "Too old for UDP",
        "The service is a UDP service, and something between here and there does not carry UDP to connect yet: the "
        "control plane, the tunnel servers of the service, or its agent.",
        "Ask the operator to upgrade control plane and tunnel servers, and the owner to upgrade the agent. Other "
        "services are not concerned.",
    ),
    "DRTP-4071": Code(
        "Malformed datagram",
        "Inside the encryption came what is no datagram. Its flow was ended; the other ones go on.",
        "The command at the other end has a fault: report it, with both versions.",
    ),
}

GATEWAY: dict[str, Code] = {
    "DRTP-5001": Code(
        "Nothing here",
        "No service is reachable under this name and path.",
        "Check the address; if it is yours, check that the service is exposed and enabled.",
    ),
    "DRTP-5002": Code(
        "Service not reachable",
        "There is such a service, but nobody answers for it at the moment: it is switched off, no agent serves it, or "
        "it does not answer its agent.",
        "Try again in a moment; if it is yours, `datumctl status` says which it is. Then `datumctl enable` it, run "
        "`datumctl serve` where it runs, or start the service itself.",
    ),
    "DRTP-5003": Code(
        "Not allowed",
        "The owner of this service does not let your address in.",
        "Ask the owner to add your address to the service's access policy.",
    ),
    "DRTP-5004": Code(
        "Route incomplete",
        "The route leads to a service that does not exist or may not be used from here.",
        "If the route is yours, check its backend references and their ReferenceGrants.",
    ),
    "DRTP-5005": Code(
        "Service too slow",
        "The service did not answer within the time that its route allows.",
        "Try again; if it is yours, look at the service, or raise the route's request timeout.",
    ),
    "DRTP-5006": Code(
        "Request refused",
        "The gateway could not pass this request on.",
        "Check the request; the status code and the trace id say more to the operator.",
    ),
    "DRTP-5007": Code(
        "Sign in",
        "The owner of this service wants to know who you are, and nothing has said so, or not lately.",
        "Open this address in a browser and sign in there. A program shows the certificate of its user, or reaches the "
        "service by `datumctl connect`.",
    ),
    "DRTP-5008": Code(
        "Sign in by https",
        "The owner of this service wants to know who you are, and nobody can sign in where bytes are not encrypted.",
        "Use the service's https address.",
    ),
    "DRTP-5009": Code(
        "Not allowed",
        "You have shown who you are, and the owner of this service lets neither you in nor an organisation of yours.",
        "Ask the owner to name you or your organisation in the service's access policy. If you meant to be somebody "
        "else, open /.drtp/sign-out at this address first.",
    ),
    "DRTP-5010": Code(
        "Envoy not found",
        "The gateway needs an Envoy binary and found none.",
        "Install it with `pip install 'drtp[gateway]'`, or set ENVOY to the path of one.",
    ),
    "DRTP-5011": Code(
        "Envoy did not start",
        "Envoy ended or stayed silent before it was ready.",
        "Read envoy.log in the gateway's directory; the last lines name the cause.",
    ),
    "DRTP-5012": Code(
        "Refused by Envoy",
        "Envoy did not take what was made of this object.",
        "The message names the field; correct the object.",
    ),
    "DRTP-5013": Code(
        "Entry cannot be built",
        "The object holds something that a gateway cannot express.",
        "The message names it; correct the object.",
    ),
    "DRTP-5014": Code(
        "Access policy unreadable",
        "The access policy holds something unreadable, so nobody is let in.",
        "Correct the policy; each rule's CIDRs must be networks such as 192.0.2.0/24.",
    ),
    "DRTP-5017": Code(
        "Envoy not replaced",
        "The next Envoy did not take over; the one before it goes on.",
        "Read envoy.log in the gateway's directory; try again, or restart the gateway where visitors can spare it.",
    ),
    "DRTP-5015": Code(
        "Gateway directory in use",
        "Another gateway host runs with this directory.",
        "Stop that one, or choose another directory.",
    ),
    "DRTP-5016": Code(
        "Gateway not enrolled",
        "There is no identity in the gateway's directory.",
        "Enrol it with a join secret first.",
    ),
    "DRTP-5020": Code(
        "Directory of endpoint sockets too long",
        "Sockets in the directory given by --endpoint-sockets would have longer paths than the system allows.",
        "Choose a directory with a shorter path, such as one below /run.",
    ),
    "DRTP-5021": Code(
        "Directory of sockets in use",
        "Another process has its sockets in this directory, or it belongs to another user.",
        "Give each POP a directory of its own, owned by the user that it runs as.",
    ),
    "DRTP-5022": Code(
        "Not a directory of POPs' sockets",
        "A directory given by --pop-sockets cannot be used: a relative path names another place to each process.",
        "Name the absolute path of the directory that the POP was given by --endpoint-sockets.",
    ),
    "DRTP-5040": Code(
        "Not a load balancer's network",
        "A network given by --proxy-protocol-from cannot be used: PROXY headers from it would be believed.",
        "Name the addresses or networks of the load balancers alone, such as 10.0.3.0/24.",
    ),
}

CONDITIONS: dict[str, Code] = {
    "DRTP-6001": Code(
        "Tunnel server not healthy",
        "A tunnel server has gone silent or reports bad health, so agents are moved to others.",
        "Look at the POP's own log and its network path to the control plane; restart it if it hangs.",
    ),
    "DRTP-6002": Code(
        "No tunnel server",
        "No healthy tunnel server takes new connections.",
        "Check `datumctl servers`; the operator must start or uncordon a POP.",
    ),
    "DRTP-6003": Code(
        "Fewer tunnels than asked for",
        "The service is served over fewer tunnels than `serverCount`, so losing one may lose visitors.",
        "Wait for a server to come back, or have the operator add a POP in another failure domain.",
    ),
    "DRTP-6004": Code(
        "Endpoint not opened",
        "A POP could not open the endpoint of a connection.",
        "The message says why; often the POP's port range is used up or an address is missing.",
    ),
    "DRTP-6005": Code(
        "Local service unreachable",
        "The agent is connected, but the local service does not answer it.",
        "Start the service, or correct host and port; try the same address from the agent's machine.",
    ),
    "DRTP-6006": Code(
        "Hostname, port or address taken",
        "Somebody else owns it, it was released less than a day ago, or it is reserved.",
        "Choose another one, or leave it out and have one vended.",
    ),
    "DRTP-6007": Code(
        "Agent disconnected",
        "The agent has no tunnel to any of its servers.",
        "See that it runs and that its network lets it dial out; its own log names the server it cannot reach.",
    ),
    "DRTP-6008": Code(
        "Protocol not served",
        "This protocol cannot be exposed publicly by this version.",
        "Use TCP, UDP, TLS, HTTP or HTTPS.",
    ),
    "DRTP-6009": Code(
        "Unreadable access list",
        "An entry of an access list is no address and no network, so the whole list denies.",
        "Write networks as 203.0.113.0/24 or 2001:db8::/32, without host bits.",
    ),
    "DRTP-6010": Code(
        "No agent",
        "No agent has registered for the service.",
        "Run `datumctl serve` beside the local service.",
    ),
    "DRTP-6011": Code(
        "Gateway could not serve",
        "The gateway refused or could not bind what it was told.",
        "The message is the gateway's own; the operator's gateway log has more.",
    ),
    "DRTP-6012": Code(
        "No such gateway",
        "The Gateway asked for does not exist, is not DRTP's, or has no listener for this protocol.",
        "Leave `gatewayRef` out to use the operator's Gateway, or name one that exists.",
    ),
    "DRTP-6018": Code(
        "Hostname not served",
        "No listener of the Gateway has this hostname; the message names those that it has.",
        "Ask for a name under one of those, or leave the hostname out and have one vended. For another domain the "
        "operator adds a listener to the Gateway.",
    ),
    "DRTP-6013": Code(
        "Pool exhausted",
        "No free port, name or address was found in the pool.",
        "Ask for a particular one, or have the operator enlarge the pool.",
    ),
    "DRTP-6050": Code(
        "Publication not found",
        "There is no such publication, or it is not for this project to see. The two are never told apart.",
        "See what there is with `datumctl catalog list`, or ask the publisher to put your organisation on the list.",
    ),
    "DRTP-6051": Code(
        "Subscription rejected",
        "The publisher has said no to the subscription.",
        "Read the reason in the condition `Approved`, and speak with the publisher.",
    ),
    "DRTP-6052": Code(
        "Subscription revoked",
        "The publisher has taken the approval back, or has withdrawn the publication. Live connections are cut.",
        "Read the reason in the condition `Approved`, and speak with the publisher.",
    ),
    "DRTP-6053": Code(
        "Subscription expired",
        "The date that the subscriber or the publisher gave has passed.",
        "The publisher can move `spec.expires` of the approval; else delete the subscription and ask again.",
    ),
    "DRTP-6054": Code(
        "Not on the list",
        "The publication is for those on the publisher's list only.",
        "Ask the publisher to add your organisation to `spec.access.allowed`, or to approve the subscription.",
    ),
    "DRTP-6055": Code(
        "Too many subscriptions",
        "One project has as many subscriptions to this publication as it may.",
        "Delete one that is not needed, or use one that is there.",
    ),
    "DRTP-6056": Code(
        "Offered service missing",
        "A publication offers a service that does not exist; others do not see it.",
        "Make the service, or delete the publication.",
    ),
    "DRTP-6014": Code(
        "Object left out",
        "A stored object, or what an edge is told of it, cannot be read there, so everything else goes on without it.",
        "Correct the field named, or write the object anew; upgrade the part that is older. Until then an access "
        "policy that cannot be read closes its namespace.",
    ),
    "DRTP-6030": Code(
        "No server allowed by policy",
        "Access policies name the POPs that may carry the bytes (`through`), and none of those takes connections.",
        "Widen `through`, or ask the operator for a POP there: a POP says its region and country when it starts.",
    ),
    "DRTP-6031": Code(
        "Policy names what cannot be held where it is to hold",
        "A rule has a schedule that cannot be read, or names what gateways do not know, and only they hold the policy. "
        "It denies everybody.",
        "Mend the part that the condition names, or target the DRTPService and leave `enforcementPoints` out.",
    ),
    "DRTP-6020": Code(
        "Reference not granted",
        "A route or listener refers to another namespace, which has not granted it. Whether it is there is not said.",
        "Ask the owner there for a ReferenceGrant to your namespace and kind, subscribe where a route's service is "
        "offered for more than connect, or refer to something of your own.",
    ),
}

COMMANDS: dict[str, Code] = {
    "DRTP-7001": Code(
        "File modes too open",
        "A private file or directory may be used by others.",
        "Run `chmod go-rwx` on it; if others could read it, replace the keys in it.",
    ),
    "DRTP-7002": Code(
        "Wrong usage",
        "The command was not understood.",
        "Run it again with --help.",
    ),
    "DRTP-7003": Code(
        "No context",
        "There is no context file, so it is unknown which control plane to talk to.",
        "Give `--context PATH` (`drtp up` prints the path), or set DRTP_CONTEXT.",
    ),
    "DRTP-7004": Code(
        "Target not understood",
        "The thing to serve is not a port, host:port or URL that can be served.",
        "Use 8080, localhost:8080, http://…, https://…, tcp://host:port, tls://host:port or udp://host:port.",
    ),
    "DRTP-7005": Code(
        "UDP needs an allowlist",
        "A UDP service would be open to everybody, and the source of a datagram is easily forged.",
        "Say who may visit with --allow CIDR; --allow 0.0.0.0/0 is any IPv4 visitor.",
    ),
    "DRTP-7006": Code(
        "Data directory in use",
        "Another `drtp up` runs with this data directory.",
        "Stop that one, or choose another --data-dir.",
    ),
    "DRTP-7007": Code(
        "Port taken",
        "A port that this start needs is used by another program.",
        "Stop that program, or choose another port (0 picks a free one).",
    ),
    "DRTP-7008": Code(
        "A part did not start",
        "A child process of `drtp up` ended or stayed silent before everything was ready.",
        "Read its log in the data directory's logs folder; the last lines name the cause.",
    ),
    "DRTP-7009": Code(
        "Not ready in time",
        "The address was not reachable end to end within the time given.",
        "Run without --once to keep trying, and look at the reason given; `datumctl status` shows each part.",
    ),
    "DRTP-7040": Code(
        "Unknown part",
        "No part of this instance has that name.",
        "Name controlplane, a POP, gateway, envoy, hello, or all.",
    ),
    "DRTP-7048": Code(
        "No control plane here",
        "The data directory has no control plane in it.",
        "Give the --data-dir that `drtp up` or `drtp controlplane` was started with.",
    ),
    "DRTP-7041": Code(
        "Not running here",
        "No `drtp up` runs with this data directory, or it has not finished its start.",
        "Give the --data-dir of the one that runs; it answers as soon as it has said that it is ready.",
    ),
    "DRTP-7042": Code(
        "Part did not come back",
        "A part was restarted and does not serve again within a minute; the parts after it were left as they are.",
        "Read its log in the data directory's logs folder, mend what it names, and restart it again.",
    ),
    "DRTP-7050": Code(
        "No room on the disk",
        "A file that is needed to start cannot be written.",
        "Make room on the disk named, then start again.",
    ),
    "DRTP-7018": Code(
        "No tunnel server known",
        "Neither the control plane nor an agent's state on this machine names a tunnel server to look at.",
        "Get the control plane's lines right first, or run this where an agent has run: its state names its tunnel "
        "servers (DRTP_STATE_DIR, or beside the context file).",
    ),
    "DRTP-7030": Code(
        "Another trust domain",
        "The authority in this data directory was made for another trust domain.",
        "Leave the trust domain out, or use another data directory.",
    ),
    "DRTP-7010": Code(
        "Secret not readable",
        "The secret could not be read from where it was said to be.",
        "Give it by --secret-file FILE (- for stdin) or DRTP_SECRET; it looks like drtp_enr_…@host:port#pin.",
    ),
    "DRTP-7011": Code(
        "Control plane unreachable",
        "The control plane does not answer.",
        "Check that it runs and that the address in the context is right; the command tries again by itself.",
    ),
    "DRTP-7080": Code(
        "No sign-in offered",
        "The control plane names no issuer to sign in with, or not the one that was asked for.",
        "Ask the operator which issuers there are, or for a context file with a token.",
    ),
    "DRTP-7081": Code(
        "Sign-in denied", "The issuer or the person at the browser refused.", "Run `datumctl login` again, and agree."
    ),
    "DRTP-7082": Code("Sign-in not finished", "Nobody finished the sign-in in time.", "Run `datumctl login` again."),
    "DRTP-7083": Code(
        "Issuer not reachable",
        "The issuer that people sign in with does not answer.",
        "Check the network and try again; what runs already goes on.",
    ),
    "DRTP-7084": Code(
        "Issuer's answer unusable",
        "The issuer answered something that no sign-in can be made of.",
        "Give this to the operator: the issuer's client settings are probably wrong.",
    ),
    "DRTP-7085": Code("Sign-in over", "The sign-in is over.", "Run `datumctl login`."),
    "DRTP-7086": Code(
        "No device flow",
        "The issuer signs no devices in.",
        "Run `datumctl login` on a machine with a browser, or `--no-browser` and open the address yourself.",
    ),
    "DRTP-7087": Code("Not signed in", "This context has no sign-in.", "Run `datumctl login https://…`."),
    "DRTP-7088": Code(
        "Issuers file unusable",
        "The file of trusted issuers cannot be read or holds something unknown.",
        "Correct it as docs/guide/people.md shows; the control plane does not start without it, so that nobody is let "
        "in by half of it.",
    ),
    "DRTP-7089": Code(
        "Identity token not readable",
        "The workload's identity token could not be read.",
        "Check that the file is there: on Kubernetes, a projected service account token with the control plane's "
        "audience.",
    ),
    "DRTP-7090": Code(
        "Issuer not confirmed",
        "The control plane wants you to sign in at an issuer elsewhere, and nobody has said yet that it is the right "
        "one.",
        "If you expect it, name it: `datumctl login https://… --issuer URL`. A control plane that you do not know "
        "could name the issuer and client of another one, and use there what you give it.",
    ),
    "DRTP-7093": Code(
        "Sign-in address not usable",
        "The address that browsers sign in at, or the certificate for it, cannot be used.",
        "Give `--sign-in-url https://NAME[:PORT]` and, unless something before the control plane has it, a chain and "
        "key for that name with `--sign-in-certificate` and `--sign-in-key`; the key is its owner's alone (chmod 600).",
    ),
    "DRTP-7091": Code(
        "Issuer changed",
        "The control plane sends people to another issuer, or for another client, than it did before.",
        "Ask its operator. If it is meant, name the issuer once: `datumctl login https://… --issuer URL`.",
    ),
    "DRTP-7092": Code(
        "Issuer of another control plane",
        "The control plane wants a token that is good at another control plane.",
        "Sign in at the other one, by its own address, if that is the one you mean; if not, tell its operator.",
    ),
    "DRTP-7013": Code(
        "Configuration unreadable",
        "A settings or manifest file cannot be read or holds something unknown.",
        "Correct the file; `drtp config check` names each fault.",
    ),
    "DRTP-7014": Code(
        "Unknown kind",
        "The control plane serves no resource of this name.",
        "List what there is with `datumctl get --kinds`.",
    ),
    "DRTP-7015": Code(
        "Name belongs to another protocol",
        "A service of this name exists with another protocol, which cannot be changed.",
        "Choose another --name, or delete the service first.",
    ),
    "DRTP-7016": Code(
        "Local target not pinned",
        "The service has a local target that was never agreed to on this machine.",
        "Name the target on the command line, or give --allow-target to accept what the service says.",
    ),
    "DRTP-7100": Code(
        "Not in the catalogue",
        "The catalogue has no such publication for your project. Whether it is there for others is not said.",
        "See what there is with `datumctl catalog list`, or ask the publisher to put your organisation on the list.",
    ),
    "DRTP-7101": Code(
        "No such subscriber",
        "Nobody of that project has subscribed to the publication.",
        "See who has with `datumctl catalog requests`.",
    ),
    "DRTP-7102": Code(
        "Several subscriptions",
        "The project has several subscriptions to the publication.",
        "Name one, as PROJECT/SUBSCRIPTION.",
    ),
    "DRTP-7103": Code(
        "Subscription not approved",
        "The subscription is there, and the publisher does not let it in.",
        "Read the reason that was given, and speak with the publisher.",
    ),
    "DRTP-7104": Code(
        "No decision yet",
        "The subscription was made, and what becomes of it was not known in time.",
        "Look again with `datumctl catalog list`; the request stands.",
    ),
    "DRTP-7105": Code(
        "Date not readable",
        "A date or a duration is not one.",
        "Give a duration such as 12h or 30d, or a date such as 2030-01-31T18:00:00+01:00.",
    ),
    "DRTP-7060": Code(
        "Failure inside",
        "The command failed by its own fault.",
        "Run it again; if it fails again, report it with the file that the message names.",
    ),
    "DRTP-7061": Code(
        "File not usable",
        "The operating system refused a file or directory.",
        "Check that it exists, is of the right kind, and may be used by you.",
    ),
    "DRTP-7070": Code(
        "No invitation",
        "No invitation was given, or it cannot be read.",
        "Give it by --invitation-file FILE, by - on standard input, or in DRTP_INVITATION: never as an argument.",
    ),
    "DRTP-7017": Code(
        "Part missing",
        "This installation holds the agent only.",
        "Install the server parts: pip install 'drtp[all]'.",
    ),
}

CODES: dict[str, Code] = {**API, **IDENTITY, **FEED, **TUNNEL, **GATEWAY, **CONDITIONS, **COMMANDS}
