"""Organisations: posted `ProjectRequest`, `Invitation` and `InvitationAcceptance`, and what protects their projects.

An organisation is the project of its own name: the namespace whose label `datumapis.com/organization` is its name. Only
the operator makes one. Its members' roles are RoleBindings there.
"""

from __future__ import annotations

from datetime import timedelta

from drtp.api import admission, rbac
from drtp.api.core import ORGANIZATION_LABEL
from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.api.people import User
from drtp.api.registry import REGISTRY
from drtp.apiserver import namespaces
from drtp.apiserver.failures import Failure
from drtp.apiserver.posted import Spec
from drtp.apiserver.rbac import Rbac
from drtp.issuers.audit import AuditLog
from drtp.issuers.invitations import LIFETIME_S, LIFETIME_S_MAX, Invitations
from drtp.kit.errors import Conflict, Invalid, NotFound, Refused
from drtp.rules.permissions import ORGANIZATION_ROLES
from drtp.store.protocol import AlreadyExists, Create, Store, Stored, Update, Write

ATTEMPTS = 5


class Organizations:
    """Makes projects in an organisation, and lets people into it."""

    def __init__(self, store: Store, authoriser: Rbac, invitations: Invitations, audit: AuditLog) -> None:
        self._store = store
        self._authoriser = authoriser
        self._invitations = invitations
        self._audit = audit

    async def make_project(self, body: JsonObject, organization: str, user: User) -> JsonObject:
        """A project of the organisation in whose own project this was posted. Raises: Failure, Refused, AlreadyExists.

        Names of projects are the installation's: one that is taken answers 409, whoever has it.
        """
        spec = Spec(body)
        name = spec.text("name", needed=True)
        spec.done()
        home = await self._home(organization)
        metadata = {"name": name, "labels": {ORGANIZATION_LABEL: organization}}
        admitted = admission.admit(
            REGISTRY[namespaces.KIND], {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        )
        # Conditional on the organisation as it was found: no project is made in one that goes at this moment.
        made = (await self._store.apply([Update(home.object), *namespaces.creation(admitted)]))[-1]
        await self._authoriser.reached(self._store.revision)
        self._audit.write(
            "project made",
            project=name,
            also=[organization],
            organization=organization,
            by=user.name,
            decision="allowed",
        )
        return body | {"metadata": {"namespace": organization}, "status": {"project": name, "uid": made.uid}}

    async def invite(self, body: JsonObject, organization: str, user: User) -> JsonObject:
        """An invitation, shown once. Raises: Failure 422, Refused DRTP-1030 (a role beyond the inviter's own)."""
        spec = Spec(body)
        role = spec.text("role", needed=True)
        lifetime_s = spec.number("lifetimeSeconds", LIFETIME_S, 60, LIFETIME_S_MAX)
        spec.done()
        if role not in ORGANIZATION_ROLES:
            known = ", ".join(ORGANIZATION_ROLES)
            raise Failure(422, "DRTP-1010", f"spec.role: Unsupported value: supported values: {known}")
        home = await self._home(organization)
        self._check_grant(user, organization, role)
        minted = await self._invitations.mint(organization, home.uid, role, user, timedelta(seconds=lifetime_s))
        status = {"invitation": minted.secret.reveal(), "id": minted.id, "expires": minted.expires_at.isoformat()}
        return body | {"metadata": {"namespace": organization}, "status": status}

    async def accept(self, body: JsonObject, user: User) -> JsonObject:
        """Give the invited role to whoever posts this, and nothing else. Raises: Refused DRTP-2022, Failure 422.

        Accepting again is answered alike.
        """
        spec = Spec(body)
        text = spec.text("invitation", needed=True)
        spec.done()
        if user.within:
            raise Refused("DRTP-2022", "A token that is narrowed to projects accepts no invitation.")
        for _ in range(ATTEMPTS):
            held = await self._invitations.admit(text, user)
            found = held.record.spec
            inviter = User(found.inviter, found.inviter_uid, found.inviter_groups)
            try:
                home = await self._home(found.organization)
                self._check_inviter(inviter, found.organization, found.role)
            except Refused:
                raise self._invitations.withdrawn(held, user) from None
            if home.uid != found.organization_uid:
                raise self._invitations.withdrawn(held, user)
            binding = _binding(found.organization, found.role, user)
            writes: list[Write] = []
            if not found.accepted_by:
                writes = [Update(self._invitations.consumed(held, user)), await self._bound(binding)]
            try:
                await self._store.apply(writes)
            except (Conflict, AlreadyExists):
                continue
            await self._authoriser.reached(self._store.revision)
            if writes:
                self._audit.write(
                    "invitation accepted",
                    project=found.organization,
                    invitation=held.record.metadata.name,
                    role=found.role,
                    invited_by=found.inviter,
                    by=user.name,
                    decision="allowed",
                )
            status = {"organization": found.organization, "role": found.role}
            return {**body, "metadata": {}, "spec": {}, "status": status}
        raise Conflict("DRTP-1003")

    async def _bound(self, binding: JsonObject) -> Write:
        """The write by which the binding is there, with exactly this user in it."""
        try:
            held = await self._store.get(_key(binding))
        except NotFound:
            return Create(binding)
        return Update(held.object | {"subjects": binding["subjects"]})

    async def check_deletion(self, project: Stored, user: User) -> None:
        """An organisation goes last, by the operator. Raises: Failure 403, Conflict DRTP-2023."""
        name = project.key.name
        if project.labels.get(ORGANIZATION_LABEL) != name:
            return
        if not self._authoriser.decide(user, "update", "", "namespaces", "organization", name, name).allowed:
            message = f'namespaces "{name}" is forbidden: an organisation is the operator\'s to delete'
            raise Failure(403, "DRTP-1012", message, details={"name": name, "kind": "namespaces"})
        listing = await self._store.list(namespaces.KIND)
        left = [one.key.name for one in listing.items if one.labels.get(ORGANIZATION_LABEL) == name != one.key.name]
        if left:
            message = f"the organisation {name} has projects: {', '.join(left[:4])}"
            raise Failure(409, "DRTP-2023", message, details={"name": name, "kind": "namespaces"})

    async def _home(self, name: str) -> Stored:
        """Raises: Refused DRTP-2021, the same whether there is such a project or not."""
        try:
            stored = await self._store.get(Key(namespaces.KIND, "", name))
        except NotFound:
            raise Refused("DRTP-2021") from None
        if stored.labels.get(ORGANIZATION_LABEL) != name or "deletionTimestamp" in stored.metadata:
            raise Refused("DRTP-2021")
        return stored

    def _check_grant(self, user: User, organization: str, role: str) -> None:
        """Nobody gives what they do not hold. Raises: Refused DRTP-1030."""
        if self._authoriser.decide(
            user, "bind", rbac.GROUP, "clusterroles", "", organization, ORGANIZATION_ROLES[role]
        ).allowed:
            return
        self._authoriser.check_role(user, organization, _role_ref(role))

    def _check_inviter(self, inviter: User, organization: str, role: str) -> None:
        """Raises: Refused."""
        decided = self._authoriser.decide(
            inviter, "create", "identity.datumapis.com", "invitations", "", organization, ""
        )
        if not decided.allowed:
            raise Refused("DRTP-2022")
        self._check_grant(inviter, organization, role)


def _role_ref(role: str) -> rbac.RoleRef:
    return rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name=ORGANIZATION_ROLES[role])


def _binding(organization: str, role: str, user: User) -> JsonObject:
    name = f"{ORGANIZATION_ROLES[role]}-{user.uid or user.name}"
    obj: JsonObject = {
        "apiVersion": rbac.API_VERSION,
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": organization},
        "roleRef": {"apiGroup": rbac.GROUP, "kind": "ClusterRole", "name": ORGANIZATION_ROLES[role]},
        "subjects": [{"apiGroup": rbac.GROUP, "kind": "User", "name": user.name}],
    }
    info = next(one for one in rbac.KINDS if one.kind == "RoleBinding")
    try:
        return admission.admit(info, obj)
    except Invalid as fault:
        raise Refused("DRTP-2022", f"A user of this name cannot be given a role: {fault.what}") from None


def _key(binding: JsonObject) -> Key:
    metadata = binding["metadata"]
    return Key(f"RoleBinding.{rbac.GROUP}", metadata["namespace"], metadata["name"])
