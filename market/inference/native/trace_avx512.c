/* A trace's rows for the AVX-512 kernel. */
#if defined(__x86_64__)
#include "avx512.h"

#define TRACE_ROWS trace_avx512
#include "trace.inc.h"
#else
typedef int no_such_processor;
#endif
