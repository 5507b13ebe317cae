"""TensorBoard on a finished run, looked at in a browser."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from sar_dist.observe import RunLogger, attention_figure, confusion_figure
from sar_dist.observe.tensorboard_charts import CHARTS

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: install Debian's package chromium"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a bit of everything that the trainer writes."""
    directory = tmp_path_factory.mktemp("run")
    logger = RunLogger(directory, enabled=True, total_steps=100, description="demo")
    logger.start({}, -1)
    for step in range(10, 101, 10):
        speed = {"images_per_second": 900.0, "data_wait_share": 0.1, "learning_rate": step / 1e5}
        logger.metrics(step, {"loss": 3 - step / 50, "loss_entropy": 1.2 - step / 200, **speed})
        logger.metrics(step, {"total": 0.5, "forward": 0.15, "backward": 0.3, "other": 0.05}, prefix="step_seconds")
        logger.metrics(step, {"top1": step / 2, "entropy": 1.0, "entropy_block11_head0": 0.9}, prefix="val")
        logger.histograms(step, {"entropy_head0": torch.rand(50)}, "attention")
    logger.figure("confusion", confusion_figure(torch.eye(3), ["a", "b", "c"]), 100)
    maps = torch.rand(2, 3, 8, 8)
    labels = (maps > maps.mean((-2, -1), keepdim=True)).int()
    logger.figure("attention", attention_figure(torch.rand(2, 3, 64, 64), maps, torch.rand(2, 3), labels), 100)
    logger.hyperparameters({"optim": {"lr": 1e-3}}, {"top1": 50.0})
    logger.close()
    assert logger.failures == 0
    return directory


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """Address of a TensorBoard that serves the run."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run / "tensorboard"), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while not (address := re.search(r"http://localhost:\d+/", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "TensorBoard did not start"
            time.sleep(0.5)
        while "val/top1" not in json.dumps(get(address[0], "data/plugin/scalars/tags")):
            assert time.monotonic() < deadline, "TensorBoard did not read the run"
            time.sleep(0.5)
        yield address[0]
    finally:
        process.terminate()
        process.wait()


def get(server, path):
    with urllib.request.urlopen(server + path, timeout=60) as response:
        return json.load(response)


def browse(page, *options):
    """What headless Chromium prints for a page after twenty seconds of the page's own time."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1500,1400"]
    result = subprocess.run(
        [*command, "--virtual-time-budget=20000", *options, page],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return result.stdout


def test_the_time_series_page_shows_curves_pictures_and_histograms(server):
    page = browse(f"{server}#timeseries", "--dump-dom")
    for card in ("attention/entropy_head0", "confusion", "train", "val"):
        assert card in page


def test_the_first_page_is_laid_out(server, tmp_path):
    layout = get(server, "data/plugin/custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == list(CHARTS)
    picture = tmp_path / "page.png"
    browse(f"{server}#custom_scalars", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("L"))
    below_the_header = pixels[100:, 400:]
    drawn = (below_the_header < 200).mean()
    assert 0.01 < drawn < 0.5, f"{100 * drawn:.1f} % of the page is drawn"


def test_the_pictures_can_be_fetched(server):
    tags = get(server, "data/plugin/images/tags")
    assert {name for run in tags.values() for name in run} == {"attention", "confusion"}
