// Loops over pixels are compiled for several generations of processors, of which the loader takes the best that it finds.
#pragma once

#include <cstddef>  // glibc's own, where it is glibc: another loader (musl's) can't choose

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(SESEG_ONE_PROCESSOR)
#define SESEG_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SESEG_CLONES
#endif
