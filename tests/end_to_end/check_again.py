"""Fails unless a repeated run, as printed by `xmas-job run --json`, found every stage and published a subset."""

from __future__ import annotations

import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text())
built = [stage["stage"] for stage in result["stages"] if stage["status"] != "hit"]
if built or result["status"] != "done" or not result["selection_id"]:
    sys.exit(f"a repeated run must find everything; it built {built}: {result}")
print(f"{len(result['stages'])} stages, all hits; selection {result['selection_id']}")
