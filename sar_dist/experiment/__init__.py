"""Experiments: grids of runs that differ in what is to be found out, evaluated alike, ended in a table with error bars."""

from sar_dist.experiment.specification import Arm, Evaluation, Experiment, load_experiment

__all__ = ["Arm", "Evaluation", "Experiment", "load_experiment"]
