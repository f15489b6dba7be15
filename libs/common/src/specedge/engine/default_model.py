"""The model that everything uses unless it is told otherwise. A file of its own, for those who must
not reach what loads it."""

from typing import Final

DEFAULT_MODEL: Final = "SmolLM2-135M-Instruct"
