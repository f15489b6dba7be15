"""Certificates for a broker on 127.0.0.1, each from an authority of its own."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from specedge.credentials.authority import new_authority, new_broker_certificate
from specedge.link.broker import BrokerTls


@dataclass(frozen=True, slots=True)
class Authority:
    ca_file: Path
    tls: BrokerTls


def make_authority(folder: Path, name: str) -> Authority:
    """An authority of its own, and a broker's certificate that it vouches for."""
    now = datetime.datetime.now(datetime.UTC)
    authority = new_authority(now)
    broker = new_broker_certificate(authority, ("127.0.0.1",), now)
    ca_file, cert_file = folder / f"{name}-ca.pem", folder / f"{name}-cert.pem"
    key_file = folder / f"{name}-key.pem"
    ca_file.write_bytes(authority.cert)
    cert_file.write_bytes(broker.cert)
    key_file.write_bytes(broker.key)
    return Authority(ca_file, BrokerTls(cert_file, key_file))
