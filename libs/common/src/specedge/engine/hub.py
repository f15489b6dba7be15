"""Whether a name means a model on the Hugging Face hub, asked once before transformers load it.

They ask for each of a dozen files, five times each where there is no answer: four minutes until a
misspelt name is told.
"""

from typing import Final

from specedge.errors import ModelUnusable

TIMEOUT_S: Final = 10.0


def check_name(name: str) -> None:
    """Raise ModelUnusable for a model that is neither in the hub's cache nor, as far as the hub
    says, anywhere else. Whatever else the hub answers, transformers will tell. Blocking."""
    import httpx2
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(name, timeout=TIMEOUT_S)
            return
        why = "and the hub is not to be asked (HF_HUB_OFFLINE)"
    except GatedRepoError:
        return
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelUnusable(f"there is no folder and no model on the hub called {name}") from None
    except HfHubHTTPError:
        return
    except (httpx2.TransportError, OSError) as error:
        why = f"and {constants.ENDPOINT} cannot be reached: {error}"
    raise ModelUnusable(f"{name} is no folder, not in the cache of the hub, {why}")
