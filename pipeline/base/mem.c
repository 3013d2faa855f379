#include "base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The size sits in a header of one alignment unit in front of the block, so that free can count. */
typedef struct header {
    size_t bytes;
} header;

_Static_assert(sizeof(header) <= QS_MEM_ALIGN, "the header must fit in one alignment unit");

enum { HUGE_PAGE_BYTES = 2 << 20 };

static atomic_size_t bytes_now, bytes_peak, bytes_limit;

qs_err qs_mem_alloc(void *out_pointer, size_t bytes, const char *what)
{
    void **out = out_pointer;
    *out = NULL;
    char text[QS_MEM_TEXT_BYTES];
    size_t limit = atomic_load(&bytes_limit);
    bool over = limit != 0 && (bytes > limit || atomic_load(&bytes_now) > limit - bytes);
    if (over || bytes > PTRDIFF_MAX - 2 * (size_t)QS_MEM_ALIGN) /* no object is larger */
        return qs_fail(QS_E_RESOURCE, "allocate %s: %s are over the limit", what, qs_mem_format(text, bytes));
    size_t padded = (bytes + QS_MEM_ALIGN - 1) / QS_MEM_ALIGN * QS_MEM_ALIGN + QS_MEM_ALIGN;
    bool large = padded >= 2 * (size_t)HUGE_PAGE_BYTES;
    void *block_start = NULL;
    char *block = posix_memalign(&block_start, large ? HUGE_PAGE_BYTES : QS_MEM_ALIGN, padded) == 0
                      ? block_start
                      : NULL;
    /* Advice only: fewer page faults now, fewer walks through the page tables later. */
    if (block != NULL && large) (void)madvise(block, padded, MADV_HUGEPAGE);
    if (block == NULL)
        return qs_fail(QS_E_RESOURCE, "allocate %s: %s are not available; use fewer specs or samples at once",
                       what, qs_mem_format(text, bytes));
    memset(block, 0, padded);
    ((header *)block)->bytes = bytes;
    size_t now = atomic_fetch_add(&bytes_now, bytes) + bytes;
    size_t peak = atomic_load(&bytes_peak);
    while (now > peak && !atomic_compare_exchange_weak(&bytes_peak, &peak, now)) {
    }
    *out = block + QS_MEM_ALIGN;
    return QS_OK;
}

qs_err qs_mem_array(void *out_pointer, int64_t n, size_t elem_bytes, const char *what)
{
    if (n < 0 || (elem_bytes != 0 && (uint64_t)n > SIZE_MAX / elem_bytes)) {
        *(void **)out_pointer = NULL;
        return qs_fail(QS_E_RESOURCE, "allocate %s: %lld elements overflow the address space", what, (long long)n);
    }
    return qs_mem_alloc(out_pointer, (size_t)n * elem_bytes, what);
}

qs_err qs_mem_grow(void *pointer, int64_t n, int64_t *capacity, size_t elem_bytes, const char *what)
{
    enum { FIRST = 64 };
    void **table = pointer, *grown;
    if (n < *capacity) return QS_OK;
    int64_t larger = *capacity > 0 ? 2 * *capacity : FIRST;
    qs_err err = qs_mem_array((void *)&grown, larger, elem_bytes, what);
    if (err != QS_OK) return err;
    if (n > 0) memcpy(grown, *table, (size_t)n * elem_bytes);
    qs_mem_free(*table);
    *table = grown;
    *capacity = larger;
    return QS_OK;
}

void qs_mem_free(void *pointer)
{
    if (pointer == NULL) return;
    char *block = (char *)pointer - QS_MEM_ALIGN;
    atomic_fetch_sub(&bytes_now, ((header *)block)->bytes);
    free(block);
}

size_t qs_mem_bytes(void) { return atomic_load(&bytes_now); }

size_t qs_mem_bytes_peak(void) { return atomic_load(&bytes_peak); }

void qs_mem_reset_peak(void) { atomic_store(&bytes_peak, atomic_load(&bytes_now)); }

void qs_mem_set_limit(size_t bytes) { atomic_store(&bytes_limit, bytes); }

/* Reads "Key:   123 kB" out of a /proc file; 0 when the file or the key is missing. */
static size_t proc_kib(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) return 0;
    char line[256];
    unsigned long long kib = 0;
    size_t key_len = strlen(key);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, key_len) == 0 && line[key_len] == ':') {
            (void)sscanf(line + key_len + 1, "%llu", &kib);
            break;
        }
    }
    (void)fclose(file);
    return (size_t)kib * 1024;
}

size_t qs_mem_rss_bytes(void) { return proc_kib("/proc/self/status", "VmRSS"); }

size_t qs_mem_rss_bytes_peak(void) { return proc_kib("/proc/self/status", "VmHWM"); }

size_t qs_mem_available_bytes(void)
{
    size_t available = proc_kib("/proc/meminfo", "MemAvailable");
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    if (file != NULL) {
        unsigned long long limit = 0;
        if (fscanf(file, "%llu", &limit) == 1 && limit > 0 && limit < available) available = (size_t)limit;
        (void)fclose(file);
    }
    return available;
}

char *qs_mem_format(char text[QS_MEM_TEXT_BYTES], size_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024.0 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024.0;
        unit++;
    }
    (void)snprintf(text, QS_MEM_TEXT_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}
