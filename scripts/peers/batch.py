"""Runs scripts of this directory one after the other in one process, since importing torch takes longer than they do.

usage: batch.py LIST

Each line of LIST is LABEL, a tab, and a script with its arguments. Prints "ok      LABEL" or "FAILED  LABEL" as the script's
exit status is, and below it the lines that compare figures, or the last lines where it ended otherwise.
"""
import contextlib
import io
import os
import runpy
import sys
import traceback

import gptqmodel_settings  # noqa: F401 (before a script imports GPTQModel)


def run(directory, arguments):
    """Whether the script succeeded, and what it printed."""
    out, where, code = io.StringIO(), os.getcwd(), 0
    sys.argv = arguments
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_path(os.path.join(directory, arguments[0]), run_name="__main__")
        except SystemExit as end:
            code = end.code
        except Exception:  # noqa: BLE001 (whatever a peer raises fails its own line alone)
            traceback.print_exc()
            code = 1
    os.chdir(where)
    return code in (None, 0), out.getvalue().splitlines()


def main():
    directory = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, directory)
    with open(sys.argv[1]) as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    for label, command in lines:
        fine, printed = run(directory, command.split())
        print(("ok      " if fine else "FAILED  ") + label)
        telling = [line for line in printed if "limit" in line or line.endswith((" ok", " FAILED"))]
        for line in telling or ([] if fine else printed[-3:]):
            print("          " + line)
        sys.stdout.flush()


main()
