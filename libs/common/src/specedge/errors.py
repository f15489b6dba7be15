"""The error tree. Families are told apart by what the caller can do about them.

SpecEdgeError
├── RetryableError      the same call may succeed later; ``retry_ms`` says when, if known
│   ├── LinkDown        not connected, or the connection went away during the call
│   ├── LinkTimeout     no answer in time
│   ├── NoResponders    nobody listens on the subject asked
│   └── Busy            admission refused, or no free slot
├── InvalidRequest      the asker's fault: tell it which field, and do not retry
│   ├── ContextTooLong
│   └── FingerprintMismatch   edge and verifier do not share a tokenizer or model
├── ProtocolViolation   a wrong *local* call of a state machine: a bug of ours, never bytes' fault
├── AuthenticationFailed      credentials missing, expired or revoked: an operator must act
└── ModelUnusable       the model cannot be loaded or served: an operator must act
"""


class SpecEdgeError(Exception):
    """Root of every error that SpecEdge raises on purpose."""


class RetryableError(SpecEdgeError):
    """The same call may succeed later. Handled by whoever owns a deadline."""

    def __init__(self, message: str, *, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class LinkDown(RetryableError):
    """Not connected. Drafts and verdicts are dropped, not buffered: the retry covers them."""


class LinkTimeout(RetryableError):
    """No reply within the time given."""


class NoResponders(RetryableError):
    """Nobody subscribes to the subject of a request."""


class Busy(RetryableError):
    """Refused at once rather than queued: no free slot, or the pool is at its objective."""


class InvalidRequest(SpecEdgeError):
    """The asker's fault. ``field`` names the offending field in the asker's own words."""

    def __init__(self, message: str, *, field: str, code: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


class ContextTooLong(InvalidRequest):
    """Prompt plus requested tokens exceed the model's context."""


class FingerprintMismatch(InvalidRequest):
    """Two sides compute with different vocabularies or weights. Carries both fingerprints."""

    def __init__(self, message: str, *, field: str, ours: str, theirs: str) -> None:
        super().__init__(message, field=field, code="fingerprint_mismatch")
        self.ours = ours
        self.theirs = theirs


class ProtocolViolation(SpecEdgeError):
    """A state machine was called out of turn. Nothing was changed. Always a local bug."""


class AuthenticationFailed(SpecEdgeError):
    """The broker refused the credentials. Retrying without an operator is useless."""


class ModelUnusable(SpecEdgeError):
    """A model that cannot be loaded or cannot be served by this engine; the message says why."""
