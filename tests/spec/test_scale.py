"""Very many async actions at once, on the one event loop that they share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import onix_nb as onix

WAIT = 30


def test_ten_thousand_actions_wait_at_once() -> None:
    """None of them ends before all have begun."""
    number = 10_000
    begun, all_there = [0], asyncio.Event()

    @onix.action
    async def meet(x: int) -> int:
        begun[0] += 1
        if begun[0] == number:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), WAIT)
        return x

    futures = [meet.start(x=x) for x in range(number)]
    onix.wait(futures)
    assert [future.result() for future in futures] == list(range(number))


class Server:
    """An HTTP server on loopback, in a thread of its own, that answers no one until so many are connected."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._open = 0
        self.most = 0
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._all_there = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=self._number)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._ended.wait()
            self._all_there.set()  # or it would wait for those who wait

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self.most = max(self.most, self._open)
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if self._open == self._number:
            self._all_there.set()
        await self._all_there.wait()
        body = request.split()[1].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        self._open -= 1
        writer.close()


@onix.action(timeout=WAIT)
async def fetch(port: int, path: str) -> str:
    """A GET, by hand: no library is needed for one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return f"{head.split()[1].decode()} {body.decode()}"


def all_at_once(number: int, gather: Callable[[Server], list[str]]) -> tuple[int, list[str]]:
    """The most connections that were open at once, and the answers."""
    with Server(number) as server:
        answers = gather(server)
        return server.most, answers


def test_five_hundred_connections_are_open_at_once() -> None:
    """None is answered before all of them are."""

    def gather(server: Server) -> list[str]:
        @onix.flow
        async def pages() -> list[str]:
            futures = [fetch.start(port=server.port, path=f"/{n}") for n in range(500)]
            return [await future for future in futures]

        result: list[str] = pages.start().result(timeout=WAIT)
        return result

    assert all_at_once(500, gather) == (500, [f"200 /{n}" for n in range(500)])


def test_one_after_the_other_is_caught() -> None:
    """Control: a client that waits for each answer never gets the first."""

    def gather(server: Server) -> list[str]:
        answers: list[Any] = [fetch.options(timeout=0.3).start(port=server.port, path="/0").exception()]
        return [type(one).__name__ for one in answers]

    assert all_at_once(2, gather) == (1, ["AttemptTimeoutError"])
