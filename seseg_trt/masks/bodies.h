// The bodies of the kernels, for the device and for the host: what one warp does, written as phases over its 32 lanes.
//
// SESEG_LANES(lane) { ... } runs its block for every lane. On the device the lanes run at once and meet at its end; on the host it
// is a loop. So lanes talk to each other through shared memory and from one phase to the next only, and what the tests run with a
// host compiler is what the GPU runs. (The host harness also runs the lanes backwards: a missing meeting point would show.)
//
// Bytes. Of a W x H image the fused kernel reads 3 and writes 3 bytes a pixel for se or for nse (6 for both), 1 more for the mask;
// nothing else of it passes through device memory twice. Beside that move the confidence map (S * S bytes), its horizontal pass
// ([S, W] bytes: at 4 megapixels 0.6 of 25 MB, and it stays in the L2 cache between the two kernels) and 16 bytes of weights for
// each row and column. Floor for 4 megapixels (2400 x 1800), `se`, at 4.3 TB/s of copy bandwidth: 25.9 MB, 6.0 us an image.
// Arithmetic, the other wall, counted in SM90's machine code: 13 instructions a pixel for the vertical pass (20 where the width is no
// multiple of 4), 17 for the blend, 2 for moving; an H200 (132 multiprocessors, 1.755 GHz, 128 lanes a cycle each) can issue 41 in the
// time in which 6 bytes pass. A random colour adds 52 (416 for a Philox block of 32 bytes; the 48 blocks of a run take a warp two turns)
// and is bound by arithmetic; so is the 1-bit mask, which writes 1/8 byte a pixel.
#pragma once

#include "compositing.h"

#ifdef __CUDACC__
#define SESEG_ROLLED _Pragma("unroll 1")
#define SESEG_LANES(lane) for (u32 lane = threadIdx.x & 31, once_ = 1; once_; once_ = 0, __syncwarp())
#else
#define SESEG_ROLLED
#define SESEG_LANES(lane) \
    for (u32 step_ = 0, lane = seseg::lane_of(0); step_ < 32; ++step_, lane = seseg::lane_of(step_))
namespace seseg {
inline bool backwards = false;  // set by the harness
inline u32 lane_of(u32 step) { return backwards ? 31 - (step & 31) : step & 31; }
}  // namespace seseg
#endif

