"""BackendTLSPolicies that are about a DRTPService: they are told that nothing here carries them out.

Gateways reach POPs by a trust of their own, and the agent alone knows how to trust its local service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from drtp.api import gatewayapi
from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.gatewayapi import BackendTargetRef, BackendTLSPolicy, ParentRef, PolicyAncestorStatus, PolicyStatus
from drtp.api.meta import Condition, Key
from drtp.api.reasons import Aspect, Reason
from drtp.controllers import writing
from drtp.controllers.runtime import EdgeChange, MapChange, Outcome, World, itself
from drtp.controllers.writing import Turn
from drtp.rules import attachment, conditions
from drtp.rules.conditions import no

KINDS = (gatewayapi.BACKEND_TLS_POLICY,)


class BackendTlsController:
    """Keyed by BackendTLSPolicy."""

    name = "backendtls"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """The policies themselves."""
        return {gatewayapi.BACKEND_TLS_POLICY: itself}

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """One ancestor for each DRTPService; other controllers' entries stay as they are."""
        stored, policy = world.view.stored(key), world.view.get(BackendTLSPolicy, key.namespace, key.name)
        if stored is None or policy is None:
            return Outcome()
        ours = [one for one in policy.spec.target_refs if (one.group, one.kind) == (DRTP_GROUP, "DRTPService")]
        mine = [_ancestor(policy, ref, now) for ref in dict.fromkeys(map(_parent, ours))]
        others = [one for one in policy.status.ancestors if one.controller_name != attachment.CONTROLLER_NAME]
        if not mine and len(others) == len(policy.status.ancestors):
            return Outcome()
        turns = (Turn(_held(policy, one.ancestor_ref), one.conditions) for one in mine)
        status = PolicyStatus(ancestors=(*others, *mine))
        return Outcome(writing.status(stored, status), None, writing.transitions(key, *turns))


def _parent(target: BackendTargetRef) -> ParentRef:
    return ParentRef(name=target.name, group=target.group, kind=target.kind)


def _ancestor(policy: BackendTLSPolicy, ref: ParentRef, now: datetime) -> PolicyAncestorStatus:
    what = f"Nothing carries it out for DRTPService {ref.name}: see spec.local.tls, and the trust of its agent."
    told = [no(Aspect.ACCEPTED, Reason.TARGET_NOT_SUPPORTED, what)]
    merged = conditions.merge(_held(policy, ref), told, policy.metadata.generation, now)
    return PolicyAncestorStatus(ancestor_ref=ref, controller_name=attachment.CONTROLLER_NAME, conditions=merged)


def _held(policy: BackendTLSPolicy, ref: ParentRef) -> tuple[Condition, ...]:
    ours = (one for one in policy.status.ancestors if one.controller_name == attachment.CONTROLLER_NAME)
    return next((one.conditions for one in ours if one.ancestor_ref == ref), ())
