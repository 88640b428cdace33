"""Tokens, client certificates of users, serving certificates, the audit log."""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from drtp.api.credentials import ENROLMENT_PREFIX, TOKEN_PREFIX, compose, read
from drtp.api.meta import Key
from drtp.api.people import AUTHENTICATED, SYSTEM_MASTERS, User, account_uid
from drtp.api.spiffe import PeerRole
from drtp.issuers import invitations, tokens
from drtp.issuers.audit import PACED_BURST, SOURCE_BURST, AuditLog, verify_audit
from drtp.issuers.authority import Authority
from drtp.issuers.digests import Pepper
from drtp.issuers.logins import Logins
from drtp.issuers.serving import ensure_serving_secret
from drtp.issuers.tokens import Accounts
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Refused, Terminal
from drtp.store.memory import MemoryStore


class Office:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.audit = AuditLog(directory / "audit" / "audit.log", self.clock)
        self.authority = Authority(directory / "authority", "drtp.test", "prism.test", self.clock)
        self.logins = Logins(self.store, Pepper(b"l" * 32), self.audit, self.clock)
        self.accounts = Accounts(self.store, Pepper(b"p" * 32), self.audit, self.clock, "drtp.test", self.logins)

    def certificate(self, role: PeerRole, uid: str) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        name = self.authority.identity(role, uid, organization="o", project="p")
        return self.authority.issue(name, key).leaf.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


async def test_token_proves_its_account_until_it_expires_or_is_revoked(office: Office):
    await office.accounts.ensure("u1", "joe", groups=("staff",))
    minted = await office.accounts.mint_token("u1", lifetime=timedelta(hours=1))
    token = minted.secret.reveal()
    user = await office.accounts.authenticate(token, None, "127.0.0.1")
    assert user is not None
    assert (user.name, user.uid, user.groups) == ("joe", "u1", ("staff", AUTHENTICATED))
    assert user.within == frozenset()
    stored = await office.store.get(Key("ApiToken.internal.datumapis.com", "", minted.id))
    assert token.split("_")[3] not in stored.raw.decode()
    await office.clock.advance(3601)
    assert await office.accounts.authenticate(token, None, "127.0.0.1") is None
    minted = await office.accounts.mint_token("u1")
    await office.accounts.revoke_token(minted.id)
    assert await office.accounts.authenticate(minted.secret.reveal(), None, "127.0.0.1") is None


async def test_a_narrowed_token_says_where_it_holds(office: Office):
    await office.accounts.ensure("root", "admin", groups=(SYSTEM_MASTERS,))
    for namespaces in ((), ("joe",)):
        token = (await office.accounts.mint_token("root", namespaces=namespaces)).secret.reveal()
        user = await office.accounts.authenticate(token, None, "")
        assert user.within == set(namespaces)


async def test_a_flood_of_bad_tokens_is_counted_and_fills_no_disk(office: Office, tmp_path: Path):
    for number in range(500):
        assert await office.accounts.authenticate("drtp_pat_nobody", None, f"198.51.100.{number % 250}") is None
    await office.clock.advance(2)
    assert await office.accounts.authenticate("drtp_pat_nobody", None, "198.51.100.1") is None
    lines = (tmp_path / "audit" / "audit.log").read_text().splitlines()
    assert len(lines) == PACED_BURST + 1
    assert f'"unsaid":"{500 - PACED_BURST}"' in lines[-1]


async def test_one_source_of_bad_tokens_leaves_room_for_what_others_do(office: Office, tmp_path: Path):
    for _ in range(500):
        assert await office.accounts.authenticate("drtp_pat_nobody", None, "2001:db8::1") is None
        assert await office.accounts.authenticate("drtp_pat_nobody", None, "2001:db8::2") is None
    assert await office.accounts.authenticate("drtp_pat_nobody", None, "198.51.100.1") is None
    lines = (tmp_path / "audit" / "audit.log").read_text().splitlines()
    assert len(lines) == SOURCE_BURST + 1
    assert "198.51.100.1" in lines[-1]


