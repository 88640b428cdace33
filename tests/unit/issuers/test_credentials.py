"""What users make for themselves allows no more, and lasts no longer, than what they showed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from drtp.api.people import AUTHENTICATED, SYSTEM_MASTERS, Proof, TokenAsk, User, account_uid
from drtp.api.spiffe import identity_of
from drtp.client.keys import new_key, request_for
from drtp.issuers.audit import AuditLog
from drtp.issuers.authority import Authority
from drtp.issuers.credentials import Credentials
from drtp.issuers.digests import Pepper
from drtp.issuers.logins import IDLE, LIFETIME, Logins
from drtp.issuers.passwords import LENGTH_MAX, WAITING_MAX, Passwords
from drtp.issuers.tokens import Accounts
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Invalid, NotFound, Refused, Retryable
from drtp.kit.secret import Secret
from drtp.store.memory import MemoryStore

DAY = timedelta(days=1)
PASSWORD = Secret("correct horse battery staple")


class Office:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        audit = AuditLog(directory / "audit" / "audit.log", self.clock)
        self.authority = Authority(directory / "authority", "drtp.test", "prism.test", self.clock)
        self.logins = Logins(self.store, Pepper(b"l" * 32), audit, self.clock)
        self.accounts = Accounts(self.store, Pepper(b"p" * 32), audit, self.clock, "drtp.test", self.logins)
        self.passwords = Passwords(memory_kib=64)
        self.credentials = Credentials(
            self.store, self.accounts, self.passwords, self.authority, audit=audit, clock=self.clock
        )

    def user(self, name: str = "joe", proof: Proof = Proof.LOGIN, within: tuple[str, ...] = ()) -> User:
        return User(name, account_uid(name), (AUTHENTICATED,), within=frozenset(within), proof=proof)

    async def shown(self, token: Secret[str]) -> User | None:
        return await self.accounts.authenticate(token.reveal(), None, "127.0.0.1")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.passwords.close()


async def test_a_token_proves_its_maker_within_its_projects_until_it_ends(office: Office) -> None:
    made, token = await office.credentials.make_token(office.user(), TokenAsk(("a", "b"), DAY, read_only=True))
    user = await office.shown(token)
    assert user is not None
    assert (user.name, user.within, user.read_only, user.proof) == ("joe", {"a", "b"}, True, Proof.TOKEN)
    assert user.until == made.expires_at == office.clock.now() + DAY
    await office.clock.advance(DAY.total_seconds())
    assert await office.shown(token) is None


async def test_a_token_makes_no_wider_and_no_longer_one(office: Office) -> None:
    _, token = await office.credentials.make_token(office.user(), TokenAsk(("a", "b"), DAY, read_only=True))
    narrowed = await office.shown(token)
    assert narrowed is not None
    for ask in (
        TokenAsk(("a", "c"), DAY / 2, read_only=True),
        TokenAsk(("a",), DAY * 2, read_only=True),
        TokenAsk(("a",), DAY / 2, read_only=False),
    ):
        with pytest.raises(Refused, match="DRTP-2035"):
            await office.credentials.make_token(narrowed, ask)
    kept, _ = await office.credentials.make_token(narrowed, TokenAsk((), DAY / 2, read_only=True))
    assert kept.namespaces == ("a", "b")


async def test_a_narrowed_token_sees_deletes_and_certifies_nothing_of_its_user(office: Office) -> None:
    made, _ = await office.credentials.make_token(office.user(), TokenAsk(("a",), DAY))
    for narrow in (office.user(within=("a",)), office.user()._replace(read_only=True)):
        with pytest.raises(Refused, match="DRTP-2035"):
            await office.credentials.tokens_of(narrow)
        with pytest.raises(Refused, match="DRTP-2035"):
            await office.credentials.drop_token(narrow, made.id)
        with pytest.raises(Refused, match="DRTP-2035"):
            await office.credentials.certify(narrow, request_for(new_key()))


async def test_nobody_sees_or_deletes_anothers_token(office: Office) -> None:
    made, token = await office.credentials.make_token(office.user("joe"), TokenAsk((), DAY))
    assert await office.credentials.tokens_of(office.user("eve")) == ()
    with pytest.raises(NotFound):
        await office.credentials.drop_token(office.user("eve"), made.id)
    assert await office.shown(token) is not None
    assert [one.id for one in await office.credentials.tokens_of(office.user("joe"))] == [made.id]
    await office.credentials.drop_token(office.user("joe"), made.id)
    assert await office.shown(token) is None


async def test_a_short_token_makes_no_certificate_and_a_certificate_no_token_beyond_its_end(office: Office) -> None:
    _, token = await office.credentials.make_token(office.user(), TokenAsk((), timedelta(hours=1)))
    shown = await office.shown(token)
    assert shown is not None
    with pytest.raises(Refused, match="DRTP-2035"):
        await office.credentials.certify(shown, request_for(new_key()))
    certified = await office.credentials.certify(office.user(), request_for(new_key()))
    leaf = x509.load_pem_x509_certificates(certified.chain_pem.encode())[0]
    by_certificate = await office.accounts.authenticate("", leaf.public_bytes(Encoding.DER), "127.0.0.1")
    assert by_certificate is not None
    assert by_certificate.until == certified.not_after
    with pytest.raises(Refused, match="DRTP-2035"):
        await office.credentials.make_token(by_certificate, TokenAsk((), DAY))
    await office.credentials.make_token(by_certificate, TokenAsk((), timedelta(hours=7)))


async def test_a_certificate_is_of_its_user_for_hours_and_makes_no_further_one(office: Office) -> None:
    certified = await office.credentials.certify(office.user("https://issuer#sam"), request_for(new_key()))
    leaf = x509.load_pem_x509_certificates(certified.chain_pem.encode())[0]
    assert identity_of(leaf).uid == account_uid("https://issuer#sam")
    assert certified.not_after - office.clock.now() == timedelta(hours=8)

    user = await office.accounts.authenticate("", leaf.public_bytes(Encoding.DER), "127.0.0.1")
    assert user is not None and user.name == "https://issuer#sam" and user.proof is Proof.CERTIFICATE
    with pytest.raises(Refused, match="no further"):
        await office.credentials.certify(user, request_for(new_key()))


async def test_a_password_is_set_for_no_administrator_and_none_that_is_short(office: Office) -> None:
    await office.accounts.ensure(account_uid("root"), "root", groups=(SYSTEM_MASTERS,))
    by = office.user("operator")
    with pytest.raises(Refused, match="DRTP-1031"):
        await office.credentials.set_password("root", PASSWORD, by)
    for wrong in ("short", "x" * (LENGTH_MAX + 1), "longer-than-twelve"):
        with pytest.raises(Invalid, match="DRTP-2037"):
            await office.credentials.set_password("LONGER-than-twelve", Secret(wrong), by)


async def test_a_new_password_ends_the_sign_ins_of_the_old_one(office: Office) -> None:
    uid = await office.credentials.set_password("joe", PASSWORD, office.user("operator"))
    _, refresh = await office.logins.begin(uid)
    await office.credentials.set_password("joe", Secret("another horse, another staple"), office.user("operator"))
    with pytest.raises(Refused, match="DRTP-2032"):
        await office.logins.refresh(refresh.reveal(), "127.0.0.1")
    # The account keeps its password when a token is minted for it, or its groups are looked at.
    await office.accounts.ensure(uid, "joe")
    stored = (await office.store.list("Account.internal.datumapis.com")).items[0]
    assert await office.passwords.fits(stored.object["spec"]["password"], Secret("another horse, another staple"))


async def test_a_sign_in_ends_when_it_is_idle_and_in_any_case(office: Office) -> None:
    uid = await office.credentials.set_password("joe", PASSWORD, office.user("operator"))
    _, idle = await office.logins.begin(uid)
    _, token = await office.logins.begin(uid)
    days = LIFETIME // IDLE
    for _ in range(days):
        await office.clock.advance((IDLE - DAY).total_seconds())
        _, token = await office.logins.refresh(token.reveal(), "127.0.0.1")
    with pytest.raises(Refused):
        await office.logins.refresh(idle.reveal(), "127.0.0.1")
    await office.clock.advance((IDLE - DAY).total_seconds())
    with pytest.raises(Refused):
        await office.logins.refresh(token.reveal(), "127.0.0.1")
    assert await office.logins.collect() == 2


async def test_a_crowd_of_guesses_is_told_to_come_again_and_queues_for_no_minutes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.passwords._waiting = WAITING_MAX
    with pytest.raises(Retryable, match="DRTP-2033"):
        await office.passwords.fits("", PASSWORD)


async def test_comparing_with_nobodys_password_is_the_same_work() -> None:
    """Same algorithm, same cost, same lengths: the text of a hash says all of it but the random parts."""
    made = Passwords(memory_kib=64)
    hashed = await made.hashed("joe", PASSWORD)
    kinds = [
        [len(part) if number > 3 else part for number, part in enumerate(text.split("$"))]
        for text in (made._nobody, hashed)
    ]
    assert kinds[0] == kinds[1]
    assert await made.fits(hashed, PASSWORD) and not await made.fits("", PASSWORD)
    made.close()
