// Run the kernels' bodies on the host: block by block, warp by warp, lane by lane, forwards or backwards.
// Each warp's shared memory is a heap allocation of the exact size, so that a sanitizer detects an overrun.

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "fused.h"

using namespace seseg;

namespace {

template <typename Body>
void each_warp(u32 blocks, u32 bytes, Body body) {
    u8* shared = static_cast<u8*>(std::aligned_alloc(16, bytes ? bytes : 16));
    for (u32 i = 0; i < blocks; ++i)
        for (u32 j = 0; j < WARPS; ++j) {
            std::memset(shared, 0xA5, bytes);  // shared memory is uninitialised on the device
            body(backwards ? blocks - 1 - i : i, backwards ? WARPS - 1 - j : j, shared);
        }
    std::free(shared);
}

}  // namespace

extern "C" {

// Launch a kernel; return 1 if there is none of this name. `bytes` is a block's dynamic shared memory.
int launch(const char* name, u32 blocks, u32 bytes, const void* argument, int in_reverse) {
    backwards = in_reverse;
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
    const Batch& batch = *static_cast<const Batch*>(argument);
    const Sampling& sampling = *static_cast<const Sampling*>(argument);
    const u32 slice = bytes / WARPS;
    if (is("seseg_weights"))
        for (u32 block = 0; block < blocks; ++block)
            for (u32 thread = 0; thread < 32 * WARPS; ++thread) make_weights(batch, block, thread);
    else if (is("seseg_indices"))
        for (u32 thread = 0; thread < blocks * 32 * WARPS; ++thread) make_indices(sampling, thread);
    else if (is("seseg_stretch")) each_warp(blocks, 0, [&](u32 b, u32 w, u8*) { stretch(batch, b, w); });
    else if (is("seseg_shrink")) each_warp(blocks, 0, [&](u32 b, u32 w, u8*) { shrink(batch, b, w); });
    else if (is("seseg_pack_bits")) each_warp(blocks, 0, [&](u32 b, u32 w, u8*) { pack_bits(batch, b, w); });
    else if (is("seseg_opacity_fixed"))
        each_warp(blocks, slice, [&](u32 b, u32 w, u8* s) { composite<false, false>(batch, b, w, s); });
    else if (is("seseg_opacity_random"))
        each_warp(blocks, slice, [&](u32 b, u32 w, u8* s) { composite<false, true>(batch, b, w, s); });
    else if (is("seseg_threshold_fixed"))
        each_warp(blocks, slice, [&](u32 b, u32 w, u8* s) { composite<true, false>(batch, b, w, s); });
    else if (is("seseg_threshold_random"))
        each_warp(blocks, slice, [&](u32 b, u32 w, u8* s) { composite<true, true>(batch, b, w, s); });
    else if (is("seseg_sample")) each_warp(blocks, slice, [&](u32 b, u32 w, u8* s) { sample(sampling, b, w, s); });
    else return 1;
    return 0;
}

// Return how many of the 2^24 cases of the blend differ from Pillow's integer formula.
u32 wrong_blends(int rest) {
    const Share kind = share_kind(rest);
    u32 wrong = 0;
    for (u32 m = 0; m < 256; ++m) {
        const float share = share_of(lifted(m, 0), kind);
        const u32 weight = rest ? 255 - m : m;
        for (u32 pixel = 0; pixel < 256; ++pixel)
            for (u32 color = 0; color < 256; ++color) {
                const u32 a = pixel * (255 - weight) + color * weight + 128;
                const u32 expected = ((a >> 8) + a) >> 8;
                wrong += (as_bits(blend(lifted(pixel, 0), lifted(color, 0), share)) & 255) != expected;
            }
    }
    return wrong;
}

void philox_bytes(u64 key0, u64 key1, u64 block, u8* out) {
    const Noise noise = philox(key0, key1, block);
    std::memcpy(out, noise.at, 32);
}

// Compute the fixed-point weights of an axis as the kernels do, as a dense matrix [to, from]; return the largest number of taps of a row.
u32 weight_matrix(u32 from, u32 to, i32* out) {
    u32 most = 0;
    for (u32 y = 0; y < to; ++y, out += from) {
        const Taps taps = taps_of(from, to, y);
        u32 count = 0;
        if (to < from) {
            for (i32 tap = 0; tap < taps.count; ++tap) out[taps.first + tap] = taps.fixed(tap);
            count = static_cast<u32>(taps.count);
        } else {
            const Quad quad = quad_taps(from, to, y);
            const u32 low[4] = {quad.low01 & 0xffff, quad.low01 >> 16, quad.low23 & 0xffff, quad.low23 >> 16};
            for (i32 tap = 0; tap < 4; ++tap) {
                const i32 high = static_cast<signed char>(static_cast<u32>(quad.high) >> 8 * tap & 255);
                out[quad.first + tap] = high * 65536 + static_cast<i32>(low[tap]);
                count += out[quad.first + tap] != 0;
            }
        }
        most = count > most ? count : most;
    }
    return most;
}

u32 size_of(int which) {
    const u32 sizes[] = {sizeof(Image), sizeof(Batch), sizeof(Source), sizeof(Sampling), sizeof(Quad)};
    return sizes[which];
}

u32 warp_shared_bytes(u32 scratch) { return warp_bytes(scratch); }

// Return the offsets of a struct's fields in the order of declaration.
void image_offsets(u32* out) {
    const u32 offsets[] = {offsetof(Image, map),          offsetof(Image, source),    offsetof(Image, colored),
                           offsetof(Image, mask),         offsetof(Image, bits),      offsetof(Image, columns),
                           offsetof(Image, rows),         offsetof(Image, wide_columns), offsetof(Image, wide_rows),
                           offsetof(Image, stretched),    offsetof(Image, shrunk),    offsetof(Image, source_pitch),
                           offsetof(Image, color_pitch),  offsetof(Image, mask_pitch), offsetof(Image, bits_pitch),
                           offsetof(Image, reciprocal),   offsetof(Image, keys),      offsetof(Image, width),
                           offsetof(Image, height),       offsetof(Image, pitch),     offsetof(Image, dense),
                           offsetof(Image, runs),         offsetof(Image, reserved)};
    std::memcpy(out, offsets, sizeof(offsets));
}

void batch_offsets(u32* out) {
    const u32 offsets[] = {offsetof(Batch, images),         offsetof(Batch, table_blocks), offsetof(Batch, stretch_blocks),
                           offsetof(Batch, shrink_blocks),  offsetof(Batch, composite_blocks), offsetof(Batch, pack_blocks),
                           offsetof(Batch, count),          offsetof(Batch, size),         offsetof(Batch, limit),
                           offsetof(Batch, color),          offsetof(Batch, runs_per_warp), offsetof(Batch, scratch)};
    std::memcpy(out, offsets, sizeof(offsets));
}

void source_offsets(u32* out) {
    const u32 offsets[] = {offsetof(Source, pixels), offsetof(Source, pitch), offsetof(Source, width),
                           offsetof(Source, height)};
    std::memcpy(out, offsets, sizeof(offsets));
}

void sampling_offsets(u32* out) {
    const u32 offsets[] = {offsetof(Sampling, sources), offsetof(Sampling, indices), offsetof(Sampling, out),
                           offsetof(Sampling, count), offsetof(Sampling, size)};
    std::memcpy(out, offsets, sizeof(offsets));
}

}  // extern "C"
