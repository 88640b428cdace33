"""Create, update, patch, delete. Admission is in front of every write; the store judges revisions and finalizers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from drtp.api import admission
from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.meta import Key
from drtp.apiserver import applies, namespaces, patches
from drtp.apiserver.calls import Call, json_value, read_body, read_object, yaml_object
from drtp.apiserver.changes import Changes
from drtp.apiserver.failures import Failure, bad_request, resource_name
from drtp.apiserver.granting import Granting
from drtp.apiserver.organizations import Organizations
from drtp.apiserver.reads import Reads
from drtp.apiserver.selectors import compile_selectors
from drtp.kit import errors
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock
from drtp.kit.observe import logger
from drtp.store import protocol as stores
from drtp.store.protocol import Create, Delete, Store, Stored, Update, UpdateStatus, Write

PATCH_WITHIN_S = 3.0
"""So long a patch that names no revision is tried on the newest state: a busy status delays it and never refuses it."""
PATCH_PAUSE_S, PATCH_PAUSE_MAX_S = 0.005, 0.05
"""About one sync of a disk, and of a slow one: the write that was faster shows only once it is durable."""

log = logger("apiserver")


class Writes:
    """Carries authorised writes into the store."""

    def __init__(
        self,
        store: Store,
        reads: Reads,
        granting: Granting,
        *,
        organizations: Organizations,
        changes: Changes,
        clock: Clock,
    ) -> None:
        self._store = store
        self._organizations = organizations
        self._reads = reads
        self._granting = granting
        self._changes = changes
        self._clock = clock

    # ---- create ----------------------------------------------------------------------------------------------------

    async def create(self, call: Call) -> web.Response:
        """Make an object. Raises: Failure, Rejected, store errors."""
        obj = _addressed(call, await read_object(call.request))
        obj["metadata"].pop("managedFields", None)  # written by applies only
        warnings = _check_fields(call, obj)
        return await self._create(call, obj, warnings)

    async def _create(self, call: Call, obj: JsonObject, warnings: list[str]) -> web.Response:
        await self._check_namespace(call)
        admitted = admission.admit(call.info, obj)
        for owned in ("resourceVersion", "uid", "creationTimestamp", "generation", "deletionTimestamp"):
            admitted["metadata"].pop(owned, None)
        self._check_grant(call, admitted, None)
        writes: list[Write] = [Create(admitted)]
        if call.info.key == namespaces.KIND:
            writes = namespaces.creation(admitted)
        stored = (await self._run(call, writes, None))[-1]
        return _warned(self._reads.shown(call, stored, status=201), warnings)

    async def _check_namespace(self, call: Call) -> None:
        """Objects live in namespaces that exist. Raises: Failure 404, 403."""
        if not call.info.namespaced:
            return
        name = call.target.namespace
        if not name:
            raise bad_request("an empty namespace may not be set during creation")
        try:
            namespace = await self._store.get(Key(namespaces.KIND, "", name))
        except errors.NotFound:
            details: JsonObject = {"name": name, "kind": "namespaces"}
            raise Failure(404, "DRTP-1001", f'namespaces "{name}" not found', details=details) from None
        if "deletionTimestamp" in namespace.metadata:
            message = f"unable to create new content in namespace {name} because it is being terminated"
            causes = [{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]
            raise Failure(403, "DRTP-1019", message, details={"causes": causes})

    # ---- update ----------------------------------------------------------------------------------------------------

    async def update(self, call: Call) -> web.Response:
        """Replace an object, or its status. Raises: Failure, Rejected, store errors."""
        obj = _addressed(call, await read_object(call.request))
        old = await self._store.get(call.key)
        if not obj["metadata"].get("resourceVersion") and admission.prunes(call.info):
            raise Failure(
                422, "DRTP-1010", "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            )
        _keep_owners(obj, old)
        warnings = _check_fields(call, obj)
        stored = await self._replace(call, old, obj)
        return _warned(self._reads.shown(call, stored), warnings)

    async def _replace(self, call: Call, old: Stored, obj: JsonObject) -> Stored:
        """Write one side of `obj`; the other side stays as it is stored."""
        if call.target.subresource == "status":
            metadata = old.metadata | {"resourceVersion": obj["metadata"].get("resourceVersion") or ""}
            judged = {name: value for name, value in old.object.items() if name not in {"status", "metadata"}}
            judged |= {"metadata": metadata} | ({"status": obj["status"]} if obj.get("status") is not None else {})
            return (await self._run(call, [UpdateStatus(_with_revision(call, judged, old))], old))[-1]
        judged = {name: value for name, value in obj.items() if name != "status" or not call.info.status_subresource}
        if call.info.status_subresource and "status" in old.object:
            judged["status"] = old.object["status"]
        admitted = _with_revision(call, judged, old)
        if self._granting.judges(call):
            self._check_grant(call, admitted, old.object)
            # Judged against this revision, written on no other.
            admitted["metadata"].setdefault("resourceVersion", old.metadata["resourceVersion"])
        return (await self._run(call, [Update(admitted)], old))[-1]

    # ---- patch -----------------------------------------------------------------------------------------------------

    async def patch(self, call: Call) -> web.Response:
        """Change an object by a patch of any kind. Raises: Failure, Rejected, store errors."""
        kind = call.request.content_type
        body = await read_body(call.request)
        if is_apply(kind):
            return await self._apply(call, yaml_object(body))
        patch = _patch_value(kind, body)
        again = self._again()
        while True:
            old = await self._store.get(call.key)
            obj = _patched(call, kind, old.object, patch)
            _keep_owners(obj, old)
            pinned = _pinned(patch)
            warnings = _check_fields(call, obj)
            if not pinned:
                obj["metadata"]["resourceVersion"] = old.metadata["resourceVersion"]
            try:
                stored = await self._replace(call, old, obj)
            except stores.Conflict:
                if pinned or not await again():
                    raise
                continue
            return _warned(self._reads.shown(call, stored), warnings)

    async def _apply(self, call: Call, given: JsonObject) -> web.Response:
        said = _addressed(call, given)
        if said["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        warnings = _check_fields(call, said, whole=False)
        _keep_side(call, said)
        applier = applies.applier_of(
            call.parameter("fieldManager"),
            force=call.flag("force"),
            subresource=call.target.subresource,
            api_version=call.info.api_version,
            now=self._clock.now(),
        )
        again = self._again()
        while True:
            try:
                old = await self._store.get(call.key)
            except errors.NotFound:
                if call.target.subresource:
                    raise
                made = applies.applied({}, said, call.info.schema, applier)
                return await self._create(call, made, warnings)
            obj = applies.applied(old.object, said, call.info.schema, applier)
            obj["metadata"]["resourceVersion"] = said["metadata"].get("resourceVersion", str(old.revision))
            try:
                return _warned(self._reads.shown(call, await self._replace(call, old, obj)), warnings)
            except stores.Conflict:
                if said["metadata"].get("resourceVersion") or not await again():
                    raise

    def _again(self) -> Callable[[], Awaitable[bool]]:
        """Whether to try once more, told after a pause of chance length, so that two that meet part ways."""
        until, pauses = self._clock.monotonic() + PATCH_WITHIN_S, full_jitter(PATCH_PAUSE_S, PATCH_PAUSE_MAX_S)

        async def again() -> bool:
            await self._clock.sleep(next(pauses))
            return self._clock.monotonic() < until

        return again

    # ---- delete ----------------------------------------------------------------------------------------------------

    async def delete(self, call: Call) -> web.Response:
        """Remove an object, or mark it where finalizers remain. Raises: Failure, store errors."""
        options = await _delete_options(call)
        preconditions: JsonObject = options.get("preconditions") or {}
        before = await self._store.get(call.key)
        uid, revision = preconditions.get("uid"), preconditions.get("resourceVersion")
        last = await self._remove(call, before, options, uid, revision)
        return self._deleted(call, last)

    async def delete_collection(self, call: Call) -> web.Response:
        """Remove every object selected; gives the list of them. Raises: Failure, store errors."""
        options = await _delete_options(call)
        select = compile_selectors(call.info, call.parameter("labelSelector"), call.field_selector)
        listing = await self._store.list(call.info.key, call.target.namespace or None, select=select)
        for stored in listing.items:
            try:
                await self._remove(call, stored, options, stored.uid, None)
            except errors.NotFound:
                continue  # somebody else removed it meanwhile
        items = b",".join(call.raw(stored) for stored in listing.items)
        head: JsonObject = {"resourceVersion": str(self._store.revision)}
        body = b'{"kind":"%bList","apiVersion":"%b","metadata":%b,"items":[%b]}' % (
            call.info.kind.encode(),
            call.info.api_version.encode(),
            msgspec.json.encode(head),
            items,
        )
        return web.Response(body=body, content_type="application/json")

    async def _remove(
        self, call: Call, before: Stored, options: JsonObject, uid: str | None, revision: str | None
    ) -> Stored:
        writes: list[Write] = [Delete(before.key, uid, revision)]
        self._granting.check_removal(call, before.object)
        if call.info.key == namespaces.KIND:
            await self._organizations.check_deletion(before, call.user)
            writes = namespaces.deletion(before, writes[0])
        if options.get("propagationPolicy") == "Orphan" or options.get("orphanDependents") is True:
            writes = [*await self._orphans(before), *writes]
        dry_run = call.dry_run or "All" in (options.get("dryRun") or ())
        run = self._store.preview if dry_run else self._store.apply
        last = (await run(writes))[-1]
        self._tell(call, last, before, dry_run=dry_run)
        return last

    async def _orphans(self, owner: Stored) -> list[Write]:
        """Dependents without their reference to `owner`, so that nothing removes them after it."""
        writes: list[Write] = []
        for info in namespaces.contents():
            listing = await self._store.list(info.key, owner.key.namespace or None)
            for stored in listing.items:
                owners: list[JsonObject] = stored.metadata.get("ownerReferences") or []
                kept = [reference for reference in owners if reference.get("uid") != owner.uid]
                if len(kept) != len(owners):
                    writes.append(Update(stored.object | {"metadata": stored.metadata | {"ownerReferences": kept}}))
        return writes

    def _deleted(self, call: Call, last: Stored) -> web.Response:
        if last.metadata.get("deletionTimestamp") and last.metadata.get("finalizers"):
            return self._reads.shown(call, last)
        details: JsonObject = {"name": last.key.name, "kind": call.info.plural, "uid": last.uid}
        if call.info.group:
            details["group"] = call.info.group
        body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }
        return web.json_response(body)

    def _check_grant(self, call: Call, new: JsonObject, old: JsonObject | None) -> None:
        try:
            self._granting.check(call, new, old)
        except (errors.Refused, Failure) as refusal:
            self._changes.refused(call, refusal.what if isinstance(refusal, errors.Refused) else refusal.message)
            raise

    async def _run(self, call: Call, writes: Sequence[Write], old: Stored | None) -> tuple[Stored, ...]:
        results = await (self._store.preview if call.dry_run else self._store.apply)(writes)
        self._tell(call, results[-1], old, dry_run=call.dry_run)
        return results

    def _tell(self, call: Call, stored: Stored, old: Stored | None, *, dry_run: bool) -> None:
        """One line for each object written; never its contents."""
        if not dry_run:
            self._changes.tell(call, stored, old.object if old else None)
        log.info(
            "object written",
            verb=call.verb,
            resource=resource_name(call.info.group, call.info.plural),
            tenant=stored.key.namespace,
            name=stored.key.name,
            subresource=call.target.subresource,
            user=call.user.name,
            dry_run=dry_run,
        )


def _addressed(call: Call, obj: JsonObject) -> JsonObject:
    """`obj` in the stored version, its metadata in agreement with the path. Raises: Failure 400."""
    given = (obj.get("apiVersion"), obj.get("kind"))
    group = f"{call.info.group}/" if call.info.group else ""
    if given != (f"{group}{call.target.version}", call.info.kind):
        raise bad_request(
            f"the API version and kind in the data ({given[0]}, {given[1]}) do not match the expected ones "
            f"({group}{call.target.version}, {call.info.kind})"
        )
    metadata = obj.get("metadata")
    metadata = dict(metadata) if is_object(metadata) else {}
    _agree(metadata, "namespace", call.target.namespace)
    if call.target.name:
        _agree(metadata, "name", call.target.name)
    if not call.target.namespace:
        metadata.pop("namespace", None)
    return obj | {"apiVersion": call.info.api_version, "metadata": metadata}


def _agree(metadata: JsonObject, member: str, wanted: str) -> None:
    given = metadata.get(member)
    if given and given != wanted:
        raise bad_request(
            f"the {member} of the provided object does not match the {member} sent on the request ({given} != {wanted})"
        )
    if wanted:
        metadata[member] = wanted


def _check_fields(call: Call, obj: JsonObject, *, whole: bool = True) -> list[str]:
    """Drop unknown fields, or refuse them, as `fieldValidation` says; gives warnings. Raises: Failure 400, Rejected."""
    how = call.parameter("fieldValidation") or "Warn"
    if how not in {"Strict", "Warn", "Ignore"}:
        raise Failure(
            422, "DRTP-1017", f'fieldValidation: Unsupported value: "{how}": supported values: Ignore, Strict, Warn'
        )
    unknown = admission.tidy(call.info, obj)
    faults = [f'unknown field "{path}"' for path in unknown]
    if faults and how == "Strict":
        # With other faults in it, all are told at once; unknown fields alone are refused as Kubernetes does.
        if whole:
            admission.admit(call.info, obj, unknown=unknown)
        kind = f"{call.info.kind} in version {call.target.version!r} cannot be handled as a {call.info.kind}"
        raise bad_request(f"{kind}: strict decoding error: {', '.join(faults)}", code="DRTP-1010")
    return faults if how == "Warn" else []


def _warned(response: web.Response, warnings: list[str]) -> web.Response:
    for warning in warnings[:16]:
        text = "".join(
            c if c.isprintable() and c.isascii() and c not in '"\\' else f"\\{c}" if c in '"\\' else "?"
            for c in warning
        )
        response.headers.add("Warning", f'299 - "{text}"')
    return response


def _with_revision(call: Call, obj: JsonObject, old: Stored) -> JsonObject:
    """The admitted form, on the revision it was made from; immutable metadata is the store's own concern."""
    given = obj["metadata"].get("resourceVersion")
    uid = obj["metadata"].get("uid")
    admitted = admission.admit(call.info, obj, old.object)
    for name, value in (("resourceVersion", given), ("uid", uid)):
        if value:
            admitted["metadata"][name] = value
        else:
            admitted["metadata"].pop(name, None)
    return admitted


