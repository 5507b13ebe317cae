"""Environment variables of libraries: set where the user has set nothing, and before anything reads them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

from sar_dist import distributed, meeting
from sar_dist.errors import UserError
from sar_dist.library_defaults import compiled_kernels_folder, gloo_interfaces, set_library_defaults

VARIABLES = (
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "RDMAV_FORK_SAFE",
    "IBV_FORK_SAFE",
    "FI_EFA_FORK_SAFE",
    "SAR_CACHE_DIR",
)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_caches_are_the_users_own_on_the_nodes_disk(tmp_path: Path) -> None:
    set_library_defaults()
    folder = tmp_path / f"sar_dist-{os.getuid()}"
    assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "RDMAV_FORK_SAFE" not in os.environ
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_triton_and_inductor_take_them() -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    triton = pytest.importorskip("triton")
    set_library_defaults()
    assert triton.knobs.cache.dir == os.environ["TRITON_CACHE_DIR"]
    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"]


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "TRITON_CACHE_DIR": "/mine",
        "GLOO_SOCKET_IFNAME": "ib0",
        "NCCL_SOCKET_IFNAME": "lo",
        "RDMAV_FORK_SAFE": "0",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    set_library_defaults(cuda=True)
    assert {name: os.environ[name] for name in given} == given
    assert os.environ["IBV_FORK_SAFE"] == os.environ["FI_EFA_FORK_SAFE"] == "1"


def test_another_folder_for_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAR_CACHE_DIR", str(tmp_path / "scratch"))
    set_library_defaults()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "scratch" / "triton")


def test_a_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever may write there could run code as this user."""
    (tmp_path / f"sar_dist-{os.getuid() + 1}").mkdir()
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert compiled_kernels_folder() is None
    set_library_defaults()
    assert "TRITON_CACHE_DIR" not in os.environ


@pytest.mark.parametrize(
    ("nccl", "gloo"), [("lo", "lo"), ("=lo", "lo"), ("l", ""), ("^docker0", ""), ("lo,no_such", ""), ("", "")]
)
def test_gloo_takes_nccls_interfaces_where_they_are_names(nccl: str, gloo: str) -> None:
    assert gloo_interfaces(nccl) == gloo


@pytest.mark.parametrize("names", ["no_such", "lo,no_such"])
def test_an_interface_that_is_not_there_is_named_before_anything_starts(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.meet()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", names)
    with pytest.raises(UserError, match=rf"GLOO_SOCKET_IFNAME={names}: .* has no network interface no_such, but .*lo"):
        distributed.meet()


def test_a_process_group_finds_them_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    seen: dict[str, str | None] = {}
    monkeypatch.setattr(
        meeting, "join", lambda timeout: seen.update({name: os.environ.get(name) for name in VARIABLES})
    )
    distributed.meet()
    assert seen["GLOO_SOCKET_IFNAME"] == "lo"
    assert str(seen["TRITON_CACHE_DIR"]).endswith("/triton")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(distributed, "join", _fail)
    with pytest.raises(InterruptedError):
        distributed.initialize(torch.device("cuda", 0))
    assert os.environ["RDMAV_FORK_SAFE"] == "1"


def _fail(timeout: object) -> None:
    raise InterruptedError
