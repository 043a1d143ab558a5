"""TLS as our clients use it: certificates are always verified, there is no switch for that."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx


def client_context(
    ca_file: Path | None = None,
    client_cert_file: Path | None = None,
    client_key_file: Path | None = None,
) -> ssl.SSLContext:
    """A context for TLS 1.2 and later.

    Args:
        ca_file: PEM bundle that replaces the shipped roots.
        client_cert_file, client_key_file: PEM, for mutual TLS; both or none.

    Raises:
        ValueError: a file can't be used; the message names it.
    """
    if (client_cert_file is None) != (client_key_file is None):
        raise ValueError("a client certificate and its key go together")
    if ca_file is None:
        context = httpx.create_ssl_context(trust_env=False)
    else:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"can't use the CA file {ca_file}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert_file is not None and client_key_file is not None:
        try:
            context.load_cert_chain(client_cert_file, client_key_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"can't use the client certificate {client_cert_file}: {error}"
            ) from None
    return context
