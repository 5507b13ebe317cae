"""Experiments: grids of runs that differ in what is to be found out, evaluated alike, ended in a table with error bars."""

from sar_dist.experiment.page import print_tables, write_report
from sar_dist.experiment.results import collect
from sar_dist.experiment.runner import RunOptions, check_evaluation_data, evaluate, train
from sar_dist.experiment.specification import Analysis, Arm, Evaluation, Experiment, Measure, load_experiment

__all__ = [
    "Analysis",
    "Arm",
    "Evaluation",
    "Experiment",
    "Measure",
    "RunOptions",
    "check_evaluation_data",
    "collect",
    "evaluate",
    "load_experiment",
    "print_tables",
    "train",
    "write_report",
]
