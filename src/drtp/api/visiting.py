"""What the sign-in of visitors and gateways agree on: paths, what a visit token says, how long it is good.

A **visit token** is a signed token (JWT) of the control plane's own issuer. Its audience is one public host, as the
gateway's table names it; it says who the visitor is there, and which browser asked for it. In it is the **assertion**,
the token that services get: it says the same and opens nothing, or one service of a host could visit another one there.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

VISIT_LIFETIME = timedelta(hours=1)
"""Of a visit token. Then the browser is sent for the next one, and whoever is still signed in need do nothing."""

SIGNED_IN_PATH = "/.drtp/signed-in"
"""At the public host: where the sign-in sends a browser with its token."""

WHO_BYTES_MAX = 512
"""Of `who`: what a gateway tells a POP of the visitor fits into a PROXY header, and the whole token into a cookie."""


class Who(msgspec.Struct, frozen=True):
    """Who a visitor is, to a POP: names as roles are bound to them."""

    name: str
    groups: tuple[str, ...] = ()
