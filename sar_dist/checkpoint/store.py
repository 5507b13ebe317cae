"""Saving in the background, committing atomically, keeping the right ones, finding the newest good one.

A save has three parts. (1) In the training loop each process copies its state to host memory. (2) A thread of each
process writes and fsyncs it into ``.tmp-step_N``, then publishes a small receipt with size and hash. (3) The main
process's thread waits for every receipt, writes the manifest, renames the folder and moves the ``latest`` pointer. A
crash at any instant leaves a temporary folder, which the next start removes, and never a half checkpoint. Receipts are
files, not collectives: collectives from a second thread would mix with those of training.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sar_dist import distributed
from sar_dist.checkpoint import layout
from sar_dist.checkpoint.layout import DamagedCheckpoint
from sar_dist.checkpoint.manifest import (
    CheckpointManifest,
    FileRecord,
    RankIndex,
    SharedState,
    manifest_json,
    manifest_with_progress,
    read_manifest,
    verify,
    verify_own,
)
from sar_dist.checkpoint.reading import CheckpointReader
from sar_dist.errors import UserError, described
from sar_dist.files import PART_FILES, CannotWrite, publish, sync_file, sync_folder, write_durably
from sar_dist.output import warn
from sar_dist.program import finish_before_end
from sar_dist.standstill import know_writers


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        root: ``runs/NAME/checkpoints``; on several nodes a folder that all of them share.
        keep_last: newest checkpoints that are kept.
        keep_every: checkpoints whose step is a multiple of this are kept for good; None keeps no more.
        timeout: seconds that the main process waits for the other processes' files before it gives a save up.
        before: puts on disk what belongs to the steps before a checkpoint; done on every process before one is committed,
            so that after a power cut nothing older is missing. It raises nothing.
        mark: a folder outside of ``root`` that gets the run's name too, with the first checkpoint: it tells of checkpoints
            that have gone, and of others that came into their place.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep_last: int,
        keep_every: int | None,
        timeout: float = 1800.0,
        before: Callable[[], None] = lambda: None,
        mark: Path | None = None,
    ) -> None:
        self.root = root
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.timeout = timeout
        self._before = before
        self._mark = mark
        self.failures = 0
        self._problem: str | None = None
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()  # the main process waits no more for the others' files
        self._saving: tuple[Path, int, int] | None = None  # the newest save: its folder, this rank, number of processes
        self._published = True  # this process's part of it
        self._protected: set[str] = set()
        self._damaged: set[str] = set()  # failed verification and could not be renamed
        self._lasting: set[str] = set()  # known to be no interim ones
        self._run_id: str | None = None  # known to the main process, which writes and verifies manifests
        self._last_step: int | None = None  # known without a look at the disk, where another process may be ahead

    def prepare(self) -> None:
        """Create the folder, name the run and remove what crashed saves left. Call on every process before training.

        Raises:
            UserError: the folder cannot be written.
        """
        distributed.main_first(self._prepare)
        know_writers(self.writing)

    def _prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, "may not be written by this user")
            if (pointer := self.root / layout.LATEST).exists():
                layout.regular_size(pointer)
            self._remove_leftovers()
            self._run_id = self._find_run_id()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{error.filename or self.root} cannot be prepared for checkpoints: {reason}") from error

    def _find_run_id(self) -> str:
        """The run's name: in its file; else, where that is damaged or was not copied along, in the run's folder or its checkpoints; else a new one."""
        if recorded := layout.recorded_run_id(self.root):
            return recorded
        marked = None if self._mark is None else layout.recorded_run_id(self._mark)
        run_id = marked or uuid.uuid4().hex
        for folder in () if marked else layout.complete_checkpoints(self.root):
            try:
                run_id = verify(folder).run_id or run_id
                break
            except DamagedCheckpoint:
                continue  # ``newest`` reports it
        write_durably(self.root / layout.RUN_ID, run_id + "\n")
        return run_id

    def remove_failed(self) -> None:
        """Remove what the processes left of a save that failed on one of them. Call on every process, after ``wait``.

        Where even that fails, as on a disk that became read-only, training goes on.
        """
        self._last_step = None  # also on a process that wrote its part: the next save must be one of all

        def remove() -> None:
            try:
                self._remove_leftovers()
            except OSError as error:
                warn(f"warning: the rest of a failed save stays in {self.root}: {error}")

        distributed.main_first(remove)

    def _remove_leftovers(self) -> None:
        in_folders = (part for folder in layout.complete_checkpoints(self.root) for part in folder.glob(PART_FILES))
        for leftover in (*self.root.glob(".tmp-*"), *self.root.glob(PART_FILES), *in_folders):
            _delete(leftover)

    def save(self, step: int, tensors: dict[str, Tensor], index: RankIndex, shared: SharedState) -> None:
        """Start to write a checkpoint; returns once an earlier one is written. Call on every process.

        Args:
            step: optimizer steps done.
            tensors: this process's tensors, in host memory, which nobody else changes from now on.
            index: this process's description of them.
            shared: state that is the same on every process.
        """
        self.wait()
        if step == self._last_step:  # the same weights again, as at the end of training: only the progress may differ
            if distributed.is_main():
                self._renew(step, shared)
            return
        self._last_step = step
        rank, world = distributed.rank(), distributed.world_size()
        self._published, self._saving = False, (self._temporary(step), rank, world)
        arguments = (step, tensors, index, shared, rank, world)
        self._thread = threading.Thread(target=self._write, args=arguments, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()
        finish_before_end(self._thread)

    def _renew(self, step: int, shared: SharedState) -> None:
        """Write a committed checkpoint's progress anew; the first save came in the middle of what is due after its step."""
        folder = self.root / layout.step_name(step)
        try:
            renewed = manifest_with_progress(folder, shared.train_state, interim=shared.interim)
            if renewed is not None:
                self._before()
                write_durably(folder / layout.MANIFEST, renewed)
            self._tidy(folder.name)
        except (OSError, DamagedCheckpoint) as error:
            self._has_failed(step, error)

    def _has_failed(self, step: int, error: Exception) -> None:
        self.failures += 1
        self._last_step = None
        self._problem = f"the checkpoint of step {step} could not be saved: {_reason(error)}"

    def writing(self) -> set[int]:
        """The ranks that are still at the files of the newest save, as far as the disk tells; for any thread."""
        if self._saving is None:
            return set()
        folder, rank, world = self._saving
        if not self._published:
            return {rank}
        if not folder.is_dir():
            return set()
        parts = [folder / _receipt(rank) for rank in range(world)]
        if not parts[rank].exists():
            return {0}  # which has collected them all
        return {
            rank for rank, part in enumerate(parts) if not part.exists() and not (folder / _failed(rank)).exists()
        } or {0}

    def _temporary(self, step: int) -> Path:
        return self.root / f".tmp-{layout.step_name(step)}"

    def wait(self) -> None:
        """Wait until the running save is on disk, on the main process until it is committed. Call on every process.

        Raises:
            RuntimeError: another process has ended in between, and its part will never come.
        """
        if distributed.is_main():
            try:
                distributed.wait_on_cpu()
            except RuntimeError:
                self._given_up.set()
                raise
            self._join()
        else:
            self._join()
            distributed.wait_on_cpu()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_problem(self) -> str | None:
        """What went wrong with a save since the last call, or None."""
        problem, self._problem = self._problem, None
        return problem

    def protect(self, step: int) -> None:
        """Keep the checkpoint of ``step`` (the best so far) until another one is protected."""
        self._protected = {layout.step_name(step)}

    def newest(self) -> CheckpointReader | None:
        """The newest intact checkpoint, the same one on every process; damaged ones are reported and skipped.

        Raises:
            UserError: there are checkpoints, and none of them is intact.
        """

        def newest() -> tuple[str, CheckpointManifest] | None:
            found = self._newest_intact(layout.complete_checkpoints(self.root))
            if found is not None:
                self._say_passed_over(found[1].step)
            return found

        found = distributed.main_first(newest)
        if found is None:
            return None
        name, manifest = found
        self._last_step = manifest.step
        return CheckpointReader(self.root / name, manifest)

    def _say_passed_over(self, step: int) -> None:
        """Warn where the pointer names a later checkpoint than that of ``step``, which is neither there nor known to be damaged."""
        name = layout.pointed_at(self.root)
        if name is None or layout.step_of(self.root / name) <= step or name in self._damaged:
            return
        if not any(self.root.glob(f"damaged-{name}*")):
            what = "is no folder" if os.path.lexists(self.root / name) else "is not there"
            what = "is a link to nothing" if (self.root / name).is_symlink() else what
            warn(
                f"warning: {self.root / layout.LATEST} names {name}, which {what}: training goes back to step {step}, and "
                "writes anew what came later; to keep that, stop now and restore it"
            )

    def newest_due(self) -> CheckpointReader | None:
        """As ``newest``, of those that a run that was never stopped has too: what training goes back to."""

        def newest_due() -> tuple[str, CheckpointManifest] | None:
            folders = layout.complete_checkpoints(self.root)
            return self._newest_intact([folder for folder in folders if not self._is_interim(folder)])

        found = distributed.main_first(newest_due)
        return None if found is None else CheckpointReader(self.root / found[0], found[1])

    def tidy(self) -> None:
        """Do what a save left undone that was killed just after its commit. Call on every process, after ``protect``."""
        name = None if self._last_step is None else layout.step_name(self._last_step)

        def tidy() -> None:
            try:
                if name is not None:
                    self._tidy(name)
            except OSError as error:
                warn(f"warning: older checkpoints than {name} could not be tidied up: {error}")

        distributed.main_first(tidy)

    def _newest_intact(self, candidates: list[Path]) -> tuple[str, CheckpointManifest] | None:
        """Name and manifest of the first intact folder; those before it, which are damaged, are set aside.

        Where none is intact all of them stay where they are: the next start must not take the run for a new one.
        """
        damaged: list[Path] = []
        for folder in candidates:
            try:
                manifest = verify_own(folder, self._run_id)
            except DamagedCheckpoint as damage:
                warn(f"warning: skipping a damaged checkpoint: {damage}")
                damaged.append(folder)
                continue
            for bad in damaged:
                self._set_aside(bad)
            return folder.name, manifest
        if candidates:
            raise UserError(f"none of the {len(candidates)} checkpoints in {self.root} is intact; see the lines above")
        return None

    def _set_aside(self, folder: Path) -> None:
        """Rename a damaged checkpoint so that it neither counts as one that is kept nor is deleted unseen."""
        aside, number = folder.with_name(f"damaged-{folder.name}"), 2
        while aside.exists():
            aside, number = folder.with_name(f"damaged-{folder.name}.{number}"), number + 1
        try:
            folder.rename(aside)
        except OSError as error:
            self._damaged.add(folder.name)
            warn(f"warning: {folder} stays among the good checkpoints: {error}")

    def _write(
        self,
        step: int,
        tensors: dict[str, Tensor],
        index: RankIndex,
        shared: SharedState,
        rank: int,
        world: int,
    ) -> None:
        """The background thread: this process's files, and the commit on the main process."""
        folder = self._temporary(step)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / layout.shard_file(rank)
            save_file(tensors, path)
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors makes it 0600, unreadable for colleagues
            sync_file(path)
            write_durably(folder / layout.index_file(rank), json.dumps(index.model_dump()))
            self._before()
            names = (layout.shard_file(rank), layout.index_file(rank))
            receipt = {name: FileRecord.of(folder / name).model_dump() for name in names}
            publish(folder / _receipt(rank), json.dumps(receipt))  # from now on the folder is the main process's
            self._published = True
            if rank == 0:
                self._commit(folder, step, self._collect_receipts(folder, world), shared, world)
        except Exception as error:  # noqa: BLE001 - any failure of a background save must reach the training loop
            self._has_failed(step, error)
            if rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._tell_main_process(folder, rank)
            self._published = True

    def _collect_receipts(self, folder: Path, world: int) -> dict[str, FileRecord]:
        """Wait for every process's receipt and gather the sizes and hashes of all files."""
        deadline = time.monotonic() + self.timeout
        files: dict[str, FileRecord] = {}
        for rank in range(world):
            receipt = folder / _receipt(rank)
            while not receipt.exists():
                if (folder / _failed(rank)).exists():
                    raise OSError(f"process {rank} could not write its part")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"process {rank} did not finish writing within {self.timeout:g} s")
                if self._given_up.wait(0.02):
                    raise ConnectionError("another process has ended")
            files.update({name: FileRecord(**record) for name, record in json.loads(receipt.read_text()).items()})
        for rank in range(world):  # not before, because those that are missing tell who is still writing
            (folder / _receipt(rank)).unlink()
        return files

    @staticmethod
    def _tell_main_process(folder: Path, rank: int) -> None:
        """An empty file, for which there is room on a full disk too: the main process need not wait for the time-out."""
        try:
            (folder / _failed(rank)).touch()
        except OSError as error:
            warn(f"warning: process {rank} cannot even report its failed save: {error}")

    def _commit(self, folder: Path, step: int, files: dict[str, FileRecord], shared: SharedState, world: int) -> None:
        run_id = self._run_id or self._find_run_id()
        manifest = manifest_json(shared, run_id=run_id, step=step, world_size=world, files=files)
        write_durably(folder / layout.MANIFEST, manifest)
        final = self.root / layout.step_name(step)
        if os.path.lexists(final):  # a damaged one of the same step, which the run resumed from before
            _delete(final)
            self._damaged.discard(final.name)
        folder.rename(final)
        sync_folder(self.root)
        self._tidy(final.name)

    def _tidy(self, newest: str) -> None:
        """Let the pointer name the newest checkpoint, and delete the ones that are not kept."""
        pointer = self.root / layout.LATEST
        if not pointer.is_file() or pointer.read_bytes() != f"{newest}\n".encode():
            write_durably(pointer, newest + "\n")
        if self._mark is not None and self._run_id is not None and layout.recorded_run_id(self._mark) != self._run_id:
            write_durably(self._mark / layout.RUN_ID, self._run_id + "\n")
        self._retire()

    def _retire(self) -> None:
        """Delete all but the newest, the best and the ones kept for good; one known to be damaged counts as none.

        An interim one goes as soon as there is a newer one: a run that was stopped keeps what it would have kept otherwise.
        Until then it counts as one of those that are kept, but one that was due stays, for training to go back to.
        """
        intact = [folder for folder in layout.complete_checkpoints(self.root) if folder.name not in self._damaged]
        interim = [folder for folder in intact[1:] if self._is_interim(folder)]
        lasting = [folder for folder in intact if folder not in interim]
        keep_last = max(2, self.keep_last) if any(map(self._is_interim, intact[:1])) else self.keep_last
        for folder in lasting[keep_last:]:
            kept_for_good = self.keep_every is not None and layout.step_of(folder) % self.keep_every == 0
            if not kept_for_good and folder.name not in self._protected:
                _remove(folder)
        for folder in interim:
            _remove(folder)

    def _is_interim(self, folder: Path) -> bool:
        """Whether a checkpoint was saved only because training stopped; one that cannot be read was not."""
        if folder.name in self._lasting:
            return False
        try:
            if read_manifest(folder).interim:
                return True
        except (OSError, UserError):
            pass  # whoever needs it is told
        self._lasting.add(folder.name)
        return False


def _receipt(rank: int) -> str:
    """The file that says that a process's part is on disk."""
    return f"receipt_{rank:05d}"


def _failed(rank: int) -> str:
    """The file that says that a process's part cannot be written."""
    return f"failed_{rank:05d}"


def _remove(folder: Path) -> None:
    """Delete a checkpoint that is not kept; where that fails, it only takes room, and the new one is saved all the same."""
    try:
        _delete(folder.rename(folder.with_name(f".tmp-retired-{folder.name}")))  # never half a checkpoint
    except OSError as error:
        warn(f"warning: {folder}, which is no longer needed, could not be deleted: {error.strerror}")


def _delete(path: Path) -> None:
    """Delete a folder or file; of a link, such as to a checkpoint that was moved to another disk, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _reason(error: Exception) -> str:
    """What went wrong, without a remedy: training goes on, and knows which one helps if it has to stop."""
    if isinstance(error, CannotWrite):
        return f"{error.filename}: {error.strerror}"
    return described(error)
