"""What a run wrote: its end is kept, whole and bounded, whichever threads write; and streams are left as they were."""

from __future__ import annotations

import contextvars
import gc
import io
import sys
import threading
import timeit
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from onix_nb.model import output as output_module
from onix_nb.model import run as run_module
from onix_nb.model.attempt import Attempt, current
from onix_nb.model.output import LIMIT, LIMIT_OF_ALL, Counter, Output, tell
from onix_nb.model.run import Run
from onix_nb.notebook.output import _without_sockets, capture, release

WAIT = 30


def new_run() -> Run:
    return Run("work", "action", None, {}, None, None, 0)


def kept(output: Output) -> tuple[int, str]:
    """How many characters the mark says were dropped, and the text without it."""
    text = output.text
    if not text.startswith("["):
        return 0, text
    mark, _, rest = text.partition("\n")
    assert mark.endswith(" characters before this were not kept]")
    return int(mark[1:].partition(" ")[0].replace(",", "")), rest


def together(*works: Callable[[], None]) -> None:
    """Runs each on a thread, all at the same time; fails with what one of them raised."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def begin(work: Callable[[], None]) -> None:
        try:
            barrier.wait(WAIT)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert errors == []


@pytest.fixture
def switching() -> Iterator[None]:
    """Lets threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def racing(switching: None, interleaved: Callable[[], Any]) -> Iterator[None]:
    """Lets the threads that are started take turns at any instruction."""
    if interleaved() is not None:
        threading.settrace(lambda *event: interleaved()(*event))
    yield
    threading.settrace(None)  # type: ignore[arg-type]


# The text of one run


def test_a_text_is_kept_in_the_order_of_writing() -> None:
    """All of it, while it is small, without a mark."""
    output = Output()
    for word in ("one", " ", "two", "\n"):
        output.write(word)
    assert output.text == "one two\n"


def test_the_last_64_kb_are_kept() -> None:
    """However small the writes; the mark says exactly what is missing."""
    output = Output()
    lines = [f"line {number}\n" for number in range(20_000)]
    for line in lines:
        output.write(line)
    dropped, text = kept(output)
    everything = "".join(lines)
    assert text == everything[-LIMIT:]
    assert dropped + len(text) == len(everything)
    assert output.size == LIMIT


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_the_mark_comes_with_the_first_character_that_is_dropped(length: int) -> None:
    """Not before."""
    output = Output()
    output.write("x" * length)
    assert kept(output) == (max(0, length - LIMIT), "x" * min(length, LIMIT))


@pytest.mark.parametrize("character", ["é", "€", "😀", "\ud800"], ids=ascii)
@pytest.mark.parametrize("shift", range(4))
def test_no_character_is_cut_in_two(character: str, shift: int) -> None:
    """At the beginning of what is kept stands a whole one, lone surrogates included."""
    output = Output()
    text = character * LIMIT + "x" * shift
    output.write(text)
    dropped, end = kept(output)
    assert text.endswith(end)
    assert dropped + len(end) == len(text)
    size = len(character.encode("utf-8", "surrogatepass"))
    assert LIMIT - size < len(end.encode("utf-8", "surrogatepass")) <= LIMIT


def test_a_pair_of_lone_surrogates_stays_two_characters() -> None:
    """What was written is what is read."""
    output = Output()
    output.write("a\ud83d")
    output.write("\ude00b\x00")
    assert output.text == "a\ud83d\ude00b\x00"


def memory_of(work: Callable[[], Any]) -> int:
    """The most bytes that `work` had at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huge_write_is_not_copied() -> None:
    """Of 50 million characters the end is looked at, and the others are counted."""
    text = "é" * 50_000_000
    output = Output()
    assert memory_of(lambda: output.write(text)) < 1_000_000
    dropped, end = kept(output)
    assert end == "é" * (LIMIT // 2)
    assert dropped == len(text) - len(end)
    # Control: a copy is seen.
    assert memory_of(lambda: output.write(text.encode().decode())) > 50_000_000


def test_many_small_writes_take_little_memory() -> None:
    """What is kept of 200,000 prints is 64 KB, not as many objects."""
    output = Output()

    def work() -> None:
        for _ in range(200_000):
            output.write("ab")

    assert memory_of(work) < 3 * LIMIT


class Copies(Output):
    """A broken output: it makes a new text of each write."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        super().__init__()
        self._all = ""

    def write(self, text: str) -> None:
        self._all = (self._all + text)[-LIMIT:]


