/* A trace's rows for any processor. */
#define TRACE_ROWS trace_portable
#include "trace.inc.h"