async def test_user_certificate_proves_a_user_and_no_other_role_does(office: Office):
    await office.accounts.ensure("root", "admin", groups=(SYSTEM_MASTERS,))
    user = await office.accounts.authenticate("", office.certificate(PeerRole.USER, "root"), "")
    assert user is not None
    assert SYSTEM_MASTERS in user.groups
    for role in (PeerRole.AGENT, PeerRole.POP, PeerRole.GATEWAY, PeerRole.CONTROLPLANE):
        assert await office.accounts.authenticate("", office.certificate(role, "root"), "") is None
    assert await office.accounts.authenticate("", office.certificate(PeerRole.USER, "unknown"), "") is None
    assert await office.accounts.authenticate("", None, "") is None


async def test_bad_token_is_nobody_even_with_a_good_certificate(office: Office):
    await office.accounts.ensure("root", "admin")
    assert await office.accounts.authenticate("drtp_pat_x", office.certificate(PeerRole.USER, "root"), "") is None


async def test_serving_secret_is_made_kept_and_renewed_at_a_third(office: Office):
    async def ensure(*hosts: str):
        return await ensure_serving_secret(office.store, office.authority, office.clock, name="wildcard", hosts=hosts)

    async def leaf() -> x509.Certificate:
        stored = await office.store.get(Key("Secret", "datum-system", "wildcard"))
        assert stored.object["type"] == "kubernetes.io/tls"
        return x509.load_pem_x509_certificate(base64.b64decode(stored.object["data"]["tls.crt"]))

    await ensure("*.prism.test", "localhost")
    first = await leaf()
    await office.clock.advance(23 * 3600)
    await ensure("*.prism.test", "localhost")
    assert await leaf() == first
    await office.clock.advance(2 * 3600)
    await ensure("*.prism.test", "localhost")
    second = await leaf()
    assert second != first
    await ensure("*.other.test")
    assert (await leaf()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    ) == ["*.other.test"]


def test_audit_log_shows_a_changed_line_and_survives_a_torn_one(tmp_path: Path):
    path = tmp_path / "audit" / "audit.log"
    log = AuditLog(path, FakeClock())
    for number in range(5):
        log.write("thing happened", number=number)
    log.close()
    with path.open("ab") as file:
        file.write(b'{"at":"torn')
    again = AuditLog(path, FakeClock())
    again.write("thing happened", number=5)
    again.close()
    verify_audit(path)
    lines = path.read_bytes().replace(b'"number":"2"', b'"number":"9"')
    path.write_bytes(lines)
    with pytest.raises(Terminal) as damaged:
        verify_audit(path)
    assert damaged.value.code == "DRTP-2019"


@given(st.integers(0, 2**256 - 1), st.sampled_from([ENROLMENT_PREFIX, TOKEN_PREFIX]), st.data())
def test_one_wrong_character_is_always_noticed(secret: int, prefix: str, data: st.DataObject):
    text = compose(prefix, "abcdef012345", secret)
    assert read(text, prefix).id == "abcdef012345"
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.characters(codec="ascii").filter(lambda other: other != text[place]))
    assert read(text[:place] + wrong + text[place + 1 :], prefix) is None


async def test_the_api_makes_no_token_of_a_user_in_groups_or_of_a_shut_one(office: Office):
    issued = await office.accounts.issue("bob", timedelta(hours=1))
    user = await office.accounts.authenticate(issued.token.reveal(), None, "")
    assert (user.name, user.groups) == ("bob", (AUTHENTICATED,))
    await office.accounts.ensure(account_uid("root"), "root", groups=(SYSTEM_MASTERS,))
    with pytest.raises(Refused) as refused:
        await office.accounts.issue("root", timedelta(hours=1))
    assert refused.value.code == "DRTP-1031"


