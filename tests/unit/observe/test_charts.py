"""What a page's charts are made of: data that a browser can read, however long and whatever a run logged."""

from __future__ import annotations

import json
import math

from sar_dist.reports import Chart, ChartBoard, ChartLine, ChartSeries, Picture
from sar_dist.reports.charts import MOST_POINTS, POINTS_OF_A_PAGE, thinned


def board(lines: list[ChartLine]) -> ChartBoard:
    picture = Picture("t", "t", b"")
    return ChartBoard("t", [ChartSeries("a", "#000000")], [Chart("loss", lines)], "epoch", picture)


def test_long_lines_are_means_of_neighbours() -> None:
    assert thinned([1.0, 3.0, 5.0], 2) == [2.0, 5.0]
    assert thinned([1.0, math.nan, math.inf, 2.0], 4) == [1.0, None, None, 2.0]
    assert thinned([math.inf, -math.inf], 1) == [None]
    assert thinned([], 3) == []
    assert thinned([1.23456789], 1) == [1.23457]
    steps = [1, 100_003, 375_299]
    (line,) = board([ChartLine(0, [step / 1251 for step in steps], [0.0] * 3)]).data()["charts"][0]["lines"]
    assert [round(1251 * epoch) for epoch in line["x"]] == steps


def test_a_page_of_many_long_lines_stays_small_and_says_so() -> None:
    long = [ChartLine(0, list(range(5000)), [1 / 3] * 5000) for _ in range(200)]
    data = board(long).data()
    assert sum(len(line["x"]) for line in data["charts"][0]["lines"]) <= POINTS_OF_A_PAGE
    assert board(long).note == "Lines with more than 300 points show means of up to 17 neighbouring ones."
    assert len(board(long[:1]).data()["charts"][0]["lines"][0]["y"]) == MOST_POINTS
    assert board([ChartLine(0, [1.0], [math.nan])]).note == ""


def test_the_data_is_json() -> None:
    line = ChartLine(0, [0.5], [math.nan], low=[1.0], high=[math.inf])
    text = json.dumps(board([line]).data(), allow_nan=False)
    assert '"x": [0.5], "y": [null], "low": [1.0], "high": [null]' in text