def slowdown(kind: type[Output]) -> float:
    """How many times longer a write to a full output takes than one to an empty one."""

    def seconds(before: str) -> float:
        output = kind()
        output.write(before)
        return min(timeit.repeat(lambda: output.write("some words\n"), number=1000, repeat=7))

    return seconds("x" * LIMIT) / seconds("")


def test_a_write_does_not_copy_what_is_kept() -> None:
    """Writing to a full output takes about as long as writing to an empty one."""
    assert slowdown(Output) < 4
    assert slowdown(Copies) > 4  # control


class Liar(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise ZeroDivisionError

    __bool__ = __getitem__ = encode = __str__ = __len__  # type: ignore[assignment]


def test_the_text_of_a_subclass_is_kept_without_its_methods() -> None:
    """No code of the user runs."""
    run = new_run()
    run.keep_output(Liar("the truth"))
    assert run.output is not None
    assert run.output.text == "the truth"


# Several threads


class ReadsThenWrites(Output):
    """A broken output: between its look and its change another thread may write."""

    __slots__ = ()

    def write(self, text: str) -> None:
        whole = bytes(self._kept) + text.encode()
        self._kept = bytearray(whole)
        self._written.add(len(text))


class AddsInTwoSteps(Counter):
    """A broken counter."""

    __slots__ = ()

    def add(self, number: int) -> int:
        value = self._position.tell()
        return self._position.seek(value + number)


class CountsInTwoSteps(Output):
    """A broken output: two threads may count at the same time."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._written = AddsInTwoSteps()


def race(kind: type[Output], number: int) -> Output:
    """An output to which four threads wrote `number` lines each."""
    output = kind()

    def writer(name: str) -> Callable[[], None]:
        def work() -> None:
            for turn in range(number):
                output.write(f"{name}{turn:05}\n")

        return work

    together(*(writer(name) for name in "abcd"))
    return output


def is_whole(output: Output, number: int) -> bool:
    """Whether all lines are there, each in one piece, those of a thread in order, and counted."""
    lines = output.text.splitlines()
    in_order = all(
        [line for line in lines if line[0] == name] == [f"{name}{turn:05}" for turn in range(number)] for name in "abcd"
    )
    return in_order and output._written.value == 4 * number * len("a00000\n")


def test_threads_lose_nothing(racing: None) -> None:
    """What four threads write at the same time is all kept, line by line."""
    for _ in range(5):
        assert is_whole(race(Output, 300), 300)


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="no tracing of instructions in threads, see `interleaved`")
@pytest.mark.parametrize("broken", [ReadsThenWrites, CountsInTwoSteps])
def test_control_a_loss_is_seen(racing: None, broken: type[Output]) -> None:
    """The same writers, and an output that changes in two steps."""
    assert not all(is_whole(race(broken, 300), 300) for _ in range(5))


def test_what_threads_drop_is_counted(racing: None) -> None:
    """Cutting and counting by several threads: the end is whole, the number exact."""
    output = Output()

    def work() -> None:
        for _ in range(100):
            output.write("x" * 999 + "\n")

    together(*[work] * 4)
    dropped, text = kept(output)
    assert dropped + len(text) == 4 * 100 * 1000
    assert len(text) == LIMIT
    assert all(len(line) == 999 for line in text.splitlines()[1:])


class Meets(Output):
    """An output that is made by two threads at the same time."""

    __slots__ = ()
    barrier = threading.Barrier(2)

    def __init__(self) -> None:
        super().__init__()
        self.barrier.wait(WAIT)


def keep_naively(run: Run, text: str) -> None:
    """A broken `keep_output`: two threads that come first at the same time have an output each."""
    if run.output is None:
        run.output = run_module.Output()
    mine = run.output
    mine.write(text)


def first_writes(keep: Callable[[Run, str], None]) -> list[str]:
    """What is kept of two threads' first writes, which meet."""
    run = new_run()
    together(lambda: keep(run, "one\n"), lambda: keep(run, "two\n"))
    assert run.output is not None
    return sorted(run.output.text.splitlines())


def test_threads_that_write_first_share_one_output(monkeypatch: pytest.MonkeyPatch, racing: None) -> None:
    """Whoever of them makes it."""
    for _ in range(200):
        assert first_writes(Run.keep_output) == ["one", "two"]
    monkeypatch.setattr(run_module, "Output", Meets)
    for _ in range(200):
        assert first_writes(Run.keep_output) == ["one", "two"]
    assert run_module._first_outputs == {}
    # Control: without care, one of the two texts is lost.
    assert not all(first_writes(keep_naively) == ["one", "two"] for _ in range(200))


# All runs together


def fill(runs: list[Run]) -> int:
    """Each run writes 64 KB; how many bytes all have kept."""
    for run in runs:
        run.keep_output("x" * LIMIT)
    return sum(run.output.size for run in runs if run.output is not None)


def test_all_runs_together_keep_32_mb() -> None:
    """The texts of the oldest runs go first, and their mark says so; the others are whole."""
    runs = [new_run() for _ in range(1000)]
    assert LIMIT_OF_ALL * 0.9 < fill(runs) <= LIMIT_OF_ALL
    texts = [kept(run.output) for run in runs if run.output is not None]
    gone = [text for text in texts if text == (LIMIT, "")]
    whole = [text for text in texts if text == (0, "x" * LIMIT)]
    assert gone + whole == texts
    assert len(whole) > 450
    # A run that goes on is as young as the others.
    runs[0].keep_output("later")
    rest = [new_run() for _ in range(100)]
    fill(rest)
    assert runs[0].output is not None
    assert kept(runs[0].output) == (LIMIT, "later")


def test_all_runs_together_keep_32_mb_from_several_threads(switching: None) -> None:
    """Whoever makes room."""
    groups = [[new_run() for _ in range(250)] for _ in range(4)]
    together(*(lambda runs=runs: fill(runs) for runs in groups))
    outputs = [run.output for runs in groups for run in runs if run.output is not None]
    # A write that another thread has just begun may not be added up yet.
    assert LIMIT_OF_ALL * 0.8 < sum(output.size for output in outputs) <= LIMIT_OF_ALL + 4 * LIMIT


def test_control_without_making_room_it_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum above sees it."""
    monkeypatch.setattr(output_module, "_make_room", lambda: None)
    assert fill([new_run() for _ in range(1000)]) > LIMIT_OF_ALL


def test_a_text_is_freed_with_its_run() -> None:
    """Nothing of ours holds it."""
    gc.collect()
    before = len(output_module._outputs)
    run = new_run()
    run.keep_output("text")
    assert run.output is not None
    output = weakref.ref(run.output)
    assert len(output_module._outputs) == before + 1
    del run
    gc.collect()
    assert output() is None
    assert len(output_module._outputs) == before


# Streams


class Stream(io.StringIO):
    """A stream in memory that says what was written."""


def in_run(run: Run, work: Callable[[], Any]) -> Any:
    """Runs `work` as code of `run`."""
    context = contextvars.copy_context()
    context.run(current.set, Attempt(run))
    return context.run(work)


def test_a_print_goes_through_and_is_kept_with_its_run() -> None:
    """Outside of runs, it just goes through."""
    stream, run = Stream(), new_run()
    captured = capture(stream)
    print("outside", file=stream)
    in_run(run, lambda: print("inside", 1, file=stream))
    assert in_run(run, lambda: stream.write("four")) == 4
    in_run(run, lambda: stream.writelines(["five", "six"]))
    release(captured)
    in_run(run, lambda: print("after", file=stream))
    assert stream.getvalue() == "outside\ninside 1\nfourfivesixafter\n"
    assert run.output is not None
    assert run.output.text == "inside 1\nfourfivesix"


def test_a_run_that_prints_nothing_has_no_output() -> None:
    """Nor does one that prints an empty text."""
    stream, run = Stream(), new_run()
    captured = capture(stream)
    in_run(run, lambda: print(end="", file=stream))
    release(captured)
    assert run.output is None


def test_releasing_leaves_the_stream_as_it_was() -> None:
    """Also a `write` that somebody had given it before."""
    plain, wrapped = Stream(), Stream()
    vars(wrapped)["write"] = before = wrapped.write
    captured = capture(plain, wrapped)
    assert "write" in vars(plain)
    assert vars(wrapped)["write"] is not before
    release(captured)
    assert vars(plain) == {}
    assert vars(wrapped) == {"write": before}


def test_what_somebody_put_on_top_stays_when_ours_is_released() -> None:
    """Their wrapper is theirs; text goes through once, and is kept no longer until it is captured again."""
    stream, run, seen = Stream(), new_run(), []
    captured = capture(stream)
    ours = stream.write

    def theirs(text: str) -> int:
        seen.append(text)
        return ours(text)

    vars(stream)["write"] = theirs
    release(captured)
    assert stream.write is theirs
    in_run(run, lambda: stream.write("one "))
    assert run.output is None
    captured = capture(stream)
    in_run(run, lambda: stream.write("two "))
    release(captured)
    in_run(run, lambda: stream.write("three"))
    assert seen == ["one ", "two ", "three"]
    assert stream.getvalue() == "one two three"
    assert run.output is not None
    assert run.output.text == "two "  # once, though two of ours were there


def test_a_stream_that_is_both_stdout_and_stderr_is_captured_once() -> None:
    """Its text is kept once."""
    stream, run = Stream(), new_run()
    captured = capture(stream, stream)
    in_run(run, lambda: print("once", file=stream))
    release(captured)
    assert run.output is not None
    assert run.output.text == "once\n"
    assert vars(stream) == {}


class Closed:
    """A stream that allows no attributes."""

    __slots__ = ()

    def write(self, text: str) -> int:
        return len(text)


def test_what_cannot_be_captured_is_left_alone() -> None:
    """No stream at all, one without attributes, and one without `write`."""
    empty = type("Empty", (), {})()
    assert capture(None, Closed(), empty) == []
    assert vars(empty) == {}


def test_a_text_stream_of_a_terminal_is_captured() -> None:
    """The type that `sys.stdout` has outside of notebooks."""
    raw, run = io.BytesIO(), new_run()
    stream = io.TextIOWrapper(raw, "utf-8", write_through=True)
    before = dict(vars(stream))
    captured = capture(stream)
    in_run(run, lambda: print("word", file=stream))
    release(captured)
    assert vars(stream) == before
    assert raw.getvalue() == b"word\n"
    assert run.output is not None
    assert run.output.text == "word\n"


def test_what_the_stream_raises_is_raised_and_not_kept() -> None:
    """The user's print behaves as ever."""
    stream, run = Stream(), new_run()
    captured = capture(stream)
    with pytest.raises(TypeError):
        in_run(run, lambda: stream.write(5))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        in_run(run, lambda: stream.write())  # type: ignore[call-arg]
    stream.close()
    with pytest.raises(ValueError):
        in_run(run, lambda: print("closed", file=stream))
    release(captured)
    assert run.output is None


def test_a_failure_of_ours_does_not_reach_the_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in keeping; an interrupt does reach it."""
    stream, run = Stream(), new_run()
    captured = capture(stream)
    to_raise: list[type[BaseException]] = [KeyboardInterrupt, RecursionError, MemoryError, ValueError]

    def fails(run: Run, text: str) -> None:
        raise to_raise.pop()

    monkeypatch.setattr(Run, "keep_output", fails)
    for _ in range(3):
        in_run(run, lambda: stream.write("x"))
    with pytest.raises(KeyboardInterrupt):
        in_run(run, lambda: stream.write("x"))
    release(captured)
    assert stream.getvalue() == "xxxx"
    assert to_raise == []


def test_a_tracing_function_that_prints_everywhere_neither_hangs_nor_recurses() -> None:
    """A print may come from the midst of our own lines, on the same thread."""
    stream, run, places = Stream(), new_run(), []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        places.append(frame.f_code.co_name)
        print(f"[{frame.f_code.co_name}]", file=stream)
        return trace

    def work() -> None:
        print("word", file=stream)

    captured = capture(stream)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        in_run(run, work)
    finally:
        sys.settrace(before)
        release(captured)
    assert {"work", "write", "keep_output", "add"} <= set(places)
    assert run.output is not None
    assert "word" in run.output.text
    assert run.output.text.count("[") > 20


def test_a_print_outside_of_a_run_costs_little() -> None:
    """Less than three times a print to a stream that does nothing, in the best of many alternating rounds."""
    stream = type("Sink", (), {"write": lambda self, text: len(text)})()
    plain, kept = [], []
    for _ in range(30):
        plain.append(timeit.timeit(lambda: print("word", file=stream), number=1_000))
        captured = capture(stream)
        kept.append(timeit.timeit(lambda: print("word", file=stream), number=1_000))
        release(captured)
    assert min(kept) < 3 * min(plain)


def test_at_the_exit_the_main_thread_alone_uses_the_socket_of_a_thread_that_has_ended() -> None:
    """What other threads write then is dropped: two threads must not use one socket."""
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join(WAIT)
    called: list[str] = []
    schedule = _without_sockets(ended, None)
    schedule(lambda: called.append("main"))
    together(lambda: schedule(lambda: called.append("another")))
    assert called == ["main"]


@pytest.mark.parametrize(
    ("say", "writes"), [(tell, ["onix_nb: a note\n"]), (print, ["a note", "\n"])], ids=["tell", "control"]
)
def test_a_note_is_one_write(monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None], writes: list[str]) -> None:
    """What another thread prints meanwhile can't come between a note and the end of its line, as with `print`."""
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    say("a note")
    assert [text for text in written if text] == writes
