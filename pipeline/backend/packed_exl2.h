/* EXL2 inside packed.c: what each function of packed.h does for this format. */
#ifndef QS_BACKEND_PACKED_EXL2_H
#define QS_BACKEND_PACKED_EXL2_H

#include "backend/packed.h"

/* Contents, once there are codes. */
QS_MUST_CHECK qs_err qs_exl2_check(const qs_packed *packed, const char *name);
void qs_exl2_set_row(qs_packed *packed, int64_t row, const uint8_t *codes);
void qs_exl2_get_row(const qs_packed *packed, int64_t row, uint8_t *codes);
/* dst [n_in] in input-channel order. */
void qs_exl2_dequant_row(const qs_packed *packed, int64_t row, float *dst);
int64_t qs_exl2_stored_bits(const qs_packed *packed);

/* packed.c: a permutation of n_in channels, or QS_E_INPUT with the entry. */
QS_MUST_CHECK qs_err qs_packed_check_perm(const qs_packed *packed, const char *name);

#endif
