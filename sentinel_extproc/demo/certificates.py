"""A certificate authority for tests and the demo, on this machine only."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Issued:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Authority:
    """Issues certificates for 127.0.0.1 and localhost, good for an hour.

    Args:
        folder: for its own certificate (``file``) and those that it issues.
        title: its common name, and its file's.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self._folder = folder
        self._title = title
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{title}.pem"
        self.file.write_bytes(self._pem(self._sign(title, self._key, ca=True)))

    def issue(self, title: str) -> Issued:
        """A new certificate, for servers and clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = Issued(self._folder / f"{title}.crt", self._folder / f"{title}.key")
        issued.certificate.write_bytes(self._pem(self._sign(title, key, ca=False)))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued

    def _sign(self, title: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        here = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(title))
            .issuer_name(_name(self._title))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(here), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _pem(self, certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)
