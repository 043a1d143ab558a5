"""What is said beside rendered fields: why they aren't what Envoy would choose by itself."""

from __future__ import annotations

SHADOW_NOTES = {
    "typed_config.grpc_service": "The sidecar gets copies. Nothing waits for it or depends on it.",
    "processing_mode": "All of it is seen: the sidecar can't ask for more or less.",
    "message_timeout": "Delays nothing here.",
}
"""Those of a filter that only observes, in place of the same of ``ENVOY_NOTES``."""

ENVOY_NOTES = {
    "typed_config.grpc_service": (
        "failure_mode_allow stays false, its default: without the sidecar nothing passes."
    ),
    "processing_mode": "The reply to a request's headers asks for whole bodies where they count.",
    "message_timeout": "Envoy's own 200 ms would answer 504 while the user service is asked.",
    "receiving_namespaces": "Without it, user, model and tokens are missing from the access log.",
    "route_cache_action": "Our header changes must not send the request down another route.",
    "status_on_error": "Otherwise clients get a 500 when the sidecar fails.",
    "allow_content_length_header": "Otherwise plain JSON answers lose their Content-Length.",
    "request_body_buffer_limit": "Larger bodies that would be counted get 413.",
    "typed_per_filter_config": "The sidecar isn't asked here; so credentials are taken out above.",
    "route.timeout": "Envoy's own 15 s would cut long generations.",
    "route.idle_timeout": "The longest silence within an answer.",
    "request_timeout": (
        "For a whole request to arrive: who sends a byte now and then would keep it open for ever."
    ),
    "listeners.per_connection_buffer_limit_bytes": "Held for a client that reads slowly.",
    "clusters.per_connection_buffer_limit_bytes": "Whole bodies pass to the sidecar.",
    "circuit_breakers": (
        "A stream to the sidecar lives as long as the answer: Envoy's own 1024 is soon reached."
    ),
    "lb_endpoints": "One endpoint per worker process of the sidecar.",
    "lb_policy": "Spreads streams evenly, which connections alone don't.",
    "match_typed_subject_alt_names": "The certificate must be for this very name.",
    "static_layer": "Lets the sidecar finish after its last reply instead of being cancelled.",
    "local_reply_config": (
        "Envoy's own 408, 413, 503 and 504 in OpenAI's error shape; the sidecar's pass untouched."
    ),
    "json_format.sentinel": "User, model, tokens, decision; an object.",
    "normalize_path": "What is metered must not depend on how a path is spelt.",
}
