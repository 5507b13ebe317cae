"""Package metadata. Runtime requirements are those of requirements.txt, so that there is one list."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REMOTE = ["aiohttp>=3.9", "s3fs>=2024.2"]
MOVED = {f"sar_dist.{name.replace('/', '.')}": name for name in ("tools", "configs", "configs/experiments")}
PARQUET = ["pyarrow>=15"]


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [words for line in lines if (words := line.partition("#")[0].strip())]


def version() -> str:
    """That of ``sar_dist/__init__.py``, which stands there once."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "sar_dist" / "__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("sar_dist/__init__.py names no __version__")
    return found[1]


setup(
    name="sar_dist",
    version=version(),
    description="Vision Transformer pretraining with the spatial-entropy regularizer on DeepSpeed and WebDataset",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # Installed, the tools are `python -m sar_dist.tools.train` and so on, and the configurations lie beside them.
    packages=[*find_packages(include=["sar_dist", "sar_dist.*"]), *MOVED],
    package_dir=MOVED,
    package_data={"sar_dist": ["py.typed"], "sar_dist.reports": ["templates/*"]},
    python_requires=">=3.11",
    install_requires=requirements(),
    extras_require={
        # Shards behind s3:// or http(s):// (any other fsspec store needs its own package), and Parquet data sets.
        "remote": REMOTE,
        # Decodes JPEG to the same pixels in less time.
        "jpeg": ["simplejpeg>=1.9,<2"],
        "parquet": PARQUET,
        "dev": [
            *REMOTE,
            *PARQUET,
            "hypothesis>=6.100",
            "flask>=3",
            "flask-cors>=4",
            "moto[s3]>=5",
            "mypy>=1.11,<3",
            "psutil>=5.9",
            "pytest>=8,<10",
            "pytest-timeout>=2.3",
            "ruff>=0.8",
            "torchmetrics>=1.4,<2",
            "types-PyYAML",
        ],
    },
)
