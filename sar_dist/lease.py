"""One holder of a folder, such as a run directory, across processes, nodes and shared file systems.

The holder is a file in ``FOLDER/.holder/``, whose name is a number that only grows: the highest one counts. It is written
under another name and linked to its own, so that it is never half there, and of several starts that want the next number
exactly one gets it. It says who the holder is, and a thread of the holder rewrites a counter in it every few seconds;
when the run ends it says so and stays, which keeps the numbers growing. Where it was deleted and nobody else has come, the
holder makes it anew; where the whole folder was moved or removed, the holder has lost it: it writes nothing where the folder was.

A holder is dead if it ran under the same kernel and PID namespace and its process is gone; or if its file has not
changed while the new start *watched* it for ``patience`` seconds of its own monotonic clock. No time stamp is compared:
clocks of nodes and file servers differ.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import stat
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sar_dist.errors import UserError
from sar_dist.files import PART_FILES, parse_json
from sar_dist.output import say
from sar_dist.processes import ProcessIdentity, this_process

FOLDER = ".holder"
RENEW_SECONDS = 3.0
PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # what file systems without hard links answer
_LONGEST = 65536  # bytes read of a holder's file
_LARGEST_PID = 2**31 - 1  # of any kernel; another number is damage


class Lease:
    """A held folder. ``acquire`` makes it.

    Args:
        path: this holder's file.
        record: what it says.
        renew_every: seconds between two renewals.
    """

    def __init__(self, path: Path, record: dict[str, Any], renew_every: float) -> None:
        self.path = path
        self._loss: str | None = None
        self._run = path.parent.parent
        self._place = _Place(self._run)
        self._record = record
        self._renewals = 0
        self._renew_every = renew_every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="holder of a folder", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether the directory is another's by now, or elsewhere; known within ``renew_every`` seconds."""
        return self._loss is not None

    def check(self) -> None:
        """Look now whether the directory is still held.

        Raises:
            UserError: another start has taken it over, because this process was stopped or cut off for long or the holder's
                file was deleted; or the directory was moved.
        """
        self._loss = self._loss or self._look()
        if self._loss is not None:
            raise UserError(f"{self._loss}; nothing more is written here")

    def release(self) -> None:
        """Let the directory go. What cannot be written down, as on a full disk, the end of this process says too."""
        self._ended.set()
        self._thread.join()
        self._loss = self._loss or self._look()
        if not self.lost:
            self._record["released"] = True
            self._write()
        self._place.close()

    def _keep(self) -> None:
        while not self._ended.wait(self._renew_every):
            self._loss = self._loss or self._look()
            if self.lost:
                return
            self._renewals += 1
            self._write()

    def _write(self) -> None:
        """Rewrite this holder's file in place: on a full disk there is room for what is there already."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, os.pwrite(descriptor, _encode(self._record, self._renewals), 0))
            finally:
                os.close(descriptor)
        except OSError:  # full, read-only or gone for a while: the next renewal tries again, and training goes on
            return

    def _look(self) -> str | None:
        """How the directory was lost, or None; a holder's file that somebody deleted is made anew."""
        taken_over = f"{self._run} was taken over by another start while this process stood still"
        try:
            if self._place.is_removed():
                return f"{self._run} was removed while it was in use, with what had been written there"
            new_place = self._place.moved_to()
            if new_place is not None:
                return (
                    f"{self._run} was moved to {new_place} while it was in use; "
                    "give that as run.dir and run.name to go on from its last checkpoint"
                )
            if not self.path.exists():
                taken_over = f"{self._run} was taken over by another start, as {self.path} had been deleted"
                if not self._others():
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    _make(self.path, _encode(self._record, self._renewals))
                    if self._others():  # came at the same time: one of the two has to go
                        self.path.unlink()
            is_another = _decode(_read(self.path) or b"").get("token", self._record["token"]) != self._record["token"]
            is_lost = is_another or not self.path.exists() or max(_numbers(self.path.parent)) > int(self.path.name)
            return taken_over if is_lost else None
        except OSError:  # the disk is away; nobody can take over what nobody sees
            return None
        except UserError as error:  # something that is no file has its place
            return str(error)

    def _others(self) -> bool:
        folder = self.path.parent
        return folder.is_dir() and any(number != int(self.path.name) for number in _numbers(folder))