namespace seseg {

constexpr u32 WARPS = 8;          // warps a block
constexpr u32 RUN = 512;          // pixels that a warp blends at once: 16 a lane, 48 bytes, so that accesses have 16 bytes
constexpr u32 STRIP = 16;         // rows that a warp makes of the horizontal pass and of the packed mask
constexpr u32 TABLE = 32 * WARPS;  // coordinates whose weights a block makes

// One image of a batch. The host packs it as a NumPy record: the tests compare each offset. Null pointers are outputs not wanted.
struct Image {
    const u8* map;       // [S, S] confidence, 4-byte aligned
    const u8* source;    // [H, W, 3] RGB
    u8* colored[2];      // se and nse: [H, W, 3]
    u8* mask;            // [H, W]
    u8* bits;            // [H, ceil(W / 8)], the first pixel in the highest bit: the rows of a 1-bit PNG
    Quad* columns;       // workspace: W weights of the horizontal pass, if W >= S
    Quad* rows;          // workspace: H weights of the vertical pass
    i32* wide_columns;   // workspace: W x (first, count, taps weights), if W < S
    i32* wide_rows;      // workspace: H x (first, count, taps weights), if H < S
    u8* stretched;       // workspace: [S, pitch], the horizontal pass
    u8* shrunk;          // workspace: [max(H, 4), pitch], the vertical pass if H < S, else null
    u64 source_pitch;    // bytes from row to row
    u64 color_pitch;     // the same of se and nse
    u64 mask_pitch;
    u64 bits_pitch;
    u64 reciprocal;      // see quotient(): of W if the image is dense, else of the runs in a row
    u64 keys[2][2];      // of the random colours of se and nse
    u32 width;
    u32 height;
    u32 pitch;           // of stretched and shrunk: a multiple of 16
    u32 dense;           // 1: no row has padding; runs then go on over the ends of rows, and stay aligned at any width
    u32 runs;            // how many runs of RUN pixels (dense: of the image; else: of all rows)
    u32 reserved;
};

// A limit that no sum reaches: with a threshold of 100 nothing is masked, though sums overshoot 255 before they are clipped.
constexpr i32 NEVER = 3 << 29;

// What all kernels of a batch are given. The prefix sums say which blocks of a launch work on which image; count + 1 numbers.
struct Batch {
    const Image* images;
    const u32* table_blocks;
    const u32* stretch_blocks;
    const u32* shrink_blocks;
    const u32* composite_blocks;
    const u32* pack_blocks;
    u32 count;
    u32 size;           // S: the side of the confidence maps, a multiple of 4, at least 8
    i32 limit;          // a pixel is masked if its sum (see convolve) is at least this; unused by the opacity kernels
    u32 color;          // R + 256 G + 65536 B
    u32 runs_per_warp;  // how long a warp works: many for large batches (the rows stay in L1), few for small ones
    u32 scratch;        // 1: each warp has RUN * 3 more bytes of shared memory: for two outputs, or a random colour
};

// The image that a block works on: the last one whose first block is not after it.
SESEG_FUNCTION u32 image_of(const u32* first_blocks, u32 count, u32 block) {
    u32 low = 0, high = count - 1;
    while (low < high) {
        const u32 middle = (low + high + 1) / 2;
        if (first_blocks[middle] <= block) low = middle;
        else high = middle - 1;
    }
    return low;
}

// An upper bound of the weights of one coordinate, as Pillow allots them: ceil(2 * S / n) * 2 + 1.
SESEG_FUNCTION u32 wide_taps(u32 from, u32 to) { return (2 * from + to - 1) / to * 2 + 1; }

// Reads of what earlier kernels wrote and this one does not.
#ifdef __CUDA_ARCH__
SESEG_FUNCTION u32 loaded_word(const u8* bytes) { return __ldg(reinterpret_cast<const u32*>(bytes)); }
SESEG_FUNCTION Quad loaded_quad(const Quad* quad) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(quad));
    return Quad{static_cast<i32>(words.x), static_cast<i32>(words.y), words.z, words.w};
}
#else
SESEG_FUNCTION u32 loaded_word(const u8* bytes) { return *reinterpret_cast<const u32*>(bytes); }
SESEG_FUNCTION Quad loaded_quad(const Quad* quad) { return *quad; }
#endif

// ------------------------------------------------------------------------------------------------------------------ the weights

SESEG_FUNCTION void write_wide(i32* table, u32 from, u32 to, u32 coordinate) {
    const Taps taps = taps_of(from, to, coordinate);
    i32* entry = table + static_cast<u64>(coordinate) * (2 + wide_taps(from, to));
    entry[0] = taps.first;
    entry[1] = taps.count;
    for (i32 tap = 0; tap < taps.count; ++tap) entry[2 + tap] = taps.fixed(tap);
}

// One thread: the weights of one column or row. The blocks of an image are those of its columns, then those of its rows.
SESEG_FUNCTION void make_weights(const Batch& batch, u32 block, u32 thread) {
    const u32 index = image_of(batch.table_blocks, batch.count, block);
    const Image image = batch.images[index];
    const u32 column_blocks = (image.width + TABLE - 1) / TABLE;
    u32 local = block - batch.table_blocks[index];
    if (local < column_blocks) {
        const u32 x = local * TABLE + thread;
        if (x >= image.width) return;
        if (image.width < batch.size) write_wide(image.wide_columns, batch.size, image.width, x);
        else image.columns[x] = quad_taps(batch.size, image.width, x);
        return;
    }
    const u32 y = (local - column_blocks) * TABLE + thread;
    if (y >= image.height) return;
    if (image.height >= batch.size) {
        image.rows[y] = quad_taps(batch.size, image.height, y);
        return;
    }
    // The vertical pass has a kernel of its own then, after which the fused kernel changes nothing more.
    write_wide(image.wide_rows, batch.size, image.height, y);
    image.rows[y] = quad_identity(image.height < 4 ? 4 : image.height, y);
}

// ----------------------------------------------------------------------------------------------------------- the horizontal pass

SESEG_FUNCTION u32 stretch_wide(const u8* row, const i32* entry) {
    i32 sum = HALF;
    for (i32 tap = 0; tap < entry[1]; ++tap) sum += row[entry[0] + tap] * entry[2 + tap];
    return clip(sum);
}

