"""Which packages are installed; everything else about this one is in pyproject.toml and requirements.txt."""

from setuptools import find_packages, setup

# Installed, the tools are `sar-train` and so on, or `python -m sar_dist.tools.train`, and the configurations lie beside them.
MOVED = {f"sar_dist.{name.replace('/', '.')}": name for name in ("tools", "configs", "configs/experiments")}

setup(packages=[*find_packages(include=["sar_dist", "sar_dist.*"]), *MOVED], package_dir=MOVED)
