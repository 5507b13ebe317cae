"""Typed run configuration: settings, durations, loading with overrides, checks."""

from sar_dist.config.command_line import parse_run_arguments
from sar_dist.config.duration import Duration, duration_in_steps
from sar_dist.config.load import apply_overrides, config_keys, help_text, load_config
from sar_dist.config.moved import follow_moved_run
from sar_dist.config.settings import (
    AugmentSettings,
    CheckpointSettings,
    DataSettings,
    EngineSettings,
    GuardSettings,
    LogSettings,
    ModelSettings,
    OptimSettings,
    ProfileSettings,
    RegularizerSettings,
    RunConfig,
    RunSettings,
    Settings,
    TermSettings,
    TrainingSetSettings,
    ValidationSettings,
)

__all__ = [
    "AugmentSettings",
    "CheckpointSettings",
    "DataSettings",
    "Duration",
    "EngineSettings",
    "GuardSettings",
    "LogSettings",
    "ModelSettings",
    "OptimSettings",
    "ProfileSettings",
    "RegularizerSettings",
    "RunConfig",
    "RunSettings",
    "Settings",
    "TermSettings",
    "TrainingSetSettings",
    "ValidationSettings",
    "apply_overrides",
    "config_keys",
    "duration_in_steps",
    "follow_moved_run",
    "help_text",
    "load_config",
    "parse_run_arguments",
]
