/* A trace's rows for the AVX2 kernel. */
#if defined(__x86_64__)
#pragma GCC target("avx2")
#define TRACE_ROWS trace_avx2
#include "trace.inc.h"
#else
typedef int no_such_processor;
#endif
