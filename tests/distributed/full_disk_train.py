"""tools/train.py where no file may have more than so many bytes: full_disk_train.py BYTES [arguments of tools/train.py].

A write beyond that fails as on a full disk, in whatever library it is, and nobody else's disk is filled.
"""

import resource
import signal
import sys
from pathlib import Path

limit = int(sys.argv[1])
sys.argv = ["tools/train.py", *sys.argv[2:]]
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import train  # noqa: E402

from sar_dist.program import run_tool  # noqa: E402

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG then
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
run_tool(train.main)
