"""Files from the model hub, without ever making the user wait for a hub that is out of reach.

The local cache is asked first. The network is tried only when a connection to the hub opens within half a second;
``HF_HUB_OFFLINE=1`` forbids even that.
"""

import functools
import logging
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.5
WEIGHT_FILE = "model.safetensors"


def fetch(repository: str, file: str) -> Path | None:
    """Path of a hub file in the local cache, downloaded if the hub answers; None if it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError, LocalEntryNotFoundError

    for local_only in (True, False):
        if not local_only and not reachable():
            return None
        try:
            return Path(hf_hub_download(repository, file, local_files_only=local_only))
        except LocalEntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            if not local_only:
                log.warning("%s: the hub has no %s (%s)", repository, file, type(error).__name__)
    return None


@functools.cache
def reachable() -> bool:
    """Whether a connection to the hub opens at once."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    target = urlsplit(proxy) if proxy else address
    answer: list[bool] = []

    def probe() -> None:
        # In a thread, because name resolution has no timeout of its own.
        try:
            port = target.port or (443 if target.scheme == "https" else 80)
            with socket.create_connection((target.hostname or "", port), timeout=PROBE_SECONDS):
                answer.append(True)
        except OSError:
            answer.append(False)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answer and answer[0])
