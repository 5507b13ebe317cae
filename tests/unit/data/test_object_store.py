"""Shards in a real object store on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_factory import corner, make_scenes, train_loader

from sar_dist.data import check_shards, load_manifest
from sar_dist.data.shards import remote
from sar_dist.errors import UserError

s3fs = pytest.importorskip("s3fs", reason="S3 shards need s3fs (pip install 'sar_dist[remote]')")
moto_server = pytest.importorskip("moto.server", reason="the S3 server of this test is moto's")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket in an S3 server on this machine."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.01)
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("shards")
    yield "s3://shards"
    server.stop()


def test_training_from_an_object_store(bucket: str, tmp_path: Path) -> None:
    folder = make_scenes(tmp_path / "source" / "train", shards=5)
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    for path in folder.iterdir():
        if path.is_file():
            store.put_file(str(path), f"shards/set/train/{path.name}")
    manifest = load_manifest(f"{bucket}/set", "train")
    check_shards(manifest)
    options = {"global_batch": 4, "micro_batch": 2, "transform": corner}
    expected = [batch["sample"].tolist() for batch in train_loader(folder, **options).iterate(0, 12)]
    limit = 1.5 * max(shard.bytes or 0 for shard in manifest.shards) / 1e9
    for workers, gigabytes in ((0, limit), (2, 1), (2, limit)):
        stage = str(tmp_path / f"stage-{workers}-{gigabytes}")
        loader = train_loader(manifest, **options, workers=workers, stage=stage, stage_gigabytes=gigabytes)
        assert [batch["sample"].tolist() for batch in loader.iterate(0, 12)] == expected
    store.rm("shards/set/train/train-000003.tar")
    with pytest.raises(UserError, match=r"there is no s3://shards/set/train/train-000003\.tar"):
        check_shards(manifest)
