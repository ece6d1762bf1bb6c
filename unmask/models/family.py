"""The class that reads an architecture, imported when it is asked for."""

import importlib

from unmask.models import TABLE
from unmask.models.network import Network


def network_class(architecture: str) -> type[Network]:
    """The class of an architecture of TABLE, imported now."""
    module, name = TABLE[architecture].network.split(":")
    kind: type[Network] = getattr(importlib.import_module(module), name)
    return kind
