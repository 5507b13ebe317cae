"""What tools/gpu_check.py does: the parts of a first hour on a GPU, each in processes of its own with a time limit."""

from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.gpu_check.report import Report, write_reports
from benchmarks.gpu_check.run import Workplace, run_parts

__all__ = ["PARTS", "Part", "Report", "Workplace", "run_parts", "write_reports"]
