// The launch geometry of the kernels; their bodies, which the tests run on the host as well, are in the headers.
//
// Every kernel takes the address of its Batch or Sampling in device memory: one argument, whatever the binding.

#include "fused.h"

using namespace seseg;

// `residents`: how many blocks a multiprocessor should be able to hold, which bounds the registers.
#define SESEG_KERNEL(residents) extern "C" __global__ __launch_bounds__(32 * WARPS, residents)

SESEG_KERNEL(4) void seseg_weights(const Batch* batch) { make_weights(*batch, blockIdx.x, threadIdx.x); }

SESEG_KERNEL(4) void seseg_stretch(const Batch* batch) { stretch(*batch, blockIdx.x, threadIdx.x / 32); }

SESEG_KERNEL(4) void seseg_shrink(const Batch* batch) { shrink(*batch, blockIdx.x, threadIdx.x / 32); }

SESEG_KERNEL(4) void seseg_pack_bits(const Batch* batch) { pack_bits(*batch, blockIdx.x, threadIdx.x / 32); }

extern __shared__ __align__(16) u8 shared_memory[];

template <bool threshold, bool random>
static __device__ __forceinline__ void composite_block(const Batch& batch) {
    const u32 warp = threadIdx.x / 32;
    composite<threshold, random>(batch, blockIdx.x, warp, shared_memory + warp * warp_bytes(batch.scratch));
}

SESEG_KERNEL(4) void seseg_opacity_fixed(const Batch* batch) { composite_block<false, false>(*batch); }
SESEG_KERNEL(3) void seseg_opacity_random(const Batch* batch) { composite_block<false, true>(*batch); }
SESEG_KERNEL(4) void seseg_threshold_fixed(const Batch* batch) { composite_block<true, false>(*batch); }
SESEG_KERNEL(3) void seseg_threshold_random(const Batch* batch) { composite_block<true, true>(*batch); }

SESEG_KERNEL(4) void seseg_indices(const Sampling* sampling) {
    make_indices(*sampling, blockIdx.x * 32 * WARPS + threadIdx.x);
}

SESEG_KERNEL(4) void seseg_sample(const Sampling* sampling) {
    const u32 warp = threadIdx.x / 32;
    sample(*sampling, blockIdx.x, warp, shared_memory + warp * round_up(3 * sampling->size, 16));
}
