"""What nobody must see: the secrets that the environment holds, and the file of logins."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

SECRET_NAME = re.compile("(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)$", re.IGNORECASE)
PROXY_NAME = re.compile("_PROXY$", re.IGNORECASE)
SHORTEST_SECRET = 8


def secrets_in_environment() -> frozenset[str]:
    """The values of variables named like one that holds a secret: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, WANDB_API_KEY, …;
    and of proxies, whose address needs no scheme, `user:password` and the password."""
    given = [value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)]
    logins = [login for name, value in os.environ.items() if PROXY_NAME.search(name) if (login := _login_in(value))]
    for login in logins:
        password = login.partition(":")[2]
        given += [password, unquote(password)]
    # A shorter one is none, and would be found in words.
    return frozenset([*(value for value in given if len(value) >= SHORTEST_SECRET), *logins])


def _login_in(address: str) -> str:
    """`user:password` of an address; empty where it has none."""
    login = address.strip().rpartition("://")[2].rpartition("@")[0]
    return login if login.partition(":")[2] else ""


def login_file() -> Path:
    """The file of logins by host, of which W&B keeps one and the network's libraries read others."""
    # Path.expanduser has an error for a user without a home.
    return Path(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc"))
