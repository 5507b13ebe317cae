"""Experiments: grids of runs that differ in what is to be found out, evaluated alike, ended in a table with error bars."""

from sar_dist.experiment.page import check_report, markdown_tables, print_tables, write_figures, write_report
from sar_dist.experiment.results import Results, collect, keep_records
from sar_dist.experiment.runner import RunOptions, check_evaluation_data, check_programs, evaluate, train
from sar_dist.experiment.specification import Analysis, Arm, Evaluation, Experiment, Measure, load_experiment, term_arm

__all__ = [
    "Analysis",
    "Arm",
    "Evaluation",
    "Experiment",
    "Measure",
    "Results",
    "RunOptions",
    "check_evaluation_data",
    "check_programs",
    "check_report",
    "collect",
    "evaluate",
    "keep_records",
    "load_experiment",
    "markdown_tables",
    "print_tables",
    "term_arm",
    "train",
    "write_figures",
    "write_report",
]
