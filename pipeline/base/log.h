/* Log: stderr is for people. The only place in the library that prints. */
#ifndef QS_BASE_LOG_H
#define QS_BASE_LOG_H

#include "base/error.h"

typedef enum qs_log_level { QS_LOG_ERROR, QS_LOG_WARN, QS_LOG_INFO } qs_log_level;

/* Messages above `level` are dropped; the default is QS_LOG_INFO, --quiet sets QS_LOG_WARN. */
void qs_log_set_level(qs_log_level level);
qs_log_level qs_log_get_level(void);

void qs_log_info(const char *fmt, ...) QS_PRINTF(1, 2);
void qs_log_warn(const char *fmt, ...) QS_PRINTF(1, 2);
void qs_log_error(const char *fmt, ...) QS_PRINTF(1, 2);

#endif
