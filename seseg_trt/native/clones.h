// SESEG_CLONES compiles a function for several CPU generations; the dynamic loader picks the best one for the machine.
#pragma once

#include <cstddef>  // defines __GLIBC__ if the C library is glibc; musl's loader does not support clones

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(SESEG_ONE_PROCESSOR)
#define SESEG_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SESEG_CLONES
#endif
