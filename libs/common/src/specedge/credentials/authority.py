"""A certificate authority of one's own, and the broker's certificate from it. PEM in, PEM out.

Edges trust this authority and no other, so that the broker needs no name in public DNS. Knows of
no file and no clock.
"""

import datetime
import ipaddress
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from specedge.errors import InvalidRequest

AUTHORITY_NAME: Final = "SpecEdge authority"
BROKER_NAME: Final = "SpecEdge broker"

_AUTHORITY_LASTS: Final = datetime.timedelta(days=3650)
_CERTIFICATE_LASTS: Final = datetime.timedelta(days=730)
_RENEWED_BEFORE: Final = datetime.timedelta(days=30)
_CLOCKS_DIFFER_BY: Final = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes


def new_authority(now: datetime.datetime) -> Certified:
    """An authority that vouches for ten years, for brokers and for nothing below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(AUTHORITY_NAME)
    builder = _builder(name, name, key.public_key(), now, _AUTHORITY_LASTS)
    cert = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certified(_cert_pem(cert), _key_pem(key))


def new_broker_certificate(
    authority: Certified, names: tuple[str, ...], now: datetime.datetime
) -> Certified:
    """A certificate, with a new key, for a broker reached by ``names``: host names and addresses.

    Raises InvalidRequest for a name that is neither, without the authority's key, or at a time
    when nobody would believe the authority.
    """
    issuer, issuer_key = _read(authority)
    _check_time(issuer, now)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(
        _name(BROKER_NAME), issuer.subject, key.public_key(), now, _CERTIFICATE_LASTS
    )
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    cert = (
        builder.add_extension(x509.SubjectAlternativeName(_spelled(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return Certified(_cert_pem(cert), _key_pem(key))


def why_renew(
    broker: Certified, authority_cert: bytes, names: tuple[str, ...], now: datetime.datetime
) -> str | None:
    """What is wrong with a broker's certificate; None: it will do."""
    try:
        cert = x509.load_pem_x509_certificate(broker.cert)
        key = serialization.load_pem_private_key(broker.key, password=None)
    except (ValueError, TypeError):
        return "it could not be read"
    if key.public_key() != cert.public_key():
        return "it is not its key's"
    if not _is_from(cert, authority_cert):
        return "another authority made it"
    if now > cert.not_valid_after_utc - _RENEWED_BEFORE:
        return f"it ends on {cert.not_valid_after_utc:%Y-%m-%d}"
    if now < cert.not_valid_before_utc:  # made while the clock was wrong
        return f"it begins on {cert.not_valid_before_utc:%Y-%m-%d}"
    alternatives = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if set(alternatives) != set(_spelled(names)):
        return "its names are others"
    return None


def check_names(names: tuple[str, ...]) -> None:
    """Raises InvalidRequest for what is neither a host's name nor an address."""
    _spelled(names)


def _is_from(cert: x509.Certificate, authority_cert: bytes) -> bool:
    try:
        cert.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_cert))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(authority: Certified) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        cert = x509.load_pem_x509_certificate(authority.cert)
        key = serialization.load_pem_private_key(authority.key, password=None)
    except (ValueError, TypeError) as error:
        message = "a new certificate needs the authority's key, authority/ca.key, back in its place"
        raise InvalidRequest(message, field="authority") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise InvalidRequest("the authority's key is not its certificate's", field="authority")
    return cert, key


def _check_time(issuer: x509.Certificate, now: datetime.datetime) -> None:
    begin, end = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    if not begin <= now <= end:
        message = (
            f"the authority is believed from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, and today is "
            f"{now:%Y-%m-%d}: put the clock right, or make a new folder"
        )
        raise InvalidRequest(message, field="authority")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lasts: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER_BY)
        .not_valid_after(now + lasts)
        # Newer verifiers insist on these identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _spelled(names: tuple[str, ...]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if not all(label and label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise InvalidRequest(f"neither a host's name nor an address: {name!r}", field="tls-name")
    return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _cert_pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
