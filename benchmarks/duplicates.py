"""What deduplicate=near and deduplicate=semantic cost, and how many rows they leave out.

    python -m benchmarks.duplicates --data FILE.parquet FILE.parquet ... --output-root outputs

CPU seconds on one thread, without reading the collection; vectors are made before the clock starts, or found.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from smart.config import compose, read_config
from smart.selection import SelectConfig
from smart.selection.duplicates import find_duplicates
from smart.selection.pool import read_pool
from smart.selection.vectors import embed_prompts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--output-root", type=Path, required=True)
    options = parser.parse_args()
    files = ",".join(map(str, options.data))
    words = [
        "collection=files",
        f"collection.path=[{files}]",
        f"output_root={options.output_root}",
        "threads=1",
    ]
    pool = read_pool(read_config(SelectConfig, compose("select", words, SelectConfig)))
    print("| kind | CPU s | rows | left out |\n| --- | ---: | ---: | ---: |")
    for kind in ("near", "semantic"):
        config = read_config(SelectConfig, compose("select", [*words, f"deduplicate={kind}"], SelectConfig))
        embed_prompts(config, pool.prompts)
        shutil.rmtree(config.cache / "duplicates", ignore_errors=True)
        started = time.process_time()
        found = find_duplicates(config, pool.collection, pool.rows, pool.groups, pool.prompts)
        assert found
        print(f"| {kind} | {time.process_time() - started:.1f} | {len(pool.rows):,} | {found.count:,} |")


if __name__ == "__main__":
    main()
