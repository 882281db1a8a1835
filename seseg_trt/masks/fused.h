// The fused kernel's body: vertical pass, threshold, paste of se and nse, mask, in one pass over the image.
//
// A warp takes runs of 512 pixels. Run by run it fetches the pixels of the next one into shared memory (cp.async on SM80 and later:
// the fetch overlaps the arithmetic), makes the map of this one, lane by lane along the rows, blends 16 pixels a lane, and writes
// them back from shared memory, 16 bytes a lane side by side: so the device memory sees whole sectors at any width, and a lane
// still has the 48 bytes together that hold 16 whole pixels.
#pragma once

#include "bodies.h"

namespace seseg {

constexpr u32 RUN_BYTES = 3 * RUN;

// Shared memory of one warp: two runs of pixels (this one and the next), the map of this one, and on demand the scratch.
constexpr u32 MAP_AT = 2 * RUN_BYTES;
constexpr u32 SCRATCH_AT = MAP_AT + RUN;
SESEG_FUNCTION u32 warp_bytes(u32 scratch) { return SCRATCH_AT + (scratch ? RUN_BYTES : 0); }

// Narrower images are mapped pixel by pixel: a row would not give every lane its four.
constexpr u32 NARROW = 128;

struct alignas(16) Vector {
    u32 at[4];
};

// `count` pixels from (x, y) on, `first` of a flat H * W pixels.
struct Run {
    u64 first;
    u32 x, y, count;
};

SESEG_FUNCTION Run run_of(const Image& image, u32 run) {
    Run found;
    if (image.dense) {
        const u32 first = run * RUN, pixels = image.width * image.height;
        found.y = quotient(first, image.reciprocal);
        found.x = first - found.y * image.width;
        found.count = smaller(RUN, pixels - first);
    } else {
        const u32 in_row = (image.width + RUN - 1) / RUN;
        found.y = quotient(run, image.reciprocal);
        found.x = (run - found.y * in_row) * RUN;
        found.count = smaller(RUN, image.width - found.x);
    }
    found.first = static_cast<u64>(found.y) * image.width + found.x;
    return found;
}

SESEG_FUNCTION u64 byte_of(const Run& run, u64 pitch, u32 channels) {
    return static_cast<u64>(run.y) * pitch + static_cast<u64>(run.x) * channels;
}

// ------------------------------------------------------------------------------------------------------- memory, 16 bytes a lane

SESEG_FUNCTION bool aligned(const u8* address, u32 bytes) { return reinterpret_cast<u64>(address) % bytes == 0; }

SESEG_FUNCTION void fetch_vector(u8* shared, const u8* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<u32>(__cvta_generic_to_shared(shared))), "l"(global)
                 : "memory");
#else
    *reinterpret_cast<Vector*>(shared) = *reinterpret_cast<const Vector*>(global);
#endif
}

// Fetches are counted in groups; wait_for_all_but_last() leaves the newest group under way.
SESEG_FUNCTION void close_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
SESEG_FUNCTION void wait_for_all_but_last() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
}

// A written image is not read again here: it should not push the rows of the map out of the caches.
SESEG_FUNCTION void store_vector(u8* global, const Vector& value) {
#ifdef __CUDA_ARCH__
    __stcs(reinterpret_cast<uint4*>(global), make_uint4(value.at[0], value.at[1], value.at[2], value.at[3]));
#else
    *reinterpret_cast<Vector*>(global) = value;
#endif
}

SESEG_FUNCTION void fetch(u8* shared, const u8* global, u32 bytes, u32 lane) {
    u32 at = 0;
    if (aligned(global, 16)) {
        if (bytes == RUN_BYTES) {  // nearly always: three accesses with no loop around them
            for (u32 i = 0; i < 3; ++i) fetch_vector(shared + 512 * i + 16 * lane, global + 512 * i + 16 * lane);
            return;
        }
        for (at = 16 * lane; at + 16 <= bytes; at += 512) fetch_vector(shared + at, global + at);
        at = bytes & ~15u;
    } else if (aligned(global, 4)) {
        for (at = 4 * lane; at + 4 <= bytes; at += 128)
            *reinterpret_cast<u32*>(shared + at) = *reinterpret_cast<const u32*>(global + at);
        at = bytes & ~3u;
    }
    for (at += lane; at < bytes; at += 32) shared[at] = global[at];
}

SESEG_FUNCTION void store(u8* global, const u8* shared, u32 bytes, u32 lane) {
    u32 at = 0;
    if (aligned(global, 16)) {
        if (bytes == RUN_BYTES) {
            for (u32 i = 0; i < 3; ++i)
                store_vector(global + 512 * i + 16 * lane, *reinterpret_cast<const Vector*>(shared + 512 * i + 16 * lane));
            return;
        }
        for (at = 16 * lane; at + 16 <= bytes; at += 512)
            store_vector(global + at, *reinterpret_cast<const Vector*>(shared + at));
        at = bytes & ~15u;
    } else if (aligned(global, 4)) {
        for (at = 4 * lane; at + 4 <= bytes; at += 128)
            *reinterpret_cast<u32*>(global + at) = *reinterpret_cast<const u32*>(shared + at);
        at = bytes & ~3u;
    }
    for (at += lane; at < bytes; at += 32) global[at] = shared[at];
}

