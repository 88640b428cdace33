"""The issuers' parts that the door for edges uses, handed over as one."""

from __future__ import annotations

from dataclasses import dataclass

from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.invitations import Invitations
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.issuers.tokens import Accounts


@dataclass(frozen=True, slots=True)
class Issuing:
    """What gives certificates, secrets, tokens and invitations, and writes down what was given."""

    authority: Authority
    secrets: EnrolmentSecrets
    accounts: Accounts
    invitations: Invitations
    audit: AuditLog
