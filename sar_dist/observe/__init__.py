"""What training looks like from outside: metrics, progress, speed, arithmetic and pictures. See docs/observability.md."""

from sar_dist.observe.attention_figures import (
    COMPONENT_COLORS,
    FURTHER_COLOR,
    attention_detail_figure,
    attention_figure,
)
from sar_dist.observe.attention_maps import LEVELS, packed_maps
from sar_dist.observe.class_figures import confusion_figure, samples_figure
from sar_dist.observe.destination import Destination, LoggedRun
from sar_dist.observe.destinations import check_destinations
from sar_dist.observe.device_peak import PEAK_TFLOPS, DevicePeak, find_peak, peak_flops
from sar_dist.observe.drawable import drawn_or_said, make_drawable
from sar_dist.observe.flop_table import flop_table
from sar_dist.observe.flops import (
    BACKWARD_PER_FORWARD,
    FlopReport,
    count_flops,
    count_regularized_flops,
    vit_forward_macs,
)
from sar_dist.observe.logger import FIGURES_FOLDER, RunLogger, sample_file
from sar_dist.observe.panels import FIGURE_DPI, PanelGrid, shorten_text
from sar_dist.observe.quantities import (
    QUANTITIES,
    known_quantities,
    panel_title,
    quantities_in,
    quantity_rows,
    set_quantities,
    set_values,
)
from sar_dist.observe.records import damaged_lines, encode_line, last_step, read_metrics, read_records, truncate_records
from sar_dist.observe.step_timer import MEASURED, OVERLAPPED, PARTS, TOTAL, StepTimer
from sar_dist.observe.throughput import Throughput, peak_memory_gib
from sar_dist.observe.trace import StepTrace
from sar_dist.observe.waiting_lines import WaitingLines

__all__ = [
    "BACKWARD_PER_FORWARD",
    "COMPONENT_COLORS",
    "FIGURES_FOLDER",
    "FIGURE_DPI",
    "FURTHER_COLOR",
    "LEVELS",
    "MEASURED",
    "OVERLAPPED",
    "PARTS",
    "PEAK_TFLOPS",
    "QUANTITIES",
    "TOTAL",
    "Destination",
    "DevicePeak",
    "FlopReport",
    "LoggedRun",
    "PanelGrid",
    "RunLogger",
    "StepTimer",
    "StepTrace",
    "Throughput",
    "WaitingLines",
    "attention_detail_figure",
    "attention_figure",
    "check_destinations",
    "confusion_figure",
    "count_flops",
    "count_regularized_flops",
    "damaged_lines",
    "drawn_or_said",
    "encode_line",
    "find_peak",
    "flop_table",
    "known_quantities",
    "last_step",
    "make_drawable",
    "packed_maps",
    "panel_title",
    "peak_flops",
    "peak_memory_gib",
    "quantities_in",
    "quantity_rows",
    "read_metrics",
    "read_records",
    "sample_file",
    "samples_figure",
    "set_quantities",
    "set_values",
    "shorten_text",
    "truncate_records",
    "vit_forward_macs",
]
