"""A posted `ServiceCredentials`: a one-time secret for agents of a service, shown once, or kept in a Secret for as long
as it is good; or for the connectors of an application, by its service account, shown once.

The Secret is for who applies manifests and pods that mount it. It names in an annotation when it ends, it goes with the
last use or with the end, and the service's `status.credentialsSecretRef` names it while it is there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial

from drtp.api import drtp
from drtp.api.feed import EdgeRole
from drtp.api.internal import Bound
from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.api.people import User, service_account_user
from drtp.apiserver.failures import Failure
from drtp.apiserver.posted import Spec
from drtp.apiserver.rbac import Rbac
from drtp.issuers.secrets import KEPT_ANNOTATION, LIFETIME_MAX_S, LIFETIME_S, USES_MAX, EnrolmentSecrets, Minted
from drtp.kit.errors import Refused
from drtp.store.protocol import Store, Stored

SECRET_TYPE = "datumapis.com/enrolment"  # noqa: S105 - a type's name
SECRET_MEMBER = "secret"  # noqa: S105 - a member's name
EXPIRES_ANNOTATION = "datumapis.com/expires"
SOURCES_MAX = 32


class ServiceCredentials:
    """Makes them. `joined` gives what follows the secret in the one string that suffices, `@<host>:<port>#<pin>`."""

    def __init__(self, store: Store, authoriser: Rbac, secrets: EnrolmentSecrets, joined: Callable[[], str]) -> None:
        self._store = store
        self._authoriser = authoriser
        self._secrets = secrets
        self._joined = joined

    async def make(self, body: JsonObject, namespace: str, user: User) -> JsonObject:
        """The posted object with its status. Raises: Failure 422, Refused DRTP-2005, NotFound, AlreadyExists."""
        spec = Spec(body)
        account = spec.text("serviceAccount")
        service, secret_name = spec.text("service", needed=not account), spec.text("secretName")
        uses = spec.number("uses", 1, 1, USES_MAX)
        lifetime_s = spec.number("lifetimeSeconds", LIFETIME_S, 60, LIFETIME_MAX_S)
        sources = spec.texts("sourceCIDRs", SOURCES_MAX)
        spec.done()
        by = f"user {user.uid or user.name}"
        if account:
            if service or secret_name:
                raise Failure(
                    422, "DRTP-1010", "spec.serviceAccount: Invalid value: goes with no service and no Secret"
                )
            minted = await self._of_account(user, namespace, account, (uses, lifetime_s, sources), by)
            status: JsonObject = {"id": minted.id, "expires": minted.expires_at.isoformat()}
            return body | {"metadata": {"namespace": namespace}, "status": status | {"secret": self._whole(minted)}}
        self._authorise(user, namespace, service, secret_name)
        held = await self._store.get(Key(f"DRTPService.{drtp.GROUP}", namespace, service))
        if "deletionTimestamp" in held.metadata:
            raise Failure(409, "DRTP-1003", f'drtpservices.datumapis.com "{service}" is being deleted')
        minted = await self._secrets.mint(
            EdgeRole.AGENT,
            Bound(kind=held.key.kind, name=service, namespace=namespace, uid=held.uid),
            uses_max=uses,
            lifetime_s=lifetime_s,
            source_cidrs=sources,
            created_by=by,
            keep=partial(self._kept, held, secret_name) if secret_name else None,
        )
        status = {"service": held.uid, "id": minted.id, "expires": minted.expires_at.isoformat()}
        status |= {"secretName": secret_name} if secret_name else {"secret": self._whole(minted)}
        return body | {"metadata": {"namespace": namespace}, "status": status}

    async def _of_account(
        self, user: User, namespace: str, account: str, asked: tuple[int, int, tuple[str, ...]], by: str
    ) -> Minted:
        """For connectors of an application: whoever may make its tokens may let them in. Raises: Refused, NotFound."""
        if not self._authoriser.decide(user, "create", "", "serviceaccounts", "token", namespace, account).allowed:
            raise Refused("DRTP-2005")
        # As for its tokens: nobody lets in a program that may more than they do.
        self._authoriser.check_acting_as(user, service_account_user(namespace, account))
        held = await self._store.get(Key("ServiceAccount", namespace, account))
        uses, lifetime_s, sources = asked
        return await self._secrets.mint(
            EdgeRole.CONNECTOR,
            Bound(kind=held.key.kind, name=account, namespace=namespace, uid=held.uid),
            uses_max=uses,
            lifetime_s=lifetime_s,
            source_cidrs=sources,
            created_by=by,
        )

    def _authorise(self, user: User, namespace: str, service: str, secret_name: str) -> None:
        """Whoever may change a service may let agents serve it. Raises: Refused, before anything is looked up."""
        asked = [("update", drtp.GROUP, "drtpservices", service)]
        asked += [("create", "", "secrets", secret_name)] if secret_name else []
        for verb, group, plural, name in asked:
            if not self._authoriser.decide(user, verb, group, plural, "", namespace, name).allowed:
                raise Refused("DRTP-2005")

    def _whole(self, minted: Minted) -> str:
        return f"{minted.secret.reveal()}{self._joined()}"

    def _kept(self, service: Stored, name: str, minted: Minted) -> JsonObject:
        annotations = {KEPT_ANNOTATION: minted.id, EXPIRES_ANNOTATION: minted.expires_at.isoformat()}
        owner = {"apiVersion": drtp.API_VERSION, "kind": "DRTPService", "name": service.key.name, "uid": service.uid}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": service.key.namespace,
                "annotations": annotations,
                "ownerReferences": [owner],
            },
            "type": SECRET_TYPE,
            "immutable": True,
            "data": {SECRET_MEMBER: base64.b64encode(self._whole(minted).encode()).decode()},
        }