def _keep_owners(obj: JsonObject, old: Stored) -> None:
    """Field ownership is written by applies only, in place."""
    obj["metadata"].pop("managedFields", None)
    if "managedFields" in old.metadata:
        obj["metadata"]["managedFields"] = old.metadata["managedFields"]


def is_apply(content_type: str) -> bool:
    """Whether a patch is a server-side apply."""
    return content_type == "application/apply-patch+yaml"


def _keep_side(call: Call, said: JsonObject) -> None:
    """An apply owns fields of the side it is sent to only, in place."""
    if call.target.subresource == "status":
        for name in [name for name in said if name not in {"apiVersion", "kind", "metadata", "status"}]:
            del said[name]
        said["metadata"] = {name: said["metadata"][name] for name in ("name", "namespace") if name in said["metadata"]}
    elif call.info.status_subresource:
        said.pop("status", None)


def _patch_value(kind: str, body: bytes) -> Any:
    if kind in {
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    }:
        return json_value(body)
    taken = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
    raise Failure(415, "DRTP-1016", f"the body of the request was in an unknown format - accepted media types: {taken}")


def _patched(call: Call, kind: str, old: JsonObject, patch: Any) -> JsonObject:
    old = call.as_asked(old)
    if kind == "application/json-patch+json":
        result = patches.json_patch(old, patch)
    elif kind == "application/merge-patch+json":
        result = patches.merge_patch(old, patch)
    elif admission.prunes(call.info):
        raise Failure(415, "DRTP-1016", "strategic merge patch is for Kubernetes' own kinds; use a JSON merge patch")
    else:
        result = patches.strategic_merge(old, patch)
    if not is_object(result) or not is_object(result.get("metadata")):
        raise bad_request("the patch leaves no object")
    return _addressed(call, result)


