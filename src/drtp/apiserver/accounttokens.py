"""A posted `TokenRequest` of a ServiceAccount, as `kubectl create token` sends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.meta import Key
from drtp.api.people import TokenIssuer, User, service_account_user
from drtp.apiserver.failures import Failure
from drtp.apiserver.paths import Target
from drtp.apiserver.rbac import Rbac
from drtp.store.protocol import Store

LIFETIME_S = 3600
LIFETIME_S_MIN = 60
LIFETIME_S_MAX = 90 * 24 * 3600


async def issue(
    body: JsonObject, user: User, target: Target, *, store: Store, issuer: TokenIssuer, authoriser: Rbac
) -> JsonObject:
    """The posted object with its status. Raises: Failure 422, NotFound; Refused DRTP-1030 for a program that may more
    than whoever asks.
    """
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    if spec.get("audiences") or spec.get("boundObjectRef"):
        raise Failure(422, "DRTP-1010", "spec: Invalid value: audiences and boundObjectRef are not carried out here")
    lifetime: Any = spec.get("expirationSeconds") or LIFETIME_S
    if not isinstance(lifetime, int) or not LIFETIME_S_MIN <= lifetime <= LIFETIME_S_MAX:
        message = f"spec.expirationSeconds: Invalid value: must be between {LIFETIME_S_MIN} and {LIFETIME_S_MAX}"
        raise Failure(422, "DRTP-1010", message)
    authoriser.check_acting_as(user, service_account_user(target.namespace, target.name))
    account = await store.get(Key("ServiceAccount", target.namespace, target.name))
    issued = await issuer.issue_to_program(target.namespace, target.name, account.uid, timedelta(seconds=lifetime))
    expires = issued.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": target.name, "namespace": target.namespace},
        "spec": {"audiences": [], "expirationSeconds": lifetime},
        "status": {"token": issued.token.reveal(), "expirationTimestamp": expires},
    }