class _Place:
    """Where a folder is, whatever it is called by now. Only Linux tells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._first = self._now()

    def is_removed(self) -> bool:
        """Whether it is gone, also if another folder has its name by now. Raises OSError."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def moved_to(self) -> str | None:
        """Its new path, if it was moved and its name leads to it no more. Raises OSError."""
        now = self._now()
        if self._descriptor is None or now in (None, self._first) or not os.path.isdir(now):  # deleted: no folder
            return None
        try:
            still_there = os.path.samestat(os.stat(self._folder), os.fstat(self._descriptor))
        except FileNotFoundError:
            still_there = False
        return None if still_there else now

    def close(self) -> None:
        """Look no more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _now(self) -> str | None:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{self._descriptor}")
        return None


def acquire(
    run: Path,
    otherwise: str = "choose another folder",
    *,
    renew_every: float = RENEW_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> Lease:
    """Become the holder of the directory ``run``.

    Args:
        run: an existing folder.
        otherwise: what the user can do instead, such as "choose another run.name".
        renew_every: seconds between two renewals; must be well below the ``patience`` of any other start.
        patience: seconds that a holder on another machine is watched before it counts as dead.

    Raises:
        UserError: somebody else holds it; the message says who. Or something that is no holder's is in its place.
        OSError: the folder cannot be written.
    """
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder} is no folder; remove it: it has the place of what says who uses {run}") from None
    record = {
        "host": platform.node(),
        **asdict(this_process()),
        "folder": os.path.abspath(run),
        "job": os.environ.get("SLURM_JOB_ID"),
        "token": secrets.token_hex(16),
    }
    while True:
        last = max(_numbers(folder), default=0)
        if last:
            _wait_until_free(run, folder / f"{last:08d}", otherwise, patience)
        path = folder / f"{last + 1:08d}"
        if not _make(path, _encode(record, 0)):
            continue  # another start was faster: see who it is
        if max(_numbers(folder)) > last + 1:  # this start slept since it looked, and the numbers went on
            path.unlink(missing_ok=True)
            continue
        for old in [f"{number:08d}" for number in _numbers(folder) if number <= last]:
            (folder / old).unlink(missing_ok=True)
        for left in folder.glob(PART_FILES):  # by starts that were killed, or that will find this holder
            if not left.is_dir():  # nobody's that comes here
                left.unlink(missing_ok=True)
        return Lease(path, record, renew_every)


def _make(path: Path, content: bytes) -> bool:
    """Make a file that is whole as soon as it has its name; False where the name is taken. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _write_new(temporary, content)
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):  # another start has the name, and may have tidied up already
        return _is_linked(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            _write_new(path, content)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _is_linked(temporary: Path) -> bool:
    """Whether the link was made all the same: NFS may lose its answer to one, and refuse the second attempt."""
    try:
        return temporary.stat().st_nlink > 1
    except FileNotFoundError:
        return False


def _write_new(path: Path, content: bytes) -> None:
    """Put a new file on disk. Raises OSError, and leaves nothing then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _wait_until_free(run: Path, path: Path, otherwise: str, patience: float) -> None:
    """Return when the holder that ``path`` names is dead or has let go, or is not the last one any more.

    Raises:
        UserError: it is alive.
    """
    before = _read(path)
    deadline, said = time.monotonic() + patience, False
    while before is not None:
        holder = _decode(before)
        identity = _identity(holder)
        if holder.get("released"):
            return
        if identity is not None and identity.can_be_judged():
            if identity.is_alive():
                raise UserError(_in_use(run, holder, otherwise))
            return
        if time.monotonic() > deadline:
            return
        if not said:
            say(f"{run} was held by {_who(holder)}; watching for {patience:g} s whether it lives")
            said = True
        time.sleep(min(_LOOK_SECONDS, patience / 4))
        now = _read(path)
        if now != before and now is not None and holder and not _decode(now).get("released"):
            raise UserError(_in_use(run, holder, otherwise))
        before = now


def _in_use(run: Path, holder: dict[str, Any], otherwise: str) -> str:
    held = holder.get("folder")
    # One folder may have several names; and a copy looks as if it were held.
    copied = f"; if this is a copy of {held}, remove {run / FOLDER}" if held not in (None, os.path.abspath(run)) else ""
    return f"{run} is in use by {_who(holder)}; wait until it has ended, stop it, or {otherwise}{copied}"


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "a start that was cut short"
    job = f" (job {holder['job']})" if holder.get("job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{job}"


def _numbers(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal()]


def _encode(record: dict[str, Any], renewals: int) -> bytes:
    """The file's bytes, of one length as long as nothing but the counter changes, so that a renewal needs no room."""
    return json.dumps({"renewals": f"{renewals:012d}", **record}).encode() + b"\n"


def _decode(content: bytes) -> dict[str, Any]:
    """What a holder's file says; {} where it was cut short while it was written."""
    try:
        record = parse_json(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _identity(holder: dict[str, Any]) -> ProcessIdentity | None:
    try:
        identity = ProcessIdentity(int(holder["pid"]), int(holder["started"]), holder["boot"], holder["namespace"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return identity if 0 < identity.pid <= _LARGEST_PID else None


def _read(path: Path) -> bytes | None:
    """The file's bytes, read anew, which makes NFS ask its server; None where it is gone."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise UserError(
                f"{path} is no file; remove it: it has the place of what says who uses {path.parent.parent}"
            )
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except FileNotFoundError:
        return None
