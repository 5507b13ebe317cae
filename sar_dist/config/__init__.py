"""Typed run configuration: settings, durations, loading with overrides, checks."""

from sar_dist.config.command_line import parse_run_arguments
from sar_dist.config.data_places import locate_all_data, locate_data
from sar_dist.config.duration import Duration, duration_in_steps
from sar_dist.config.image_size import ImageSize, Side, as_image_size, height_and_width, size_text
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
    "ImageSize",
    "LogSettings",
    "ModelSettings",
    "OptimSettings",
    "ProfileSettings",
    "RegularizerSettings",
    "RunConfig",
    "RunSettings",
    "Settings",
    "Side",
    "TermSettings",
    "TrainingSetSettings",
    "ValidationSettings",
    "apply_overrides",
    "as_image_size",
    "config_keys",
    "duration_in_steps",
    "follow_moved_run",
    "height_and_width",
    "help_text",
    "load_config",
    "locate_all_data",
    "locate_data",
    "parse_run_arguments",
    "size_text",
]
