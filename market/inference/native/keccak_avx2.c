/* Four messages at a time. */
#if defined(__x86_64__)
#pragma GCC target("avx2")
#define LANES 4
#define KECCAK keccak_avx2
#include "keccak.inc.h"
#else
typedef int no_such_processor;
#endif
