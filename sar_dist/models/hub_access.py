"""Pretrained weights from the model hub, or a quick answer where it cannot be reached.

The hub's own client tries again and again for most of a minute before it says that there is no network.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from sar_dist.errors import in_brief

_PATIENCE = 6.0  # seconds; name servers that do not answer have no limit of their own


@contextlib.contextmanager
def hub_asked_once() -> Iterator[None]:
    """While the body loads weights, the hub's client looks into its cache alone if the hub does not answer now.

    Raises:
        OSError: it does not answer, and the body failed for want of it.
    """
    problem = None if constants.HF_HUB_OFFLINE else _unreachable()
    if problem is None:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(
            f"the model hub cannot be reached ({problem}), and they are not in its cache; connect to it, or download the "
            "file elsewhere and give timm:NAME:FILE"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _unreachable() -> str | None:
    """Why the hub does not answer; None if it does, whatever it says."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        except Exception as error:  # noqa: BLE001 - of whichever HTTP client the hub's is made of
            found.append(in_brief(error))
        else:
            found.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return found[0] if found else f"no answer within {_PATIENCE:g} s"
