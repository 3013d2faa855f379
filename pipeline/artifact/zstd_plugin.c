/* `make plugin`: the two entry points that let h5dump, h5repack and h5diff load the filter through
 * HDF5_PLUGIN_PATH. The library does not contain them: it registers the filter itself. */
#ifdef QS_H5_PLUGIN

#include "artifact/zstd_filter.h"

#include <H5PLextern.h>

H5PL_type_t H5PLget_plugin_type(void) { return H5PL_TYPE_FILTER; }

const void *H5PLget_plugin_info(void) { return &qs_zstd_filter; }

#endif
typedef int qs_zstd_plugin_unit; /* C forbids an empty translation unit */
