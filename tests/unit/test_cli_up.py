"""What `specedge up` tells a person to try."""

import pytest

from specedge.cli.up import _first_key


@pytest.mark.parametrize(
    ("held", "keys", "shown"),
    [
        ("a", "a", "$SPECEDGE_API_KEY"),
        ("a,b", "a,b", "${SPECEDGE_API_KEY%%,*}"),
        (None, "a", "YOUR_KEY"),  # from a file
    ],
)
def test_a_key_is_never_shown_and_its_variable_only_to_a_shell_that_has_it(
    monkeypatch: pytest.MonkeyPatch, held: str | None, keys: str, shown: str
) -> None:
    monkeypatch.delenv("SPECEDGE_API_KEY", raising=False)
    if held is not None:
        monkeypatch.setenv("SPECEDGE_API_KEY", held)

    assert _first_key(keys) == shown