// ---------------------------------------------------------------------------------------------------------------------- the map

template <bool threshold>
SESEG_FUNCTION u32 map_value(i32 sum, i32 limit) {
    if (threshold) return sum >= limit ? 255 : 0;
    return clip(sum);
}

// The vertical pass along one row's part of a run, x .. end: four neighbouring columns a lane, so that loads have whole aligned
// words. `whole`: x, end and the place in the map are multiples of 4, as they always are if the image's width is one.
template <bool threshold, bool whole>
SESEG_FUNCTION void map_row(const u8* top, u64 pitch, const Quad& quad, u32 x, u32 end, i32 limit, u8* map) {
    SESEG_LANES(lane) {
        for (u32 column = (x & ~3u) + 4 * lane; column < end; column += 128) {
            const u8* at = top + column;
            const Columns columns = transpose(loaded_word(at), loaded_word(at + pitch), loaded_word(at + 2 * pitch),
                                              loaded_word(at + 3 * pitch));
            u32 value[4];
            for (u32 i = 0; i < 4; ++i) value[i] = map_value<threshold>(convolve(columns.at[i], quad), limit);
            if (whole) {
                *reinterpret_cast<u32*>(map + (column - x)) =
                    permute(permute(value[0], value[1], 0x0040), permute(value[2], value[3], 0x0040), 0x5410);
            } else {
                for (u32 i = 0; i < 4; ++i)
                    if (column + i >= x && column + i < end) map[column + i - x] = static_cast<u8>(value[i]);
            }
        }
    }
}

template <bool threshold>
SESEG_FUNCTION void map_rows(const Image& image, const Run& run, i32 limit, u8* map) {
    const u8* from = image.shrunk ? image.shrunk : image.stretched;
    const u64 pitch = image.pitch;
    u32 x = run.x, y = run.y, done = 0;
    while (done < run.count) {
        const u32 end = x + smaller(image.width - x, run.count - done);
        const Quad quad = loaded_quad(image.rows + y);
        const u8* top = from + static_cast<u64>(quad.first) * pitch;
        if (((x | end | done) & 3) == 0) map_row<threshold, true>(top, pitch, quad, x, end, limit, map + done);
        else map_row<threshold, false>(top, pitch, quad, x, end, limit, map + done);
        done += end - x;
        x = 0;
        ++y;
    }
}

