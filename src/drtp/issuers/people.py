"""The `Authenticator` of both doors: an ID token, one of our own bearer tokens, or a client certificate."""

from __future__ import annotations

from drtp.api.people import Proof, User
from drtp.issuers.idtokens import IdTokens, Proven
from drtp.issuers.tokens import Accounts
from drtp.kit.errors import Refused


class People:
    """Who a caller is, by whatever they show."""

    def __init__(self, accounts: Accounts, id_tokens: IdTokens) -> None:
        self._accounts = accounts
        self._id_tokens = id_tokens

    async def authenticate(self, token: str, peer_cert_der: bytes | None, remote: str) -> User | None:
        """As `Authenticator.authenticate`."""
        if token.count(".") != 2:
            return await self._accounts.authenticate(token, peer_cert_der, remote)
        try:
            proven = await self._id_tokens.proven(token)
        except Refused as refusal:
            self._accounts.refused("", remote, refusal.what)
            return None
        user = await user_of(self._accounts, proven)
        if user is None:
            self._accounts.refused("", remote, "the account is shut")
        else:
            self._accounts.came(user, f"sign-in {user.uid}", remote)
        return user


async def user_of(accounts: Accounts, proven: Proven) -> User | None:
    """Whom an ID token proves; None for an account that is shut."""
    if not proven.account:
        return await accounts.foreigner(proven.name, proven.groups, proven.made, proven.until)
    user = await accounts.user(proven.account, made=proven.made)
    return user._replace(until=proven.until, proof=Proof.LOGIN) if user is not None else None
