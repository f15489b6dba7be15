"""The keys that edges of an own system ask for, from wherever a person keeps them."""

from pathlib import Path

from specedge.cli.failure import EXIT_USAGE, CommandFailed


def keys_from(given: str | None, file: Path | None) -> str | None:
    """``given`` and the lines of ``file``, with commas between; None: no key is wanted.

    Raises CommandFailed when ``given`` or the file holds none: that must not open the door.
    """
    if given is not None and not given.replace(",", "").strip():
        raise CommandFailed("the API key is empty", exit_code=EXIT_USAGE)
    if file is None:
        return given
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read: {error}", exit_code=EXIT_USAGE) from None
    if not lines:
        raise CommandFailed(f"{file} holds no key", exit_code=EXIT_USAGE)
    return ",".join([given, *lines] if given else lines)
