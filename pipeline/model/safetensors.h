/* safetensors: u64 LE header length N, N bytes of JSON, data. The parser applies every rule of the format
 * (source: the safetensors specification and its reference reader): data without holes or overlaps that ends
 * where the file ends, sizes that match shapes, no duplicate names, bounded header, rank and nesting. */
#ifndef QS_MODEL_SAFETENSORS_H
#define QS_MODEL_SAFETENSORS_H

#include "base/json.h"

enum { QS_SAFETENSOR_DIMS_MAX = 8 };

typedef enum qs_safetensor_type {
    QS_ST_BOOL,
    QS_ST_U8,
    QS_ST_I8,
    QS_ST_F8_E5M2,
    QS_ST_F8_E4M3,
    QS_ST_F8_E8M0,
    QS_ST_I16,
    QS_ST_U16,
    QS_ST_F16,
    QS_ST_BF16,
    QS_ST_I32,
    QS_ST_U32,
    QS_ST_F32,
    QS_ST_C64,
    QS_ST_F64,
    QS_ST_I64,
    QS_ST_U64,
    QS_ST_F4,
    QS_ST_F6_E2M3,
    QS_ST_F6_E3M2,
    QS_ST_F8_E4M3FNUZ,
    QS_ST_F8_E5M2FNUZ,
    QS_N_ST_TYPES
} qs_safetensor_type;

const char *qs_safetensor_type_name(qs_safetensor_type type); /* "BF16", as in the header */
int qs_safetensor_type_bits(qs_safetensor_type type);         /* of an element */

typedef struct qs_safetensor {
    const char *name; /* lives as long as the qs_safetensors */
    qs_safetensor_type type;
    int n_dims; /* 0 = a scalar */
    int64_t shape[QS_SAFETENSOR_DIMS_MAX];
    const uint8_t *data; /* into the caller's bytes, not aligned; C order, little endian */
    size_t bytes;
} qs_safetensor;

typedef struct qs_safetensors {
    qs_safetensor *tensors; /* sorted by name */
    int64_t n_tensors;
    json_t *header;
} qs_safetensors;

/* `data` stays with the caller and must outlive *out; `name` is what error texts call the file. Errors:
 * QS_E_INPUT names the tensor and the cause; on failure *out is empty. */
QS_MUST_CHECK qs_err qs_safetensors_parse(qs_safetensors *out, const uint8_t *data, size_t bytes,
                                          const char *name);
void qs_safetensors_free(qs_safetensors *file);

/* NULL when there is none. */
const qs_safetensor *qs_safetensors_find(const qs_safetensors *file, const char *name);
/* Of "__metadata__"; NULL when absent. */
const char *qs_safetensors_metadata(const qs_safetensors *file, const char *key);

#endif
