"""A context that a drafter does not know yet is read in pieces, so that whoever shares its device
waits for one of them at most. Called on the compute thread that owns the drafter.
"""

from typing import Final

from specedge.engine.ports import DraftSession, ReadingSession

PIECE_TOKENS: Final = 256


def is_behind(session: DraftSession) -> bool:
    """Whether there is more to read than a pass over the root should have to compute."""
    return isinstance(session, ReadingSession) and session.num_unread > PIECE_TOKENS


def read_piece(session: DraftSession) -> bool:
    """Let the drafter compute one piece, if it is behind; whether it did. Raises Busy when there is
    no memory."""
    if not is_behind(session):
        return False
    assert isinstance(session, ReadingSession)
    session.read(PIECE_TOKENS)
    return True
