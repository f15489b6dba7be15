"""docs/protocol.md shows the tables that the code runs on."""

from pathlib import Path

import pytest

from specedge.protocol import diagram

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_committed_document_is_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert diagram.fill(text) == text, "run: python -m specedge.protocol.diagram docs/protocol.md"


def test_what_stands_between_the_markers_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    stale = tmp_path / "protocol.md"
    stale.write_text(text.replace("awaiting --> drafting", "awaiting --> nowhere"), "utf-8")
    monkeypatch.setattr("sys.argv", ["diagram", str(stale)])

    diagram.main()

    assert stale.read_text(encoding="utf-8") == text


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers of edge"):
        diagram.fill("# The protocol\n")
