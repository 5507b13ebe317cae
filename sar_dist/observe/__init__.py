"""What training looks like from outside: metrics, progress, speed, arithmetic and pictures. See docs/observability.md."""

from sar_dist.observe.attention_page import PictureSection, attention_page
from sar_dist.observe.class_figures import confusion_figure, samples_figure
from sar_dist.observe.device_peak import DevicePeak, find_peak
from sar_dist.observe.figures import attention_detail_figure, attention_figure
from sar_dist.observe.flop_table import flop_table
from sar_dist.observe.flops import FlopReport, count_flops, count_regularized_flops
from sar_dist.observe.logger import RunLogger
from sar_dist.observe.throughput import Throughput

__all__ = [
    "DevicePeak",
    "FlopReport",
    "PictureSection",
    "RunLogger",
    "Throughput",
    "attention_detail_figure",
    "attention_figure",
    "attention_page",
    "confusion_figure",
    "count_flops",
    "count_regularized_flops",
    "find_peak",
    "flop_table",
    "samples_figure",
]
