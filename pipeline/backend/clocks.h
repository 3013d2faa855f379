/* Clocks of an NVIDIA GPU and what holds them down, from the driver's management library where it is there: a time
 * that was measured at half the clock looks like a slow kernel. */
#ifndef QS_BACKEND_CLOCKS_H
#define QS_BACKEND_CLOCKS_H

#include <stdbool.h>
#include <stdint.h>

enum { QS_CLOCKS_TEXT_BYTES = 192 };

/* "SM 1980 of 1980 MHz, memory 2619 MHz, 41 C, 120 W, not held down" of CUDA's device number `device`; false and an
 * empty text where nobody can tell. */
bool qs_clocks_read(char text[QS_CLOCKS_TEXT_BYTES], int64_t device);

#endif
