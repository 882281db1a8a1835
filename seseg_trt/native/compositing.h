// The arithmetic of masks, for the device (nvcc, NVRTC) and for the host (any C++17 compiler): the same source, the same bytes.
//
// Everything here is exact. Doubles follow Pillow's C code operation by operation; no compiler may fuse a multiplication and an
// addition there: on the device the operations are spelled as intrinsics that never fuse, on the host the file must be compiled
// with -ffp-contract=off. No standard header is included, because NVRTC has none.
#pragma once

#ifdef __CUDACC__
#define SESEG_FUNCTION __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define SESEG_FUNCTION inline
#endif

namespace seseg {

using u8 = unsigned char;
using i32 = int;
using u32 = unsigned int;
using u64 = unsigned long long;

static_assert(sizeof(i32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8, "a 64-bit machine");

// ---------------------------------------------------------------------------------------------------------------- machine words

#ifdef __CUDA_ARCH__
SESEG_FUNCTION double add(double a, double b) { return __dadd_rn(a, b); }
SESEG_FUNCTION double multiply(double a, double b) { return __dmul_rn(a, b); }
SESEG_FUNCTION double divide(double a, double b) { return __ddiv_rn(a, b); }
SESEG_FUNCTION float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SESEG_FUNCTION float as_float(u32 bits) { return __uint_as_float(bits); }
SESEG_FUNCTION u32 as_bits(float value) { return __float_as_uint(value); }
SESEG_FUNCTION u32 permute(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
SESEG_FUNCTION u64 multiply_high(u64 a, u64 b) { return __umul64hi(a, b); }
SESEG_FUNCTION u32 funnel_left(u32 low, u32 high, u32 bits) { return __funnelshift_l(low, high, bits); }
SESEG_FUNCTION u32 funnel_right(u32 low, u32 high, u32 bits) { return __funnelshift_r(low, high, bits); }
// Four unsigned bytes times four signed bytes, added to a sum. The intrinsics have no such mix; the instruction does.
SESEG_FUNCTION i32 dot4(u32 bytes, i32 signed_bytes, i32 sum) {
    i32 result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(bytes), "r"(signed_bytes), "r"(sum));
    return result;
}
SESEG_FUNCTION u32 dot2_low(u32 halves, u32 bytes, u32 sum) { return __dp2a_lo(halves, bytes, sum); }
SESEG_FUNCTION u32 dot2_high(u32 halves, u32 bytes, u32 sum) { return __dp2a_hi(halves, bytes, sum); }
#else
SESEG_FUNCTION double add(double a, double b) { return a + b; }
SESEG_FUNCTION double multiply(double a, double b) { return a * b; }
SESEG_FUNCTION double divide(double a, double b) { return a / b; }
SESEG_FUNCTION float fused(float a, float b, float c) {
#ifdef __CUDACC__
    return fmaf(a, b, c);
#else
    return std::fmaf(a, b, c);
#endif
}
SESEG_FUNCTION float as_float(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
SESEG_FUNCTION u32 as_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
SESEG_FUNCTION u32 permute(u32 a, u32 b, u32 selector) {
    const u64 bytes = static_cast<u64>(b) << 32 | a;
    u32 result = 0;
    for (u32 i = 0; i < 4; ++i) result |= static_cast<u32>(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return result;
}
SESEG_FUNCTION u64 multiply_high(u64 a, u64 b) {
    __extension__ using u128 = unsigned __int128;
    return static_cast<u64>(static_cast<u128>(a) * b >> 64);
}
SESEG_FUNCTION u32 funnel_left(u32 low, u32 high, u32 bits) {
    return static_cast<u32>((static_cast<u64>(high) << 32 | low) << (bits & 31) >> 32);
}
SESEG_FUNCTION u32 funnel_right(u32 low, u32 high, u32 bits) {
    return static_cast<u32>((static_cast<u64>(high) << 32 | low) >> (bits & 31));
}
SESEG_FUNCTION i32 dot4(u32 bytes, i32 signed_bytes, i32 sum) {
    for (u32 i = 0; i < 4; ++i) {
        const i32 weight = static_cast<signed char>(static_cast<u32>(signed_bytes) >> 8 * i & 255);
        sum += static_cast<i32>(bytes >> 8 * i & 255) * weight;
    }
    return sum;
}
SESEG_FUNCTION u32 dot2_low(u32 halves, u32 bytes, u32 sum) {
    return sum + (halves & 0xffff) * (bytes & 255) + (halves >> 16) * (bytes >> 8 & 255);
}
SESEG_FUNCTION u32 dot2_high(u32 halves, u32 bytes, u32 sum) { return dot2_low(halves, bytes >> 16, sum); }
#endif

SESEG_FUNCTION u32 smaller(u32 a, u32 b) { return a < b ? a : b; }
SESEG_FUNCTION u32 round_up(u32 value, u32 step) { return (value + step - 1) / step * step; }

// value / divisor, exact for every 32-bit value (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019).
// reciprocal = (2^64 - 1) / divisor + 1; it does not fit for the divisor 1, which is told by its 0.
SESEG_FUNCTION u32 quotient(u32 value, u64 reciprocal) {
    return reciprocal ? static_cast<u32>(multiply_high(reciprocal, value)) : value;
}

// ------------------------------------------------------------------------------------- NEAREST, as Pillow's ImagingScaleAffine

// Fill index[0..size) with the source coordinate of each output coordinate: accumulated, rounding errors included.
SESEG_FUNCTION void nearest_indices(u32 length, u32 size, i32* index) {
    const double step = divide(length, size);
    double position = multiply(step, 0.5);
    for (u32 k = 0; k < size; ++k) {
        const u32 found = static_cast<u32>(position);
        index[k] = static_cast<i32>(found < length ? found : length - 1);
        position = add(position, step);
    }
}

// ------------------------------------------------------------- BICUBIC, as Pillow's precompute_coeffs + normalize_coeffs_8bpc

constexpr i32 PRECISION_BITS = 32 - 8 - 2;
constexpr i32 HALF = 1 << (PRECISION_BITS - 1);

SESEG_FUNCTION double bicubic(double x) {
    const double a = -0.5;
    if (x < 0.0) x = -x;
    if (x < 1.0) return add(multiply(multiply(add(multiply(a + 2.0, x), -(a + 3.0)), x), x), 1.0);
    if (x < 2.0) return multiply(add(multiply(add(multiply(add(x, -5.0), x), 8.0), x), -4.0), a);
    return 0.0;
}

// The taps of one output coordinate: source coordinates first .. first + count - 1, and their weights.
struct Taps {
    double center, inverse_scale, total;
    i32 first, count;

    SESEG_FUNCTION double weight(i32 tap) const {
        return bicubic(multiply(add(add(tap + first, -center), 0.5), inverse_scale));
    }
    // The weight in fixed point, rounded half away from zero after the weights were made to sum to 1.
    SESEG_FUNCTION i32 fixed(i32 tap) const {
        const double share = total != 0.0 ? divide(weight(tap), total) : weight(tap);
        return static_cast<i32>(add(share < 0.0 ? -0.5 : 0.5, multiply(share, 1 << PRECISION_BITS)));
    }
};

SESEG_FUNCTION Taps taps_of(u32 from, u32 to, u32 coordinate) {
    const double scale = divide(from, to);
    const double filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = multiply(2.0, filter_scale);
    Taps taps;
    taps.center = multiply(add(coordinate, 0.5), scale);
    taps.inverse_scale = divide(1.0, filter_scale);
    i32 first = static_cast<i32>(add(add(taps.center, -support), 0.5));
    i32 last = static_cast<i32>(add(add(taps.center, support), 0.5));
    first = first < 0 ? 0 : first;
    last = last > static_cast<i32>(from) ? static_cast<i32>(from) : last;
    taps.first = first;
    taps.count = last - first;
    taps.total = 0.0;
    for (i32 tap = 0; tap < taps.count; ++tap) taps.total = add(taps.total, taps.weight(tap));
    return taps;
}

// Four neighbouring taps with their weights cut for the byte dot products: weight = high * 2^16 + low, high signed, low not.
// A byte 4 x 4 product in 32 bits then costs one dp4a and two dp2a, and is exact: sums wrap, and the true sum fits.
struct alignas(16) Quad {
    i32 first;
    i32 high;
    u32 low01;
    u32 low23;
};

SESEG_FUNCTION Quad quad_of(i32 first, i32 k0, i32 k1, i32 k2, i32 k3) {
    const u32 upper0 = permute(static_cast<u32>(k0 >> 16), static_cast<u32>(k1 >> 16), 0x7740);
    const u32 upper1 = permute(static_cast<u32>(k2 >> 16), static_cast<u32>(k3 >> 16), 0x7740);
    return Quad{first, static_cast<i32>(permute(upper0, upper1, 0x5410)),
                permute(static_cast<u32>(k0), static_cast<u32>(k1), 0x5410),
                permute(static_cast<u32>(k2), static_cast<u32>(k3), 0x5410)};
}

// The taps of an upscaled coordinate as a Quad inside 0 .. from - 1. Upscaling has four taps: first = floor(center - 1.5) is computed
// without error, and where rounding makes last = floor(center + 2.5) one too large, that tap is 2 away from the center and weighs 0.
SESEG_FUNCTION Quad quad_taps(u32 from, u32 to, u32 coordinate) {
    const Taps taps = taps_of(from, to, coordinate);
    i32 first = taps.first, k[4];
    for (i32 tap = 0; tap < 4; ++tap) k[tap] = tap < taps.count ? taps.fixed(tap) : 0;
    for (i32 step = 0; step < 3; ++step) {
        if (first <= static_cast<i32>(from) - 4) break;
        k[3] = k[2], k[2] = k[1], k[1] = k[0], k[0] = 0;
        --first;
    }
    return quad_of(first, k[0], k[1], k[2], k[3]);
}

// The coordinate itself, with weight 1: the pass that changes nothing, over `from` >= 4 coordinates.
SESEG_FUNCTION Quad quad_identity(u32 from, u32 coordinate) {
    const i32 one = 1 << PRECISION_BITS;
    const u32 first = smaller(coordinate, from - 4), tap = coordinate - first;
    return quad_of(static_cast<i32>(first), tap == 0 ? one : 0, tap == 1 ? one : 0, tap == 2 ? one : 0,
                   tap == 3 ? one : 0);
}

// Half plus the sum of four bytes times their weights, in fixed point. The byte of the lowest address weighs k0.
SESEG_FUNCTION i32 convolve(u32 bytes, const Quad& quad) {
    u32 sum = static_cast<u32>(dot4(bytes, quad.high, HALF >> 16)) << 16;
    sum = dot2_low(quad.low01, bytes, sum);
    return static_cast<i32>(dot2_high(quad.low23, bytes, sum));
}

// Pillow's clip8.
SESEG_FUNCTION u32 clip(i32 sum) {
    const i32 value = sum >> PRECISION_BITS;
    const i32 most = value < 255 ? value : 255;
    return static_cast<u32>(most > 0 ? most : 0);
}

// Turn a 4 x 4 block of bytes: word i of the result holds byte i of each row, the first row in the lowest byte.
struct Columns {
    u32 at[4];
};
SESEG_FUNCTION Columns transpose(u32 row0, u32 row1, u32 row2, u32 row3) {
    const u32 a = permute(row0, row1, 0x5140), b = permute(row2, row3, 0x5140);
    const u32 c = permute(row0, row1, 0x7362), d = permute(row2, row3, 0x7362);
    return Columns{{permute(a, b, 0x5410), permute(a, b, 0x7632), permute(c, d, 0x5410), permute(c, d, 0x7632)}};
}

// ------------------------------------------------------------------------------------------------------------- Pillow's paste

// A byte of a word as the float 2^23 + byte: putting it under the exponent of 2^23 costs one permutation and no conversion.
constexpr u32 MAGIC_BITS = 0x4B000000;
constexpr float MAGIC = 8388608.0f;

SESEG_FUNCTION float lifted(u32 word, u32 byte) { return as_float(permute(word, MAGIC_BITS, 0x7540 | byte)); }

// The share of the colour in a pixel: map / 255 or, for `se`, 1 - map / 255. The fused step is exact.
struct Share {
    float sign, offset;
};
SESEG_FUNCTION Share share_kind(bool rest) { return rest ? Share{-1.0f, MAGIC + 255.0f} : Share{1.0f, -MAGIC}; }
SESEG_FUNCTION float share_of(float lifted_map, Share kind) {
    return fused(lifted_map, kind.sign, kind.offset) * (1.0f / 255.0f);
}

// Pillow blends a = pixel * (255 - m) + colour * m + 128; out = ((a >> 8) + a) >> 8, which is pixel + (colour - pixel) * m / 255
// rounded to the nearest integer. A tie can't be, 255 being odd, and the nearest miss is 1/510 away, 100 times the error of these
// floats; at 2^23 a float's last bit is 1, so the addition rounds as Pillow does. (The tests try all 2^24 cases.)
// Returns a float whose lowest byte is the result.
SESEG_FUNCTION float blend(float lifted_pixel, float lifted_color, float share) {
    return fused(lifted_color - lifted_pixel, share, lifted_pixel);
}

SESEG_FUNCTION u32 pack(float a, float b, float c, float d) {
    return permute(permute(as_bits(a), as_bits(b), 0x0040), permute(as_bits(c), as_bits(d), 0x0040), 0x5410);
}

// ----------------------------------------------------------------------------------------- Philox4x64-10, as numpy.random.Philox

// Block `block` (32 bytes) of numpy.random.Philox(key=...)'s stream of bytes. The counter has 256 bits of which 64 are enough;
// numpy counts up before its first block. Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (2011).
struct Noise {
    u64 at[4];
};
SESEG_FUNCTION Noise philox(u64 key0, u64 key1, u64 block) {
    u64 c0 = block + 1, c1 = 0, c2 = 0, c3 = 0;
    for (i32 round = 0; round < 10; ++round) {
        const u64 m0 = 0xD2E7470EE14C6C93, m1 = 0xCA5A826395121157;
        const u64 high0 = multiply_high(m0, c0), low0 = m0 * c0;
        const u64 high1 = multiply_high(m1, c2), low1 = m1 * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15;
        key1 += 0xBB67AE8584CAA73B;
    }
    return Noise{{c0, c1, c2, c3}};
}

}  // namespace seseg
