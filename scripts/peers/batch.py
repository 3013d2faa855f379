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

# GPTQModel reads these before it is imported (gptqmodel_run.py).
SETTINGS = {"GPTQMODEL_CPU_WORKERS": str(os.cpu_count()), "TORCHDYNAMO_DISABLE": "1", "BUILD_CUDA_EXT": "0",
            "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
            "MALLOC_MMAP_THRESHOLD_": "4294967296"}
if any(os.environ.get(name) is None for name in SETTINGS):
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    os.execv(sys.executable, [sys.executable] + sys.argv)


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
