"""The page in Jupyter Server: who may see it, what the browser may do with it, and nothing that waits for a disk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tornado.web
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, Template
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join

from ..live.html import preview_text, style
from . import listing

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

TEMPLATES: Final = Path(__file__).parent / "templates"
# Seconds between two loads of a page that is to follow what runs.
REFRESH: Final = 10
# Seconds beyond the patience of a scan after which its disk does not answer.
GRACE: Final = 1.0


class Shelf:
    """The journals below a folder, for all who ask at the same time; used on the server's event loop only."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._scan: listing.Scan | None = None
        self._ended = asyncio.Event()
        # Scans that a disk holds: what they read is not tried again until it answers.
        self._held: list[listing.Scan] = []

    async def look(self, patience: float = listing.PATIENCE + GRACE) -> tuple[listing.Scan, list[Path]]:
        """What was read within `patience` seconds, and the journals whose disk does not answer."""
        self._held = [scan for scan in self._held if scan.alive]
        if self._scan is None:
            self._scan, self._ended = self._begin()
        scan, ended = self._scan, self._ended
        try:
            await asyncio.wait_for(ended.wait(), patience)
        except TimeoutError:
            if scan.alive and scan not in self._held:
                self._held.append(scan)
        if self._scan is scan:
            self._scan = None
        if scan.failure is not None:
            raise scan.failure
        return scan, self._unanswered()

    def _begin(self) -> tuple[listing.Scan, asyncio.Event]:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def done() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        return listing.Scan(self._root, frozenset(self._unanswered()), done), ended

    def _unanswered(self) -> list[Path]:
        return [path for scan in self._held if (path := scan.reading) is not None]


class Served(NamedTuple):
    """What the handler needs of this server.

    Attributes:
        shelf: The journals.
        environment: Our templates, and Jupyter's.
        scripts: Those that a page may run, as a policy lists them.
    """

    shelf: Shelf
    environment: Environment
    scripts: str


class FlowsHandler(JupyterHandler):
    """`GET /onix`: the durable flows, for those who may read; it takes nothing else, and changes nothing."""

    auth_resource = "onix"

    @property
    def _served(self) -> Served:
        served: Served = self.settings["onix_nb"]  # Tornado asks for the policy before `initialize` is called
        return served

    @tornado.web.authenticated
    @authorized
    async def get(self) -> None:
        """The page."""
        scan, unanswered = await self._served.shelf.look()
        self.set_header("Cache-Control", "no-store")
        following = self.get_query_argument("follow", None) is not None
        names = {**self.template_namespace, **namespace(scan, unanswered), "following": following, "refresh": REFRESH}
        await self.finish(await asyncio.to_thread(self.get_template("onix.html").render, names))

    head = get

    def get_login_url(self) -> str:
        """Without a sign-on it is 403, with a way to sign on, as Jupyter's APIs have it; no redirect."""
        raise tornado.web.HTTPError(403)

    def get_template(self, name: str) -> Template:
        """Ours, or Jupyter's."""
        return self._served.environment.get_template(name)

    @property
    def content_security_policy(self) -> str:
        """The server's policy, and another beside it, of which the browser obeys both: no script but Jupyter's own."""
        ours = (
            "default-src 'none'; base-uri 'none'; form-action 'none'; font-src 'self'; img-src 'self';"
            f" style-src 'self' 'unsafe-inline'; script-src {self._served.scripts}"
        )
        return f"{super().content_security_policy}, {ours}"


def namespace(scan: listing.Scan, unanswered: list[Path]) -> dict[str, Any]:
    """What the template shows."""
    entries = list(scan.entries)
    counts: dict[str, int] = {}
    for entry in entries:
        for row in entry.rows:
            counts[row.status] = counts.get(row.status, 0) + 1
    order = [*listing.STATUSES, *counts]
    return {
        "entries": entries,
        "counts": sorted(counts.items(), key=lambda one: order.index(one[0])),
        "problems": sum(bool(entry.problem) for entry in entries),
        "glyphs": listing.STATUSES,
        "left_out": scan.left_out,
        "unfinished": scan.alive,
        # Whether they are below the folder their disk did not say either.
        "unanswered": [preview_text(os.path.basename(path)) for path in unanswered],
        "folder": preview_text(scan.root),
        "style": style(),
    }


def own_scripts(environment: Environment) -> str:
    """The source list of a policy that allows the scripts in Jupyter's frame of a page, by their hashes."""
    assert environment.loader is not None
    source = environment.loader.get_source(environment, "page.html")[0]
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", source, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"


def load(server: ServerApp) -> None:
    """Called by Jupyter Server, which takes it from `_load_jupyter_server_extension`."""
    settings = server.web_app.settings
    jupyters: Environment = settings["jinja2_env"]
    loaders = [FileSystemLoader(TEMPLATES), *([jupyters.loader] if jupyters.loader else [])]
    # Escaping is not left to the server's settings.
    environment = jupyters.overlay(loader=ChoiceLoader(loaders), autoescape=True)
    settings["onix_nb"] = Served(Shelf(server.root_dir), environment, own_scripts(environment))
    server.web_app.add_handlers(".*$", [(url_path_join(settings["base_url"], "/onix/?"), FlowsHandler)])
