"""Pages about finished runs: curves, final figures, transfer results, runs side by side; attention pictures."""

from sar_dist.reports.attention_page import PictureSection, attention_page
from sar_dist.reports.attention_steps import attention_steps
from sar_dist.reports.charts import Chart, ChartBoard, ChartLine, ChartSeries
from sar_dist.reports.curves import COLORS, COLUMNS, DPI, figure_png, further_axes, png_or_note, report_figure
from sar_dist.reports.hub import check_hub, push_to_hub
from sar_dist.reports.model_card import write_card
from sar_dist.reports.page import report_page
from sar_dist.reports.rendering import Headline, Picture, TextTable, check_place, render_page
from sar_dist.reports.runs import ReportedRun, load_runs
from sar_dist.reports.summary import Summary, summarize
from sar_dist.reports.wording import DIFFERENCES_NOTE, MEANS_NOTE, NOTHING, format_difference, format_summary

__all__ = [
    "COLORS",
    "COLUMNS",
    "DIFFERENCES_NOTE",
    "DPI",
    "MEANS_NOTE",
    "NOTHING",
    "Chart",
    "ChartBoard",
    "ChartLine",
    "ChartSeries",
    "Headline",
    "Picture",
    "PictureSection",
    "ReportedRun",
    "Summary",
    "TextTable",
    "attention_page",
    "attention_steps",
    "check_hub",
    "check_place",
    "figure_png",
    "format_difference",
    "format_summary",
    "further_axes",
    "load_runs",
    "png_or_note",
    "push_to_hub",
    "render_page",
    "report_figure",
    "report_page",
    "summarize",
    "write_card",
]
