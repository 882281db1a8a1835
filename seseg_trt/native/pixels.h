// Resize confidence maps and composite images on the CPU. The arithmetic is that of compositing.h, so the results equal Pillow's byte
// for byte.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "compositing.h"
#include "clones.h"

namespace seseg {

// The filter weights of every coordinate along an axis. All coordinates have the same number of taps; missing taps have the weight 0.
struct Axis {
    std::size_t taps = 0;
    std::vector<i32> first, weights;

    Axis(u32 from, u32 to) : first(to) {
        for (u32 at = 0; at < to; ++at) taps = std::max(taps, static_cast<std::size_t>(taps_of(from, to, at).count));
        weights.assign(taps * to, 0);
        for (u32 at = 0; at < to; ++at) {
            const Taps own = taps_of(from, to, at);
            // Shift the taps so that none reads beyond the last source coordinate.
            const i32 shift = std::max(0, own.first + static_cast<i32>(taps) - static_cast<i32>(from));
            first[at] = own.first - shift;
            for (i32 tap = 0; tap < own.count; ++tap) weights[at * taps + static_cast<std::size_t>(tap + shift)] = own.fixed(tap);
        }
    }
};

// Compute an output row of a pass: the weighted sum of `taps` rows that are `pitch` bytes apart.
SESEG_CLONES static void weigh_rows(const u8* rows, std::size_t pitch, const i32* weights, std::size_t taps, std::size_t length, u8* out) {
    if (taps == 4) {
        const u8 *row0 = rows, *row1 = rows + pitch, *row2 = rows + 2 * pitch, *row3 = rows + 3 * pitch;
        const i32 w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
        for (std::size_t x = 0; x < length; ++x)
            out[x] = static_cast<u8>(clip(HALF + row0[x] * w0 + row1[x] * w1 + row2[x] * w2 + row3[x] * w3));
        return;
    }
    constexpr std::size_t STRETCH = 512;
    i32 sums[STRETCH];
    for (std::size_t begin = 0; begin < length; begin += STRETCH) {
        const std::size_t size = std::min(STRETCH, length - begin);
        for (std::size_t x = 0; x < size; ++x) sums[x] = HALF;
        for (std::size_t tap = 0; tap < taps; ++tap) {
            const u8* row = rows + tap * pitch + begin;
            for (std::size_t x = 0; x < size; ++x) sums[x] += row[x] * weights[tap];
        }
        for (std::size_t x = 0; x < size; ++x) out[begin + x] = static_cast<u8>(clip(sums[x]));
    }
}

// Resize with Pillow's BICUBIC, horizontally first. map: [size, size]; out: [height, width]. The horizontal pass works on the transposed
// map, so that neighbours in memory have the same weights.
inline void resize_map(const u8* map, u32 size, u8* out, u32 width, u32 height) {
    const Axis columns(size, width), rows(size, height);
    std::vector<u8> turned(static_cast<std::size_t>(size) * size), stretched(static_cast<std::size_t>(size) * width);
    for (u32 y = 0; y < size; ++y)
        for (u32 x = 0; x < size; ++x) turned[static_cast<std::size_t>(x) * size + y] = map[static_cast<std::size_t>(y) * size + x];
    constexpr u32 TILE = 64;  // columns that are computed and transposed back while they are in the cache
    std::vector<u8> tile(static_cast<std::size_t>(TILE) * size);
    for (u32 left = 0; left < width; left += TILE) {
        const u32 count = smaller(TILE, width - left);
        for (u32 i = 0; i < count; ++i)
            weigh_rows(turned.data() + static_cast<std::size_t>(columns.first[left + i]) * size, size,
                       columns.weights.data() + columns.taps * (left + i), columns.taps, size, tile.data() + static_cast<std::size_t>(i) * size);
        for (u32 y = 0; y < size; ++y)
            for (u32 i = 0; i < count; ++i)
                stretched[static_cast<std::size_t>(y) * width + left + i] = tile[static_cast<std::size_t>(i) * size + y];
    }
    for (u32 y = 0; y < height; ++y)
        weigh_rows(stretched.data() + static_cast<std::size_t>(rows.first[y]) * width, width, rows.weights.data() + rows.taps * y, rows.taps,
                   width, out + static_cast<std::size_t>(y) * width);
}

// Blend one colour as Pillow's paste does: a = pixel * (255 - m) + colour * m + 128; out = ((a >> 8) + a) >> 8. It fits 16 bits.
// pixels: `count` pixels of 4 bytes, the last one unused; mask: a byte for each pixel, XORed with `flip` (255 inverts the mask).
SESEG_CLONES static void blend_row(const u8* pixels, const u8* mask, u8 flip, const u8* color, std::size_t count, u8* out) {
    for (std::size_t x = 0; x < count; ++x) {
        for (std::size_t channel = 0; channel < 4; ++channel) {
            const std::uint16_t m = mask[x] ^ flip;
            const std::uint16_t a = static_cast<std::uint16_t>(pixels[4 * x + channel] * (255 - m) + color[channel] * m + 128);
            out[4 * x + channel] = static_cast<u8>(static_cast<std::uint16_t>((a >> 8) + a) >> 8);
        }
    }
}

// Blend the mask colour over an image. pixels: [rows, width] of `stride` (3 or 4) bytes; mask: [rows, width]; out: [rows, width, 3].
inline void cover(const u8* pixels, std::size_t stride, const u8* mask, u8 flip, const u8* color, std::size_t rows, std::size_t width, u8* out) {
    constexpr std::size_t STRETCH = 1024;
    u8 wide[4 * STRETCH], blended[4 * STRETCH];
    const u8 color4[4] = {color[0], color[1], color[2], 0};
    const std::size_t total = rows * width;  // none of the three arrays has padding
    for (std::size_t begin = 0; begin < total; begin += STRETCH) {
        const std::size_t count = std::min(STRETCH, total - begin);
        const u8* from = pixels + stride * begin;
        if (stride == 3) {
            for (std::size_t x = 0; x < count; ++x) {
                for (std::size_t channel = 0; channel < 3; ++channel) wide[4 * x + channel] = from[3 * x + channel];
                wide[4 * x + 3] = 0;
            }
            from = wide;
        }
        blend_row(from, mask + begin, flip, color4, count, blended);
        u8* to = out + 3 * begin;
        for (std::size_t x = 0; x + 1 < count; ++x) std::memcpy(to + 3 * x, blended + 4 * x, 4);  // the next pixel overwrites the fourth byte
        std::memcpy(to + 3 * (count - 1), blended + 4 * (count - 1), 3);
    }
}

}  // namespace seseg