def _pinned(patch: Any) -> bool:
    """Whether the patch itself says on which revision it is meant."""
    if is_list(patch):
        return any(is_object(item) and item.get("path") == "/metadata/resourceVersion" for item in patch)
    metadata: Any = patch.get("metadata") if is_object(patch) else None
    return is_object(metadata) and bool(metadata.get("resourceVersion"))


async def _delete_options(call: Call) -> JsonObject:
    body = await read_body(call.request)
    options: JsonObject = {}
    if body.strip():
        options = await read_object(call.request)
    policy = call.parameter("propagationPolicy")
    if policy:
        options["propagationPolicy"] = policy
    if options.get("propagationPolicy") not in (None, "Foreground", "Background", "Orphan"):
        raise bad_request("propagationPolicy: Unsupported value: supported values: Background, Foreground, Orphan")
    preconditions: Any = options.get("preconditions")
    for name, good in (
        ("preconditions", preconditions is None or is_object(preconditions)),
        ("dryRun", options.get("dryRun") in (None, [], ["All"])),
    ):
        if not good:
            raise bad_request(f"{name}: Invalid value")
    for name in ("uid", "resourceVersion"):
        if not isinstance((preconditions or {}).get(name, ""), str | None):
            raise bad_request(f"preconditions.{name}: Invalid value: must be a string")
    return options
