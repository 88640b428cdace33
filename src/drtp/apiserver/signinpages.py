"""The pages of the sign-in: one form each, no script, nothing from elsewhere; every word of a caller is escaped."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from html import escape

from aiohttp import web

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:22rem;margin:12vh auto;padding:0 1rem;color:#1b1b1f}"
    "label{display:block;margin:.8rem 0}input{display:block;width:100%;box-sizing:border-box;"
    "font:inherit;padding:.4rem}"
    "button{font:inherit;padding:.5rem 1rem;margin:.8rem .5rem 0 0}.said{color:#a40000}"
)


def sign_in(
    fields: dict[str, str], *, action: str, where: str, host: str = "", fault: str = "", status: int = 200
) -> web.Response:
    """Name and password, for `datumctl` on this machine, or for a public place (`host`) that one visits.

    `fields` go along hidden; `where`: the page it returns to.
    """
    what = (
        f"<p>to reach <b>{escape(host)}</b>, which is told who you are.</p>"
        if host
        else "<p>to use <b>datumctl</b> on this machine. Go on only if you just started "
        "<code>datumctl login</code>.</p>"
    )
    body = (
        f'<h1>Sign in</h1>{_said(fault)}{what}<form method="post" action="{escape(action)}">{_hidden(fields)}{_WHO}'
        '<button name="do" value="grant">Sign in</button></form>'
    )
    return page("Sign in", body, status=status, form_to=where)


def device(fields: dict[str, str], *, action: str, code: str, fault: str = "", status: int = 200) -> web.Response:
    """Code, name and password, for `datumctl` on another device."""
    body = (
        f"<h1>Sign a device in</h1>{_said(fault)}<p>Go on only if a device of yours shows this code. Whoever sent you "
        f'here may have made it.</p><form method="post" action="{escape(action)}">{_hidden(fields)}'
        f'<label>Code <input name="user_code" value="{escape(code)}" autocomplete="off" maxlength="20" required>'
        "</label>"
        f'{_WHO}<button name="do" value="grant">Sign the device in</button>'
        '<button name="do" value="deny">It is not mine</button></form>'
    )
    return page("Sign a device in", body, status=status)


def choose(
    fields: dict[str, str], *, action: str, host: str, issuers: Mapping[str, str], fault: str = "", status: int = 200
) -> web.Response:
    """Where to sign in, to reach `host`: `issuers` by what they are called."""
    buttons = "".join(
        f'<button name="issuer" value="{escape(issuer)}">{escape(name)}</button>' for name, issuer in issuers.items()
    )
    body = (
        f"<h1>Sign in</h1>{_said(fault)}<p>to reach <b>{escape(host)}</b>, which is told who you are.</p>"
        f'<form method="post" action="{escape(action)}">{_hidden(fields)}{buttons}</form>'
    )
    return page("Sign in", body, status=status, form_to="https: http:")


def leave(fields: dict[str, str], *, action: str, who: str) -> web.Response:
    """Somebody who is signed in wants to be no more."""
    body = (
        f"<h1>Sign out</h1><p>You are signed in as <b>{escape(who)}</b> in this browser.</p>"
        f'<form method="post" action="{escape(action)}">{_hidden(fields)}'
        '<button name="do" value="go">Sign out</button></form>'
    )
    return page("Sign out", body)


def onward(to: str, host: str) -> web.Response:
    """On to the place. A page, and no redirect: browsers follow none from a form to an address that it did not name."""
    told = f'<h1>Signed in</h1><p>On to <a href="{escape(to)}">{escape(host)}</a>.</p>'
    found = page("Signed in", told, head=f'<meta http-equiv="refresh" content="0;url={escape(to)}">')
    found.headers["Referrer-Policy"] = "no-referrer"
    return found


def consent(fields: dict[str, str], *, action: str, host: str, back: str, who: str) -> web.Response:
    """Somebody who is signed in comes to a site for the first time. `back`: the site's origin."""
    body = (
        f"<h1>{escape(host)}</h1><p>wants to know who you are. You are signed in as <b>{escape(who)}</b>.</p>"
        f'<form method="post" action="{escape(action)}">{_hidden(fields)}'
        '<button name="do" value="go">Tell it, and go on</button>'
        '<button name="do" value="other">I am somebody else</button></form>'
    )
    return page(host, body, form_to=back)


def told(title: str, sentence: str, *, status: int = 200) -> web.Response:
    """A page that only says something."""
    return page(title, f"<h1>{escape(title)}</h1><p>{escape(sentence)}</p>", status=status)


def page(title: str, body: str, *, status: int = 200, form_to: str = "", head: str = "") -> web.Response:
    """`form_to`: where the answer to the form may lead, beside this site itself."""
    nonce = secrets.token_urlsafe(16)
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'{head}<title>{escape(title)} - DRTP</title><style nonce="{nonce}">{_STYLE}</style><body>{body}</body></html>'
    )
    response = web.Response(text=text, content_type="text/html", charset="utf-8", status=status)
    response.headers.update(UNKEPT)
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self' {form_to}".rstrip()
        + "; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["X-Frame-Options"] = "DENY"
    # With `no-referrer` a browser would send `Origin: null` with the form, and the form is refused for that.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


UNKEPT = {"Cache-Control": "no-store"}

_WHO = (
    '<label>Name <input name="name" autocomplete="username" maxlength="128" autofocus required></label>'
    '<label>Password <input name="password" type="password" autocomplete="current-password" maxlength="256" required>'
    "</label>"
)


def _hidden(fields: dict[str, str]) -> str:
    return "".join(f'<input type="hidden" name="{escape(n)}" value="{escape(v)}">' for n, v in fields.items())


def _said(fault: str) -> str:
    return f'<p class="said" role="alert">{escape(fault)}</p>' if fault else ""
