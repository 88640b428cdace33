"""Which life of the control plane this is: the first half of every snapshot's generation."""

from __future__ import annotations

from drtp.api.meta import Key
from drtp.kit.clock import Clock, unix_ms
from drtp.store.protocol import NotFound, Store

KEY = Key("Incarnation.internal.datumapis.com", "", "controlplane")


async def next_incarnation(store: Store, clock: Clock) -> int:
    """max(stored + 1, unix milliseconds), stored before it is used.

    So neither a clock that went back nor a restored database ever makes an edge refuse a new snapshot as old.
    Raises: Conflict if another control plane starts on the same store at this moment.
    """
    try:
        known = (await store.get(KEY)).object
    except NotFound:
        value = unix_ms(clock)
        await store.create(
            {
                "apiVersion": "internal.datumapis.com/v1",
                "kind": "Incarnation",
                "metadata": {"name": KEY.name},
                "spec": {"value": value},
            }
        )
        return value
    value = max(known["spec"]["value"] + 1, unix_ms(clock))
    await store.update({**known, "spec": {"value": value}})
    return value
