#include "train/adam.h"

#include <math.h>

qs_adam_step qs_adam_step_make(const qs_adam_options *options, double lr, double clip, int64_t t)
{
    double correction1 = 1 - pow(options->beta1, (double)t),
           correction2 = sqrt(1 - pow(options->beta2, (double)t));
    return (qs_adam_step){.clip = (float)clip,
                          .beta1 = (float)options->beta1,
                          .beta2 = (float)options->beta2,
                          .rest1 = (float)(1 - options->beta1),
                          .rest2 = (float)(1 - options->beta2),
                          .step_size = (float)(lr * correction2 / correction1),
                          .eps = (float)(options->eps * correction2),
                          .keep = (float)(1 - lr * options->decay),
                          .clamp = (float)options->clamp};
}
