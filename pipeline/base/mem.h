/* Memory: aligned, counted, limited. Stages plan their bytes, print them and allocate once. */
#ifndef QS_BASE_MEM_H
#define QS_BASE_MEM_H

#include <stdint.h>

#include "base/error.h"

enum { QS_MEM_ALIGN = 64 };

/* Zeroed, 64-byte aligned. `what` names the buffer in the error text. 0 bytes gives a valid pointer.
 * Errors: QS_E_RESOURCE when the system or the limit refuses, or when n * elem_bytes overflows. */
QS_MUST_CHECK qs_err qs_mem_alloc(void *out_pointer, size_t bytes, const char *what);
QS_MUST_CHECK qs_err qs_mem_array(void *out_pointer, int64_t n, size_t elem_bytes, const char *what);

/* Allocates n elements of *(ptr) into ptr, a variable of any object pointer type. */
#define QS_NEW(ptr, n, what) qs_mem_array((void *)&(ptr), (int64_t)(n), sizeof *(ptr), (what))

/* Room for one more element behind the n of the table at *(void **)pointer, whose room of *capacity elements is
 * doubled when it is full; elements keep their values. On failure the table stays as it is. */
QS_MUST_CHECK qs_err qs_mem_grow(void *pointer, int64_t n, int64_t *capacity, size_t elem_bytes, const char *what);

/* NULL is allowed. */
void qs_mem_free(void *pointer);

/* Bytes that qs_mem_alloc holds now, and the most it ever held since the last reset. */
size_t qs_mem_bytes(void);
size_t qs_mem_bytes_peak(void);
void qs_mem_reset_peak(void);

/* Refuse allocations that would raise qs_mem_bytes() above the limit; 0 lifts it. */
void qs_mem_set_limit(size_t bytes);

/* Resident set of the process, now and at its peak (Linux /proc/self/status); 0 when unknown. */
size_t qs_mem_rss_bytes(void);
size_t qs_mem_rss_bytes_peak(void);

/* Free memory of the machine (MemAvailable, capped by the cgroup limit when there is one). */
size_t qs_mem_available_bytes(void);

/* "1.5 GiB" and the like, into the caller's buffer; returns it. */
enum { QS_MEM_TEXT_BYTES = 32 };
char *qs_mem_format(char text[QS_MEM_TEXT_BYTES], size_t bytes);

#endif
