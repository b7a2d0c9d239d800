"""Exit codes of commands, and the one-line error on stderr of those that fail.

| code | meaning | retried by a flow |
|---|---|---|
| 0 | success | |
| 1 | a failure that the command detects itself: collapsed codebook, drifted data | no |
| 2 | bad input, such as data that fail the gate, or no space left | no |
| 70 | a bug or a broken machine; the traceback is in a file | once |
| 128 + n | ended by signal n; 141 if the reader of stdout has exited | no |
| 137, 139 | killed, usually for lack of memory; a crash of native code | once |
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gear.core.errors import InputError, StageFailed
from gear.core.text import one_line

CRASH = 70  # EX_SOFTWARE of sysexits.h
READER_GONE = 128 + signal.SIGPIPE
# environment variable: the file that the first of several ranks to fail makes, with its exit code
FIRST_FAILURE = "GEAR_FIRST_FAILURE"
NEARLY_FULL = 16 << 20  # bytes; with less free space, a failed write counts as no space left
OF_THE_PLACE = {  # errors that a user can fix: permissions, a file in place of a folder, ...
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
# messages of libraries that hide the system's error: PyTorch's zip writer, pyarrow, safetensors
WRITE_FAILED = ("PytorchStreamWriter", "unexpected pos", "Error writing bytes", "I/O error")


def run(command: str, body: Callable[[], None], logs: Path) -> int:
    """Run a command and return its exit code; no traceback reaches the user.

    Args:
        command: Its name as typed, the prefix of its error line; may be empty.
        body: Runs the command.
        logs: Folder for the traceback of an unexpected error.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    with _drafts_deleted_on_signals():
        return _run(command, body, logs)


def _run(command: str, body: Callable[[], None], logs: Path) -> int:
    try:
        body()
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except InputError as error:
        return _fail(2, command, str(error))
    except StageFailed as error:
        return _fail(1, command, str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError as error:
        if not reader_is_gone():
            return _crash(command, error, logs)
        discard_output()
        return READER_GONE
    except Exception as error:
        if has_no_space(error):
            discard_output()  # stdout may be the file that could not be written
            return _fail(2, command, _no_space(error))
        if isinstance(error, OSError) and error.errno in OF_THE_PLACE and error.filename:
            return _fail(
                2, command, f"{error.filename}: {error.strerror}: mend it, or work elsewhere"
            )
        if isinstance(error, FileNotFoundError) and error.filename == "git":
            return _fail(2, command, "git is not on PATH: install it, runs are recorded in it")
        return _crash(command, error, logs)


@contextmanager
def _drafts_deleted_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit` in the body, so that it deletes its drafts."""
    changed = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def reader_is_gone() -> bool:
    """Return whether stdout is a pipe whose reader has exited, as after `| head`."""
    with suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def discard_output() -> None:
    """Redirect stdout to /dev/null."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def discard_closed_terminals() -> None:
    """Redirect stdout and stderr to /dev/null where their terminal was closed."""
    for descriptor in (1, 2):
        with suppress(OSError):
            poll = select.poll()
            poll.register(descriptor, 0)
            if any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def has_no_space(error: BaseException) -> bool:
    """Return whether an error, or one in its chain of causes, says that a disk or quota is full."""
    behind: BaseException | None = error
    seen: set[int] = set()
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        if isinstance(behind, OSError) and behind.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(behind)
        if os.strerror(errno.ENOSPC).lower() in text.lower():
            return True
        if any(words in text for words in WRITE_FAILED):
            with suppress(OSError):
                return shutil.disk_usage(Path.cwd()).free < NEARLY_FULL
        behind = behind.__cause__ or behind.__context__
    return False


def _no_space(error: Exception) -> str:
    name = getattr(error, "filename", None)
    where = f" for {name}" if name else f" in {Path.cwd()}"
    return f"no space left{where}: free some and run the same command again"


def _fail(code: int, command: str, message: str) -> int:
    if _another_rank_failed(code):
        return code
    with suppress(OSError):
        prefix = f"{command}: " if command else ""
        print(prefix + one_line(message), file=sys.stderr, flush=True)
    return code


def _another_rank_failed(code: int) -> bool:
    """Return whether another rank has reported a failure; if none has, record this one.

    A crash is not recorded: it may follow from the death of a rank, which the launcher reports.
    """
    if FIRST_FAILURE not in os.environ:
        return False
    file = Path(os.environ[FIRST_FAILURE])
    if code == CRASH:
        return file.exists()
    try:
        with file.open("x") as stream:
            stream.write(str(code))
    except FileExistsError:
        return True
    except OSError:  # the disk may be full: a message that comes twice is better than none
        pass
    return False


def _crash(command: str, error: Exception, logs: Path) -> int:
    text = "".join(traceback.format_exception(error))
    words = ("crash", *command.split(), time.strftime("%Y%m%d-%H%M%S"), str(os.getpid()))
    name = f"{'-'.join(words)}.log"
    place = "its traceback could not be written"
    for folder in (logs, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, errors="backslashreplace")
        except OSError:
            continue
        place = f"its traceback is in {folder / name}"
        break
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _fail(CRASH, command, f"unforeseen error, {one_line(reason, 300)}; {place}")
