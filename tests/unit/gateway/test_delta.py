"""The discovery stream without Envoy: each rule that the real one taught."""

from __future__ import annotations

from drtp.gateway.delta import DEPENDENTS_WAIT_S, DeltaStream
from drtp.gateway.protos import DiscoveryRequest, DiscoveryResponse
from drtp.gateway.resources import Kind, Resource, Resources, no_resources


def resource(name: str, version: str = "1", endpoints: str = "") -> Resource:
    return Resource(name=name, version=version, body=b"", endpoints=endpoints)


def resources(**kinds: list[Resource]) -> Resources:
    found = no_resources()
    for kind, entries in kinds.items():
        found[Kind[kind]] = {entry.name: entry for entry in entries}
    return found


def subscribe(stream: DeltaStream, kind: Kind, *names: str, holds: dict[str, str] | None = None) -> None:
    stream.receive(DiscoveryRequest(type_url=kind.value, subscribe=names, holds=holds or {}))


def acknowledge(stream: DeltaStream, response: DiscoveryResponse, error: str | None = None):
    return stream.receive(DiscoveryRequest(type_url=response.kind.value, nonce=response.nonce, error=error))


def expect(stream: DeltaStream, state: Resources, now_s: float = 0.0) -> DiscoveryResponse:
    response = stream.next(state, now_s)
    assert response is not None
    return response


def names(response: DiscoveryResponse) -> list[str]:
    return [entry.name for entry in response.upsert]


def test_first_wildcard_answer_is_given_even_if_empty() -> None:
    stream = DeltaStream()
    subscribe(stream, Kind.CLUSTER, "*")
    response = expect(stream, resources())
    assert (response.upsert, response.remove) == ((), ())
    acknowledge(stream, response)
    assert stream.next(resources(), 0) is None


def test_one_response_is_in_flight_for_each_kind() -> None:
    stream = DeltaStream()
    subscribe(stream, Kind.CLUSTER)
    first = expect(stream, resources(CLUSTER=[resource("a")]))
    changed = resources(CLUSTER=[resource("a", "2")])
    assert stream.next(changed, 0) is None
    acknowledge(stream, first)
    assert names(expect(stream, changed)) == ["a"]


def test_unknown_names_are_answered_as_removed() -> None:
    stream = DeltaStream()
    subscribe(stream, Kind.ENDPOINTS, "nothing")
    assert expect(stream, resources()).remove == ("nothing",)


def test_what_envoy_still_holds_is_not_sent_again() -> None:
    stream = DeltaStream()
    subscribe(stream, Kind.CLUSTER, holds={"a": "1", "b": "old", "gone": "1"})
    subscribe(stream, Kind.LISTENER)
    response = expect(stream, resources(CLUSTER=[resource("a"), resource("b")]))
    assert names(response) == ["b"]


def test_endpoints_go_out_again_whenever_their_cluster_does() -> None:
    stream = DeltaStream()
    before = resources(CLUSTER=[resource("c", endpoints="e")], ENDPOINTS=[resource("e")])
    subscribe(stream, Kind.CLUSTER)
    acknowledge(stream, expect(stream, before))
    subscribe(stream, Kind.ENDPOINTS, "e")
    acknowledge(stream, expect(stream, before))
    after = resources(CLUSTER=[resource("c", "2", endpoints="e")], ENDPOINTS=[resource("e")])
    assert expect(stream, after).kind is Kind.CLUSTER
    again = expect(stream, after)
    assert (again.kind, names(again)) == (Kind.ENDPOINTS, ["e"])


def test_cluster_is_removed_only_after_the_listener_s_removal_is_acknowledged() -> None:
    stream = DeltaStream()
    both = resources(CLUSTER=[resource("c")], LISTENER=[resource("l")])
    subscribe(stream, Kind.CLUSTER)
    subscribe(stream, Kind.LISTENER)
    for _kind in range(2):
        acknowledge(stream, expect(stream, both, now_s=1))
    removal = expect(stream, resources(), now_s=2)
    assert (removal.kind, removal.remove) == (Kind.LISTENER, ("l",))
    assert stream.next(resources(), 2) is None
    acknowledge(stream, removal)
    removal = expect(stream, resources(), now_s=2)
    assert (removal.kind, removal.remove) == (Kind.CLUSTER, ("c",))


def test_listeners_wait_for_clusters_in_flight_but_not_for_ever() -> None:
    stream = DeltaStream()
    state = resources(CLUSTER=[resource("c")], LISTENER=[resource("l")])
    subscribe(stream, Kind.CLUSTER)
    subscribe(stream, Kind.LISTENER)
    assert expect(stream, state, now_s=0).kind is Kind.CLUSTER
    assert stream.next(state, DEPENDENTS_WAIT_S / 2) is None
    assert stream.waits_s(state, 0) == DEPENDENTS_WAIT_S
    assert expect(stream, state, now_s=DEPENDENTS_WAIT_S).kind is Kind.LISTENER


def test_partial_refusal_blames_only_the_named_one() -> None:
    stream = DeltaStream()
    state = resources(LISTENER=[resource("good"), resource("bad")])
    subscribe(stream, Kind.LISTENER)
    verdicts = acknowledge(stream, expect(stream, state), "Error adding/updating listener(s) bad: address in use\n")
    assert {verdict.ref.name: verdict.error is None for verdict in verdicts} == {"good": True, "bad": False}
    assert stream.next(state, 0) is None
    assert names(expect(stream, resources(LISTENER=[resource("good"), resource("bad", "2")]))) == ["bad"]


def test_refusal_that_names_nobody_is_found_by_sending_one_by_one() -> None:
    stream = DeltaStream()
    state = resources(CLUSTER=[resource("a"), resource("b"), resource("c")])
    subscribe(stream, Kind.CLUSTER)
    assert acknowledge(stream, expect(stream, state), "something about protobuf") == []
    taken: list[str] = []
    refused: list[str] = []
    while (response := stream.next(state, 0)) is not None:
        assert len(response.upsert) == 1
        bad = names(response) == ["b"]
        (refused if bad else taken).extend(names(response))
        acknowledge(stream, response, "something about protobuf" if bad else None)
    assert (sorted(taken), refused) == (["a", "c"], ["b"])


def test_retry_offers_the_refused_again() -> None:
    stream = DeltaStream()
    state = resources(LISTENER=[resource("bad")])
    subscribe(stream, Kind.LISTENER)
    acknowledge(stream, expect(stream, state), "bad: in use")
    assert stream.next(state, 0) is None
    stream.retry()
    assert names(expect(stream, state)) == ["bad"]


def test_asking_again_is_answered_again() -> None:
    stream = DeltaStream()
    state = resources(ENDPOINTS=[resource("e")])
    subscribe(stream, Kind.ENDPOINTS, "e")
    acknowledge(stream, expect(stream, state))
    subscribe(stream, Kind.ENDPOINTS, "e")
    assert names(expect(stream, state)) == ["e"]
