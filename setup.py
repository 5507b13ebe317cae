"""Package metadata. Runtime requirements are those of requirements.txt, so that there is one list."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REMOTE = ["aiohttp>=3.9", "s3fs>=2024.2"]
PARQUET = ["pyarrow>=15"]


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


setup(
    name="sar_dist",
    version="0.1.0",
    description="Vision Transformer pretraining with the spatial-entropy regularizer on DeepSpeed and WebDataset",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["sar_dist", "sar_dist.*"]),
    package_data={"sar_dist": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=requirements(),
    extras_require={
        # Shards behind s3:// or http(s):// (any other fsspec store needs its own package), and Parquet data sets.
        "remote": REMOTE,
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
