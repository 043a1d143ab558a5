"""Faults in the identity settings that no single one shows."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sentinel_extproc.config.sections.identity import IdentitySettings, IdentitySourceName
from sentinel_extproc.identity.static_keys import StaticKeysError, load_static_keys

_JWT = (IdentitySourceName.JWT, IdentitySourceName.ENVOY_JWT)


def identity_faults(identity: IdentitySettings) -> Iterator[str]:
    """Each fault as one line, ``where: what is wrong``."""
    source = identity.source
    if identity.stale_on_error_seconds < identity.stale_seconds:
        yield "identity.stale_on_error_seconds: must not be below identity.stale_seconds"
    if source is IdentitySourceName.JWT:
        for name in ("jwt_issuer", "jwt_audience", "jwks_url"):
            if not getattr(identity, name):
                yield f"identity.{name}: is needed for identity.source: jwt"
    else:
        for name in ("jwks_url", "jwks_ca_file"):
            if getattr(identity, name) is not None:
                yield f"identity.{name}: goes with identity.source: jwt"
    if source not in _JWT:
        for name in ("jwt_issuer", "jwt_audience", "jwt_plan_claim"):
            if getattr(identity, name):
                yield f"identity.{name}: goes with identity.source: jwt or envoy_jwt"
    ca_file = identity.jwks_ca_file
    if ca_file is not None and not os.access(ca_file, os.R_OK):
        yield f"identity.jwks_ca_file: {ca_file} can't be read"
    yield from _static_faults(identity)


def _static_faults(identity: IdentitySettings) -> Iterator[str]:
    file = identity.static_keys_file
    if identity.source is not IdentitySourceName.STATIC:
        if file is not None:
            yield "identity.static_keys_file: goes with identity.source: static"
        return
    if file is None:
        yield "identity.static_keys_file: is needed for identity.source: static"
        return
    try:
        load_static_keys(file)
    except StaticKeysError as error:
        yield from (f"identity.static_keys_file: {file}: {fault}" for fault in error.faults)
