/* Grids and specs: the input is a grid's CSV, and its first line a spec by itself. An id becomes a file's name, so
 * it must be a plain one; a point's canonical text must mean the same point, and so must its cells. */
#include <string.h>

#include "base/mem.h"
#include "quant/grid.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const qs_spec *spec)
{
    qs_spec again;
    if (spec->id[0] == '\0' || spec->id[0] == '.' || strlen(spec->id) >= sizeof spec->id - 1) __builtin_trap();
    for (const char *c = spec->id; *c != '\0'; c++)
        if (*c <= ' ' || *c > '~' || *c == '/') __builtin_trap();
    if (qs_spec_parse(&again, spec->text) != QS_OK) __builtin_trap();
    if (strcmp(again.id, spec->id) != 0 || strcmp(again.text, spec->text) != 0) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_grid grid;
    qs_spec spec;
    char *line = NULL;
    const uint8_t *end = memchr(data, '\n', bytes);
    size_t length = end != NULL ? (size_t)(end - data) : bytes;
    if (qs_mem_alloc(&line, length + 1, "a line") != QS_OK) return 0;
    if (length > 0) memcpy(line, data, length);
    if (qs_spec_parse(&spec, line) == QS_OK) check(&spec);
    qs_mem_free(line);
    if (qs_grid_parse(&grid, (const char *)data, bytes, "fuzz") != QS_OK) return 0;
    if (grid.n < 1 || grid.n > QS_GRID_MAX_POINTS) __builtin_trap();
    for (int64_t i = 0; i < grid.n; i++) check(&grid.specs[i]);
    qs_grid_free(&grid);
    return 0;
}