// The same pixel by pixel, where a run has many rows. (A narrow image that has padding has one run a row, and comes here too.)
template <bool threshold>
SESEG_FUNCTION void map_pixels(const Image& image, const Run& run, i32 limit, u8* map) {
    const u8* from = image.shrunk ? image.shrunk : image.stretched;
    const u64 pitch = image.pitch;
    SESEG_LANES(lane) {
        for (u32 i = lane; i < run.count; i += 32) {
            const u32 down = (run.x + i) / image.width, x = run.x + i - down * image.width;
            const Quad quad = loaded_quad(image.rows + run.y + down);
            const u8* at = from + static_cast<u64>(quad.first) * pitch + x;
            const u32 bytes = at[0] | at[pitch] << 8 | at[2 * pitch] << 16 | static_cast<u32>(at[3 * pitch]) << 24;
            map[i] = static_cast<u8>(map_value<threshold>(convolve(bytes, quad), limit));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------- the paste

// Random bytes of a run: those of the image's stream at three times its first pixel. A dense run begins with a block of the stream.
SESEG_FUNCTION void make_noise(const u64* key, const Run& run, u8* noise) {
    const u64 begin = 3 * run.first, block = begin / 32, end = begin + 3 * run.count;
    const u32 skipped = static_cast<u32>(begin % 32);
    SESEG_LANES(lane) {
        for (u64 at = block + lane; 32 * at < end; at += 32) {
            const Noise bytes = philox(key[0], key[1], at);
            const u32 to = static_cast<u32>(at - block) * 32;
            if (skipped == 0) {
                for (u32 i = 0; i < 2; ++i)
                    reinterpret_cast<Vector*>(noise + to)[i] =
                        Vector{{static_cast<u32>(bytes.at[2 * i]), static_cast<u32>(bytes.at[2 * i] >> 32),
                                static_cast<u32>(bytes.at[2 * i + 1]), static_cast<u32>(bytes.at[2 * i + 1] >> 32)}};
                continue;
            }
            for (u32 i = 0; i < 32; ++i)
                if (to + i >= skipped && to + i - skipped < 3 * run.count)
                    noise[to + i - skipped] = static_cast<u8>(bytes.at[i / 8] >> 8 * (i % 8));
        }
    }
}

// Blend 16 pixels, 48 bytes: `pixels` to `out`, which may be the same, or the noise.
template <bool random>
SESEG_FUNCTION void blend_lane(const u8* pixels, const u8* noise, const u8* map, u32 color, Share kind, u8* out) {
    const Vector shares = *reinterpret_cast<const Vector*>(map);
    u32 from[12], with[12], to[12];
    for (u32 i = 0; i < 3; ++i) {
        const Vector vector = reinterpret_cast<const Vector*>(pixels)[i];
        for (u32 j = 0; j < 4; ++j) from[4 * i + j] = vector.at[j];
        if (random) {
            const Vector colors = reinterpret_cast<const Vector*>(noise)[i];
            for (u32 j = 0; j < 4; ++j) with[4 * i + j] = colors.at[j];
        }
    }
    const float fixed[3] = {lifted(color, 0), lifted(color, 1), lifted(color, 2)};
    for (u32 four = 0; four < 4; ++four) {
        float share[4], result[12];
        for (u32 i = 0; i < 4; ++i) share[i] = share_of(lifted(shares.at[four], i), kind);
        for (u32 i = 0; i < 12; ++i) {
            const u32 word = 3 * four + i / 4, byte = i % 4;
            result[i] = blend(lifted(from[word], byte), random ? lifted(with[word], byte) : fixed[i % 3], share[i / 3]);
        }
        for (u32 i = 0; i < 3; ++i)
            to[3 * four + i] = pack(result[4 * i], result[4 * i + 1], result[4 * i + 2], result[4 * i + 3]);
    }
    for (u32 i = 0; i < 3; ++i)
        reinterpret_cast<Vector*>(out)[i] = Vector{{to[4 * i], to[4 * i + 1], to[4 * i + 2], to[4 * i + 3]}};
}

template <bool random>
SESEG_FUNCTION void paste(const Image& image, const Run& run, const u64* key, u32 color, Share kind, u8* pixels, u8* scratch,
                          const u8* map, u8* destination) {
    if (random) make_noise(key, run, scratch);
    u8* out = scratch ? scratch : pixels;
    SESEG_LANES(lane) {
        if (16 * lane < run.count)
            blend_lane<random>(pixels + 48 * lane, scratch + 48 * lane, map + 16 * lane, color, kind, out + 48 * lane);
    }
    u8* to = destination + byte_of(run, image.color_pitch, 3);
    SESEG_LANES(lane) { store(to, out, 3 * run.count, lane); }
}

// One warp: its runs of the block's. `shared` has warp_bytes(), 16-byte aligned. Random needs the scratch.
template <bool threshold, bool random>
SESEG_FUNCTION void composite(const Batch& batch, u32 block, u32 warp, u8* shared) {
    const u32 index = image_of(batch.composite_blocks, batch.count, block);
    const Image& image = batch.images[index];
    const bool colored = image.colored[0] || image.colored[1];
    u8* map = shared + MAP_AT;
    u8* scratch = batch.scratch ? shared + SCRATCH_AT : nullptr;
    u32 at = (block - batch.composite_blocks[index]) * WARPS * batch.runs_per_warp + warp;
    if (at >= image.runs) return;
    Run run = run_of(image, at);
    if (colored) {
        SESEG_LANES(lane) { fetch(shared, image.source + byte_of(run, image.source_pitch, 3), 3 * run.count, lane); }
    }
    close_group();
    for (u32 turn = 0; turn < batch.runs_per_warp && at < image.runs; ++turn) {
        u8* pixels = shared + (turn & 1) * RUN_BYTES;
        const u32 next_at = at + WARPS;
        Run next = run;
        if (turn + 1 < batch.runs_per_warp && next_at < image.runs) {
            next = run_of(image, next_at);
            u8* to = shared + (~turn & 1) * RUN_BYTES;
            if (colored) {
                SESEG_LANES(lane) { fetch(to, image.source + byte_of(next, image.source_pitch, 3), 3 * next.count, lane); }
            }
        }
        close_group();
        if (image.width < NARROW) map_pixels<threshold>(image, run, batch.limit, map);
        else map_rows<threshold>(image, run, batch.limit, map);
        if (image.mask) {
            u8* to = image.mask + byte_of(run, image.mask_pitch, 1);
            SESEG_LANES(lane) { store(to, map, run.count, lane); }
        }
        SESEG_LANES(lane) {
            (void)lane;
            wait_for_all_but_last();
        }
        SESEG_ROLLED
        for (u32 output = 0; output < 2; ++output) {
            u8* destination = image.colored[output];
            if (destination)
                paste<random>(image, run, image.keys[output], batch.color, share_kind(output == 0), pixels, scratch, map,
                              destination);
        }
        run = next;
        at = next_at;
    }
}

}  // namespace seseg
