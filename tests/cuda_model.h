/* Shared by the tests of the model on a GPU, or on the CPU that pretends to be one. */
#ifndef TESTS_CUDA_MODEL_H
#define TESTS_CUDA_MODEL_H

#include "model_fixtures.h"
#include "sanitized.h"

#include "backend/cuda/runtime.h"


/* Skips the test where backend "cuda" cannot be made. */
static inline qs_backend *cuda_open(void)
{
    qs_backend *backend = NULL;
    if (qs_backend_create(&backend, "cuda", 0, 2) != QS_OK) {
        print_message("skipped: %s\n", qs_error_text());
        skip();
    }
    return backend;
}

/* The same, and skips where failures cannot be provoked. */
static inline qs_backend *shim_open(void)
{
    qs_backend *backend = cuda_open();
    if (strcmp(qs_rt_architectures(), "cpu") == 0) return backend;
    qs_backend_destroy(backend);
    print_message("skipped: failures can be provoked on the pretended device alone\n");
    skip();
    return NULL;
}

#endif
