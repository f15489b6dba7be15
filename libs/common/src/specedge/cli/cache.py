"""Where a person's models, and the logs of runs, are kept: what services take, too."""

from pathlib import Path
from typing import Final

from specedge.service.settings import ServiceSettings, variable

CACHE_VARIABLE: Final = "SPECEDGE_CACHE_DIR"


def cache_dir() -> Path:
    """May begin with ``~``."""
    default: Path = ServiceSettings.model_fields["cache_dir"].default
    return Path(variable(CACHE_VARIABLE) or default)
