"""Replies put together byte by byte say what protobuf reads in them, whatever their size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.transport.codec import METADATA_NAMESPACE, encode
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

# Around what a length of one and of two bytes can say, also of what lies around a value.
SIZES = st.sampled_from([0, 1, 60, *range(100, 132), 200, 16_000, 16_383, 16_384])
NAMES = st.builds(lambda first, size: first + "n" * size, st.sampled_from("abc"), SIZES)
LINES = st.lists(st.tuples(NAMES, SIZES.map(bytes)), max_size=4).map(tuple)
FACTS = st.dictionaries(
    NAMES, st.one_of(SIZES.map(lambda size: "t" * size), st.integers(0, 2**53)), max_size=4
)
TRAILERS = (do.Phase.REQUEST_TRAILERS, do.Phase.RESPONSE_TRAILERS)


@st.composite
def replies(draw: st.DrawFn) -> do.Reply:
    phase = draw(st.sampled_from(list(do.Phase)))
    common = phase not in TRAILERS
    return do.Reply(
        phase,
        draw(LINES),
        draw(st.lists(NAMES, max_size=3).map(tuple)),
        body=draw(st.none() | SIZES.map(bytes)) if common else None,
        mode=draw(st.none() | st.sampled_from(list(do.Mode))),
        metadata=draw(st.none() | FACTS),
        reroute=draw(st.booleans()) if common else False,
    )


@given(replies())
def test_a_reply_says_what_it_was_told_to(reply: do.Reply) -> None:
    said = pb.ProcessingResponse.FromString(encode(reply))
    assert said.WhichOneof("response") == reply.phase.value
    part = getattr(said, reply.phase.value)
    common = None if reply.phase in TRAILERS else part.response
    headers = part.header_mutation if common is None else common.header_mutation
    assert tuple((one.header.key, one.header.raw_value) for one in headers.set_headers) == (
        reply.set_headers
    )
    overwrite = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(one.append_action == overwrite for one in headers.set_headers)
    assert tuple(headers.remove_headers) == reply.remove_headers
    if common is not None:
        assert common.clear_route_cache == reply.reroute
        assert common.HasField("body_mutation") == (reply.body is not None)
        assert common.body_mutation.body == (reply.body or b"")
        assert common.body_mutation.clear_body == (reply.body == b"")
    assert said.HasField("mode_override") == (reply.mode is not None)
    assert said.HasField("dynamic_metadata") == (reply.metadata is not None)
    facts = said.dynamic_metadata.fields[METADATA_NAMESPACE].struct_value.fields
    told = {name: getattr(fact, fact.WhichOneof("kind") or "") for name, fact in facts.items()}
    assert told == (reply.metadata or {})
