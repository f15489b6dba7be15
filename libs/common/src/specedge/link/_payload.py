"""The bound on what may be sent, the same on every link."""

from specedge.errors import InvalidRequest


def check_payload(payload: bytes, max_payload_bytes: int) -> None:
    """Raise InvalidRequest for a payload over the broker's limit: sending it would cost the
    connection."""
    if len(payload) > max_payload_bytes:
        raise InvalidRequest(
            f"{len(payload)} bytes are over the broker's limit of {max_payload_bytes}",
            field="payload",
            code="payload_too_large",
        )