async def test_a_certificate_from_before_a_reinstatement_stays_dead(office: Office):
    """A laptop is stolen, its user revoked, and reinstated for the next one: the thief's certificate is for hours."""
    uid = (await office.accounts.issue("bob", timedelta(hours=1))).uid
    stolen = office.certificate(PeerRole.USER, uid)
    assert await office.accounts.authenticate("", stolen, "")
    await office.accounts.shut("bob")
    assert await office.accounts.authenticate("", stolen, "") is None
    await office.clock.advance(60)
    await office.accounts.issue("bob", timedelta(hours=1), reinstate=True)
    assert await office.accounts.authenticate("", stolen, "") is None
    assert await office.accounts.authenticate("", office.certificate(PeerRole.USER, uid), "")
    # As a new password and each of the operator's tokens do.
    await office.accounts.ensure(uid, "bob", groups=("staff",))
    assert await office.accounts.authenticate("", stolen, "") is None


async def test_a_programs_token_ends_with_its_service_account_also_if_one_of_its_name_follows(tmp_path: Path):
    office = Office(tmp_path)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "joe"}}
    first = await office.store.create(account)
    issued = await office.accounts.issue_to_program("joe", "robot", first.uid, timedelta(hours=1))
    user = await office.accounts.authenticate(issued.token.reveal(), None, "")
    assert (user.name, user.uid) == ("system:serviceaccount:joe:robot", first.uid)
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:joe", AUTHENTICATED)
    await office.store.delete(Key("ServiceAccount", "joe", "robot"))
    assert await office.accounts.authenticate(issued.token.reveal(), None, "") is None
    second = await office.store.create(account)
    assert await office.accounts.authenticate(issued.token.reveal(), None, "") is None
    again = await office.accounts.issue_to_program("joe", "robot", second.uid, timedelta(hours=1))
    assert (await office.accounts.authenticate(again.token.reveal(), None, "")).uid == second.uid
    await office.clock.advance(7200)
    assert await office.accounts.authenticate(again.token.reveal(), None, "") is None


async def _program(office: Office, name: str, namespace: str = "joe") -> str:
    metadata = {"name": name, "namespace": namespace}
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    return (await office.store.create(made)).uid


async def test_expired_tokens_are_forgotten_and_good_ones_stay(office: Office):
    await office.accounts.ensure("u1", "joe")
    await office.accounts.mint_token("u1", lifetime=timedelta(hours=1))
    stays = await office.accounts.mint_token("u1", lifetime=timedelta(days=9))
    for_ever = await office.accounts.mint_token("u1", lifetime=None)
    await office.clock.advance(24 * 3600)
    assert await office.accounts.collect() == 0
    await office.clock.advance(2 * 3600)
    assert await office.accounts.collect() == 1
    left = {one.key.name for one in (await office.store.list("ApiToken.internal.datumapis.com")).items}
    assert left == {stays.id, for_ever.id}


async def test_tokens_of_a_projects_programs_are_capped_until_some_expire(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokens, "PROGRAM_TOKENS_MAX", 2)
    uids = {name: await _program(office, name) for name in ("one", "two")}
    other = await _program(office, "one", "joes")
    hour = timedelta(hours=1)
    for name, uid in uids.items():
        await office.accounts.issue_to_program("joe", name, uid, hour)
    with pytest.raises(Refused, match="DRTP-2050"):
        await office.accounts.issue_to_program("joe", "one", uids["one"], hour)
    await office.accounts.issue_to_program("joes", "one", other, hour)
    await office.clock.advance(3601)
    await office.accounts.issue_to_program("joe", "one", uids["one"], hour)


async def test_open_invitations_of_an_organisation_are_capped(office: Office, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(invitations, "OPEN_MAX", 2)
    sent = invitations.Invitations(office.store, Pepper(b"i" * 32), office.audit, office.clock)
    inviter, day = User("ann", "u-ann"), timedelta(days=1)
    texts = [(await sent.mint("acme", "uid", "viewer", inviter, day)).secret.reveal() for _ in range(2)]
    with pytest.raises(Refused, match="DRTP-2050"):
        await sent.mint("acme", "uid", "viewer", inviter, day)
    await sent.mint("other", "uid-2", "viewer", inviter, day)
    guest = User("bob", "u-bob")
    await office.store.update(sent.consumed(await sent.admit(texts[0], guest), guest))
    await sent.mint("acme", "uid", "viewer", inviter, day)
