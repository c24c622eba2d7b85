"""Draws, runs and reports mutations.

python -m benchmarks.mutants                  runs all tests once, then each mutation, and prints what survived
python -m benchmarks.mutants --report         prints the committed result
python -m benchmarks.mutants --new            keeps known results; tries only rows of the table that have none
python -m benchmarks.mutants --draw 16        draws a new table: this many mutations of each package and of conf/
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.mutants import run, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=int, metavar="N", help="draw N mutations of each package and of conf/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--new", action="store_true", help="try only rows without a result")
    parser.add_argument("--report", action="store_true", help="print the committed result")
    parser.add_argument("--traced", action="store_true", help="use the record of an earlier run of all tests")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "unseen-mutants", help="folder for copies"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes at a time")
    options = parser.parse_args()
    if options.draw:
        table.write(table.draw(options.draw, options.seed))
        return
    if not options.report:
        if not options.traced:
            run.trace(options.work, options.processes)
        run.run(options.work, options.processes, again=not options.new)
    print(run.report())


if __name__ == "__main__":
    main()
