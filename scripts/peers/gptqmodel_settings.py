"""Imported first by scripts that run GPTQModel: puts its settings into the environment, once for the process."""
import os
import sys

# A peer deserves its best conditions: as many workers as cores, and no trimming of memory that it allocates again in
# the next step (glibc reads these before the program starts, hence the restart).
SETTINGS = {"GPTQMODEL_CPU_WORKERS": str(os.cpu_count()), "TORCHDYNAMO_DISABLE": "1", "BUILD_CUDA_EXT": "0",
            "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
            "MALLOC_MMAP_THRESHOLD_": "4294967296"}
if any(os.environ.get(name) is None for name in SETTINGS):
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    os.execv(sys.executable, [sys.executable] + sys.argv)
