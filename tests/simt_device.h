/* A stream, device memory and the order of threads, for the tests of the CUDA twin. Include after cmocka.h. */
#ifndef QS_TESTS_SIMT_DEVICE_H
#define QS_TESTS_SIMT_DEVICE_H

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/runtime.h"
#include "tests/simt_cases.h"

static void *stream;

static inline int set_up(void **state)
{
    (void)state;
    return qs_rt_stream_create(&stream);
}

static inline int tear_down(void **state)
{
    (void)state;
    size_t free_bytes, total_bytes;
    int code = qs_rt_stream_destroy(stream);
    if (code == 0) code = qs_rt_memory(&free_bytes, &total_bytes);
    return code != 0 || free_bytes != total_bytes; /* every test gives its memory back */
}

static inline void *on_device(const void *src, size_t bytes)
{
    void *pointer;
    assert_int_equal(qs_rt_malloc(&pointer, bytes), 0);
    if (src != NULL) assert_int_equal(qs_rt_copy(pointer, src, bytes, QS_RT_TO_DEVICE, stream), 0);
    return pointer;
}

static inline void to_host(void *dst, const void *src, size_t bytes)
{
    assert_int_equal(qs_rt_copy(dst, src, bytes, QS_RT_TO_HOST, stream), 0);
    assert_int_equal(qs_rt_stream_sync(stream), 0);
}

/* Both orders of threads; afterwards the one that the environment asks for, as in the other tests. */
static inline void use_order(int order)
{
    const char *asked = getenv("QS_SIMT_ORDER");
    qs_rt_simt_set_reverse(order == 2 ? asked != NULL && strcmp(asked, "reverse") == 0 : order == 1);
}

#endif