// The four map bytes under a Quad, from aligned words: the second one is not read where it would lie behind the row.
SESEG_FUNCTION u32 map_bytes(const u8* row, u32 first, u32 size) {
    const u32 word = first & ~3u;
    return funnel_right(loaded_word(row + word), loaded_word(row + smaller(word + 4, size - 4)), (first & 3) * 8);
}

// One warp: STRIP rows of 128 columns, four a lane.
SESEG_FUNCTION void stretch(const Batch& batch, u32 block, u32 warp) {
    const u32 index = image_of(batch.stretch_blocks, batch.count, block);
    const Image image = batch.images[index];
    const u32 task = (block - batch.stretch_blocks[index]) * WARPS + warp;
    const u32 groups = (image.pitch + 127) / 128, group = task % groups, first_row = task / groups * STRIP;
    const u32 end_row = smaller(first_row + STRIP, batch.size);
    SESEG_LANES(lane) {
        const u32 x = group * 128 + lane * 4;
        if (x >= image.pitch) continue;
        if (image.width < batch.size) {
            const u32 entry_words = 2 + wide_taps(batch.size, image.width);
            for (u32 y = first_row; y < end_row; ++y)
                for (u32 i = 0; i < 4; ++i)
                    image.stretched[static_cast<u64>(y) * image.pitch + x + i] = static_cast<u8>(
                        x + i < image.width ? stretch_wide(image.map + static_cast<u64>(y) * batch.size,
                                                           image.wide_columns + static_cast<u64>(x + i) * entry_words)
                                            : 0);
            continue;
        }
        Quad quads[4];
        for (u32 i = 0; i < 4; ++i) quads[i] = loaded_quad(image.columns + smaller(x + i, image.width - 1));
        for (u32 y = first_row; y < end_row; ++y) {
            const u8* row = image.map + static_cast<u64>(y) * batch.size;
            u32 word = 0;
            for (u32 i = 0; i < 4; ++i)
                word |= clip(convolve(map_bytes(row, static_cast<u32>(quads[i].first), batch.size), quads[i])) << 8 * i;
            *reinterpret_cast<u32*>(image.stretched + static_cast<u64>(y) * image.pitch + x) = word;
        }
    }
}

// ---------------------------------------------------------------------------- the vertical pass of images lower than the network

// One warp: one row of 128 columns, four a lane. Rows below the image, of which the fused kernel reads up to 3, become 0.
SESEG_FUNCTION void shrink(const Batch& batch, u32 block, u32 warp) {
    const u32 index = image_of(batch.shrink_blocks, batch.count, block);
    const Image image = batch.images[index];
    const u32 task = (block - batch.shrink_blocks[index]) * WARPS + warp;
    const u32 groups = (image.pitch + 127) / 128, group = task % groups, y = task / groups;
    if (y >= (image.height < 4 ? 4 : image.height)) return;
    SESEG_LANES(lane) {
        const u32 x = group * 128 + lane * 4;
        if (x >= image.pitch) continue;
        i32 sums[4] = {HALF, HALF, HALF, HALF};
        if (y < image.height) {
            const i32* entry = image.wide_rows + static_cast<u64>(y) * (2 + wide_taps(batch.size, image.height));
            for (i32 tap = 0; tap < entry[1]; ++tap) {
                const u32 word = loaded_word(image.stretched + static_cast<u64>(entry[0] + tap) * image.pitch + x);
                for (u32 i = 0; i < 4; ++i) sums[i] += static_cast<i32>(word >> 8 * i & 255) * entry[2 + tap];
            }
        }
        u32 word = 0;
        for (u32 i = 0; i < 4; ++i) word |= clip(sums[i]) << 8 * i;
        *reinterpret_cast<u32*>(image.shrunk + static_cast<u64>(y) * image.pitch + x) = word;
    }
}

// -------------------------------------------------------------------------------------------------------------- the packed mask

