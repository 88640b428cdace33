"""`datumctl enable, disable`: reachable or not, with everything reserved kept."""

from __future__ import annotations

import click

from drtp.api.drtp import API_VERSION
from drtp.main.datum.access import api_of, namespace_option
from drtp.main.datum.invocation import Invocation, context_option
from drtp.main.shell import run_async


@click.command()
@click.argument("service")
@context_option
@namespace_option
def enable(service: str, namespace: str | None) -> int:
    """Let visitors reach SERVICE."""
    return run_async(_switch(Invocation.current(), service, namespace, enabled=True))


@click.command()
@click.argument("service")
@context_option
@namespace_option
def disable(service: str, namespace: str | None) -> int:
    """Cut SERVICE off at once; name, host name and port stay reserved."""
    return run_async(_switch(Invocation.current(), service, namespace, enabled=False))


async def _switch(invocation: Invocation, service: str, namespace: str | None, *, enabled: bool) -> int:
    async with api_of(invocation) as api:
        patch = {"spec": {"enabled": enabled}}
        await api.patch(API_VERSION, "drtpservices", service, patch, namespace=namespace or api.namespace)
    click.echo(f"{service} {'enabled' if enabled else 'disabled'}", err=True)
    return 0
