"""A posted `ServiceCredentials`: one string that suffices, shown once or kept in a Secret for as long as it is good."""

from __future__ import annotations

import base64
from typing import Any

from drtp.api.internal import ENROLMENT_SECRET
from drtp.api.meta import Key
from drtp.client.joining import parse_join
from unit.apiserver.serving import EVE, JOE, Served

PATH = "/apis/identity.datumapis.com/v1alpha/namespaces/joe/servicecredentials"


async def service(api: Served, name: str = "db") -> str:
    spec = {"protocol": "TCP", "local": {"host": "localhost", "port": 5432}}
    body = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": {"name": name}, "spec": spec}
    status, made = await api.call("POST", "/apis/datumapis.com/v1alpha/namespaces/joe/drtpservices", body, token=JOE)
    assert status == 201
    return made["metadata"]["uid"]


async def ask(api: Served, token: str = JOE, **spec: Any) -> tuple[int, Any]:
    return await api.call("POST", PATH, {"spec": spec}, token=token)


async def test_it_is_one_string_with_everything_in_it(api: Served) -> None:
    uid = await service(api)
    status, made = await ask(api, service="db", uses=3, lifetimeSeconds=600, sourceCIDRs=["10.0.0.0/8"])
    assert (status, made["status"]["service"]) == (201, uid)
    join = parse_join(made["status"]["secret"])
    assert (join.edge.host, join.edge.port) == ("127.0.0.1", 8443)
    (stored,) = (await api.store.list(ENROLMENT_SECRET)).items
    assert (stored.object["spec"]["usesMax"], stored.object["spec"]["sourceCidrs"]) == (3, ["10.0.0.0/8"])
    assert join.secret.reveal().encode() not in stored.raw


async def test_whoever_may_not_change_the_service_gets_none(api: Served) -> None:
    await service(api)
    assert (await ask(api, EVE, service="db"))[0] == 403
    assert (await ask(api, EVE, service="absent"))[0] == 403
    assert (await ask(api, service="absent"))[0] == 404
    assert (await ask(api, "", service="db"))[0] == 401


async def test_every_fault_is_told_at_once(api: Served) -> None:
    await service(api)
    status, said = await ask(api, service="db", uses=0, lifetimeSeconds=90_000, secret="x")
    assert status == 422
    for name in ("spec.uses", "spec.lifetimeSeconds", "spec.secret"):
        assert name in said["message"]
    assert (await ask(api, service="db", sourceCIDRs=["10.0.0.7/8"]))[0] == 422
    assert (await api.store.list(ENROLMENT_SECRET)).items == []


async def test_kept_in_a_secret_it_is_not_shown_and_the_secret_is_the_services(api: Served) -> None:
    uid = await service(api)
    status, made = await ask(api, service="db", secretName="db-agent")
    assert (status, "secret" in made["status"], made["status"]["secretName"]) == (201, False, "db-agent")
    held = await api.store.get(Key("Secret", "joe", "db-agent"))
    assert parse_join(base64.b64decode(held.object["data"]["secret"]).decode())
    assert held.object["type"] == "datumapis.com/enrolment"
    assert held.metadata["ownerReferences"][0]["uid"] == uid
    assert held.metadata["annotations"]["datumapis.com/expires"] == made["status"]["expires"]
    assert (await ask(api, service="db", secretName="db-agent"))[0] == 409
    assert len((await api.store.list(ENROLMENT_SECRET)).items) == 1


async def test_a_service_accounts_secret_lets_connectors_in_for_whoever_may_make_its_tokens(api: Served) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reports"}}
    status, made = await api.call("POST", "/api/v1/namespaces/joe/serviceaccounts", account, token=JOE)
    assert status == 201
    status, given = await ask(api, serviceAccount="reports", uses=2)
    assert status == 201
    assert parse_join(given["status"]["secret"]).edge.port == 8443
    (stored,) = (await api.store.list(ENROLMENT_SECRET)).items
    spec = stored.object["spec"]
    assert (spec["role"], spec["bound"]["uid"], spec["usesMax"]) == ("connector", made["metadata"]["uid"], 2)
    assert (await ask(api, EVE, serviceAccount="reports"))[0] == 403
    assert (await ask(api, EVE, serviceAccount="absent"))[0] == 403
    status, said = await ask(api, serviceAccount="absent")
    assert (status, said["message"]) == (404, 'service account "absent" in project joe not found (DRTP-1001)')
    assert (await ask(api, serviceAccount="reports", service="db"))[0] == 422


async def test_nobody_lets_in_a_program_that_may_more_than_they_do(api: Served) -> None:
    """As for its tokens: an account of joe's that eve's project trusts is not joe's editor's to act as."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    assert (await api.call("POST", "/api/v1/namespaces/joe/serviceaccounts", account, token=JOE))[0] == 201
    rbac = "rbac.authorization.k8s.io"
    stored = await api.store.create(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "robot", "namespace": "eve"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "joe"}],
        }
    )
    await api.rbac.reached(stored.revision)
    status, said = await ask(api, serviceAccount="robot")
    assert (status, "DRTP-1030" in said["message"]) == (403, True)
    assert (await api.store.list(ENROLMENT_SECRET)).items == []