// One warp: STRIP rows of 256 columns, eight a lane: a byte a row. The four source rows stay in registers while they serve.
SESEG_FUNCTION void pack_bits(const Batch& batch, u32 block, u32 warp) {
    const u32 index = image_of(batch.pack_blocks, batch.count, block);
    const Image image = batch.images[index];
    const u32 task = (block - batch.pack_blocks[index]) * WARPS + warp;
    const u32 groups = (image.width + 255) / 256, group = task % groups, first_row = task / groups * STRIP;
    const u32 end_row = smaller(first_row + STRIP, image.height);
    const u8* from = image.shrunk ? image.shrunk : image.stretched;
    SESEG_LANES(lane) {
        const u32 x = group * 256 + lane * 8;
        if (x >= image.width) continue;
        const u32 kept = image.width - x < 8 ? 0xff00u >> (image.width - x) : 0xffu;
        Columns left{}, right{};
        i32 held = -1;
        for (u32 y = first_row; y < end_row; ++y) {
            const Quad quad = loaded_quad(image.rows + y);
            if (quad.first != held) {
                const u8* top = from + static_cast<u64>(quad.first) * image.pitch + x;
                const u64 p = image.pitch;
                left = transpose(loaded_word(top), loaded_word(top + p), loaded_word(top + 2 * p), loaded_word(top + 3 * p));
                top += 4;
                right = transpose(loaded_word(top), loaded_word(top + p), loaded_word(top + 2 * p), loaded_word(top + 3 * p));
                held = quad.first;
            }
            // The sign of limit - 1 - sum is the pixel's bit; a funnel shift moves it in. It can't overflow: limits end at
            // NEVER, and sums stay within a fourth of 255 * 2^22 beyond 0 and 255 * 2^22.
            u32 byte = 0;
            for (u32 i = 0; i < 4; ++i)
                byte = funnel_left(static_cast<u32>(batch.limit - 1 - convolve(left.at[i], quad)), byte, 1);
            for (u32 i = 0; i < 4; ++i)
                byte = funnel_left(static_cast<u32>(batch.limit - 1 - convolve(right.at[i], quad)), byte, 1);
            image.bits[y * image.bits_pitch + x / 8] = static_cast<u8>(byte & kept);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------- NEAREST

struct Source {
    const u8* pixels;  // [H, W, 3] RGB
    u64 pitch;         // bytes from row to row
    u32 width;
    u32 height;
};

struct Sampling {
    const Source* sources;
    i32* indices;  // workspace: [count, 2, S], columns then rows
    u8* out;       // [count, S, S, 3], 16-byte aligned
    u32 count;
    u32 size;
};

// One thread: the source columns, or rows, of one image.
SESEG_FUNCTION void make_indices(const Sampling& sampling, u32 thread) {
    if (thread >= 2 * sampling.count) return;
    const Source& source = sampling.sources[thread / 2];
    nearest_indices(thread % 2 ? source.height : source.width, sampling.size,
                    sampling.indices + static_cast<u64>(thread) * sampling.size);
}

// One warp: one row of the network's input. `shared` has 3 S bytes, rounded up to 16.
SESEG_FUNCTION void sample(const Sampling& sampling, u32 block, u32 warp, u8* shared) {
    const u64 task = static_cast<u64>(block) * WARPS + warp;
    const u32 index = static_cast<u32>(task / sampling.size), row = static_cast<u32>(task % sampling.size);
    if (index >= sampling.count) return;
    const Source& source = sampling.sources[index];
    const i32* columns = sampling.indices + 2 * static_cast<u64>(index) * sampling.size;
    const u8* pixels = source.pixels + static_cast<u64>(columns[sampling.size + row]) * source.pitch;
    const u32 bytes = 3 * sampling.size;
    SESEG_LANES(lane) {
        for (u32 x = lane; x < sampling.size; x += 32) {
            const u8* pixel = pixels + 3 * static_cast<u64>(columns[x]);
            for (u32 channel = 0; channel < 3; ++channel) shared[3 * x + channel] = pixel[channel];
        }
    }
    u8* out = sampling.out + task * bytes;
    SESEG_LANES(lane) {
        if (bytes % 16 == 0)
            for (u32 at = 16 * lane; at < bytes; at += 512)
                *reinterpret_cast<Quad*>(out + at) = *reinterpret_cast<const Quad*>(shared + at);
        else
            for (u32 at = lane; at < bytes; at += 32) out[at] = shared[at];
    }
}

}  // namespace seseg
