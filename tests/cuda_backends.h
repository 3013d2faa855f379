/* What the tests of the CUDA backend's products share: it and the reference, and the skip where it cannot be made. */
#ifndef TESTS_CUDA_BACKENDS_H
#define TESTS_CUDA_BACKENDS_H

#include "op_compare.h"

/* Only where kernels run on the CPU (runtime.h). */
__attribute__((weak)) void qs_rt_simt_set_reverse(bool reverse);
__attribute__((weak)) void qs_rt_simt_set_wgmma(bool has_wgmma);

typedef struct fixture {
    qs_backend *reference, *cuda;
    char why_not[512];
} fixture;

static inline int create_backends(void **state)
{
    static fixture f;
    qs_err err = qs_backend_create(&f.cuda, "cuda", 0, 2);
    if (err != QS_OK) (void)snprintf(f.why_not, sizeof f.why_not, "%s", qs_error_text());
    else printf("cuda       %s: %s\n", qs_backend_device(f.cuda), qs_backend_describe(f.cuda));
    OK(qs_backend_create(&f.reference, "reference", 0, 2));
    *state = &f;
    return 0;
}

static inline int destroy_backends(void **state)
{
    fixture *f = *state;
    qs_backend_destroy(f->cuda);
    qs_backend_destroy(f->reference);
    return 0;
}

static inline fixture *take(void **state)
{
    fixture *f = *state;
    if (f->cuda == NULL) {
        printf("SKIP: %s\n", f->why_not);
        skip();
    }
    return f;
}

#endif
