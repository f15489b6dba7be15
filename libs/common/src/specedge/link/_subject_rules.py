"""Which subjects are well formed, and which pattern matches which: the same rules on every link."""

from functools import lru_cache
from typing import Final

from specedge.errors import InvalidRequest

MAX_SUBJECT_LEN: Final = 256
ONE: Final = "*"
REST: Final = ">"


def check_subject(subject: str) -> None:
    """Raise InvalidRequest unless ``subject`` may be published to: no wildcards, no empty token."""
    _check_known(subject, False)


def check_pattern(pattern: str) -> None:
    """Raise InvalidRequest unless ``pattern`` may be subscribed to: ``*`` stands for one token,
    ``>``, as the last one, for one or more."""
    _check_known(pattern, True)


def matches(pattern: str, subject: str) -> bool:
    """Whether a well-formed ``pattern`` takes a well-formed ``subject``."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == REST:
            return len(tokens) > index
        if index >= len(tokens) or token not in (ONE, tokens[index]):
            return False
    return len(wanted) == len(tokens)


@lru_cache(maxsize=1024)
def _check_known(subject: str, wildcards: bool) -> None:
    tokens = subject.split(".")
    if len(subject) > MAX_SUBJECT_LEN:
        raise InvalidRequest(
            f"a subject has at most {MAX_SUBJECT_LEN} characters, this one {len(subject)}",
            field="subject",
        )
    for index, token in enumerate(tokens):
        is_wildcard = token == ONE or (token == REST and index == len(tokens) - 1)
        if is_wildcard and wildcards:
            continue
        if not token or not token.isprintable() or " " in token or ONE in token or REST in token:
            raise InvalidRequest(f"not a subject: {subject!r}", field="subject")
