"""One table of quantities: what a run logs is in it, and docs, charts and pages are derived from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import ROOT

from sar_dist.observe import QUANTITIES, Throughput, known_quantities, panel_title, quantities_in, quantity_rows
from sar_dist.observe.tensorboard_charts import charts_of
from sar_dist.quantities import term_quantities
from sar_dist.reports import report_figure
from sar_dist.reports.curves import panels_of
from sar_dist.reports.page import COMPARED
from sar_dist.reports.runs import ReportedRun, final_figures

DOCS = ROOT / "docs" / "observability.md"


@pytest.mark.parametrize("prefix", ["train", "val"])
def test_the_docs_have_the_table(prefix: str) -> None:
    table = "\n".join(quantity_rows(prefix))
    assert table in DOCS.read_text(), f"run `python docs/make_quantity_tables.py`; {DOCS.name} differs"


def test_names_are_unique_and_figures_have_one_source() -> None:
    names = [(quantity.prefix, quantity.key) for quantity in QUANTITIES]
    assert len(names) == len(set(names))
    rows = [row for quantity in QUANTITIES for row in quantity.summed_up]
    assert len(rows) == len(set(rows))
    assert set(COMPARED) - {"validation"} <= set(rows)


def test_everything_drawn_has_a_label_and_one_scale() -> None:
    for panel in panels_of(QUANTITIES):
        assert len({quantity.scale for quantity in panel}) == 1
        assert panel[0].label, panel[0].key
    titles = [panel_title(panel) for panel in panels_of(QUANTITIES)]
    assert titles[:3] == ["cross-entropy, nats", "validation top-1, %", "spatial entropy, nats"]


def test_tags_of_charts_match_what_is_logged() -> None:
    tags = [tag for charts in charts_of(QUANTITIES).values() for found in charts.values() for tag in found]
    logged = ["val/entropy_block11_head3", "val/top1", "train/entropy_weight", "train/loss_total_variation"]
    for name in logged:
        assert [tag for tag in tags if re.search(tag, name)], name
    assert not [tag for tag in tags if re.search(tag, "val/entropy_block11")]


def test_the_throughput_logs_what_the_table_knows() -> None:
    throughput = Throughput(8, 1e9, torch.device("cpu"))
    throughput.step_done()
    known = {quantity.key for quantity in QUANTITIES if quantity.prefix == "train"}
    assert set(throughput.summary()) <= known


def test_a_term_that_only_the_log_knows_is_shown(tmp_path: Path) -> None:
    records = [
        {
            "prefix": "train",
            "step": step,
            "epoch": step / 2,
            "loss": 2.0,
            "loss_cls": 1.0,
            "loss_sharp_edges": 3.0 / step,
        }
        for step in (1, 2)
    ]
    records.append({"prefix": "val", "step": 2, "sharp_edges": 0.25, "sharp_edges_block1_head0": 0.25})
    run = ReportedRun("x", tmp_path, {"terms": [{"name": "mine:Sharp", "weight": 0.1}]}, {}, records, {})
    assert not run.is_baseline
    figures = final_figures(run)
    assert figures["validation sharp edges"] == 0.25
    assert figures["weight of the term mine:Sharp"] == 0.1
    titles = [axis.get_title(loc="left") for axis in report_figure([run]).axes]
    assert "sharp edges (training; with markers: validation)" in titles
    declared = term_quantities("sharp_edges", label="sharpness")
    assert declared[0] in known_quantities(declared)
    assert declared[0] not in quantities_in(records)  # there, it has the name of the log
    assert len(known_quantities(QUANTITIES)) == len(QUANTITIES)
