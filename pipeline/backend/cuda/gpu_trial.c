/* Kernels on trial: tested on the pretended device, never run on a GPU. They are used only where QS_CUDA_TRIAL, a list of
 * names with commas, has theirs, and the backend's description says so. One that has proved itself loses its row. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/gpu.h"

static const char *const trials[] = {
    "linear_wgmma", /* linear_many.cu: many rows of x from stored weights */
};
enum { N_TRIALS = sizeof trials / sizeof *trials };

/* The length of the word at the head of a list, and whether it is `name`. */
static bool is_word(const char *at, const char *name)
{
    size_t length = strcspn(at, ",");
    return length == strlen(name) && strncmp(at, name, length) == 0;
}

static const char *next_word(const char *at)
{
    at += strcspn(at, ",");
    return *at == ',' ? at + 1 : NULL;
}

bool qs_gpu_on_trial(const char *name)
{
    for (const char *at = getenv("QS_CUDA_TRIAL"); at != NULL; at = next_word(at))
        if (is_word(at, name)) return true;
    return false;
}

qs_err qs_gpu_describe_trials(char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (const char *at = getenv("QS_CUDA_TRIAL"); at != NULL; at = next_word(at)) {
        bool is_known = *at == '\0' || *at == ',';
        for (int i = 0; i < N_TRIALS; i++) is_known = is_known || is_word(at, trials[i]);
        if (!is_known)
            return qs_fail(QS_E_USAGE, "create backend cuda: QS_CUDA_TRIAL names \"%.*s\", which is no kernel on trial; those "
                           "are listed in pipeline/backend/cuda/gpu_trial.c", (int)strcspn(at, ","), at);
    }
    for (int i = 0; i < N_TRIALS; i++)
        if (qs_gpu_on_trial(trials[i]) && used < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "%s%s", used == 0 ? ", on trial: " : " ", trials[i]);
    return QS_OK;
}
