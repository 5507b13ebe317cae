"""Pages about finished runs: curves, final figures, transfer results, runs side by side; attention pictures."""

from sar_dist.reports.attention_page import PictureSection, attention_page
from sar_dist.reports.curves import COLORS, COLUMNS, DPI, figure_png, report_figure
from sar_dist.reports.page import html_image, html_page, html_table, report_page
from sar_dist.reports.runs import ReportedRun, load_runs

__all__ = [
    "COLORS",
    "COLUMNS",
    "DPI",
    "PictureSection",
    "ReportedRun",
    "attention_page",
    "figure_png",
    "html_image",
    "html_page",
    "html_table",
    "load_runs",
    "report_figure",
    "report_page",
]
