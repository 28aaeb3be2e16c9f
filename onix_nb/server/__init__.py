"""The page `/onix` of Jupyter Server: the durable flows of all notebooks below its folder, also when no kernel runs.

`listing.py` reads journals, and knows no server; `page.py` serves. Imports `journal`, of which it only
reads, and `live.html`; it is imported by Jupyter Server only, whose packages it needs.
"""

from .._version import __version__ as __version__
from .page import load as _load_jupyter_server_extension

__all__ = ["_jupyter_server_extension_points", "_load_jupyter_server_extension"]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "onix_nb.server"}]
