// PNG's filter "Up" and a deflate encoder for 8-bit rows of photographs and masks. It uses run lengths and Huffman codes, and no other
// matches: in filtered rows other matches are rare, and the search for them is the slow part of deflate.
//
// The output is a zlib stream (RFC 1950 and RFC 1951). It is deterministic. A block covers at most BLOCK bytes, so that its data stay in a
// core's cache, and is written in the shortest of the three formats: stored, fixed or dynamic Huffman codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "clones.h"

namespace seseg {

constexpr std::size_t BLOCK = std::size_t{1} << 18;
constexpr int LITERALS = 286, DISTANCES = 30, END_OF_BLOCK = 256;
constexpr int MAX_CODE = 12;  // longest code of literals and lengths: four codes and 7 pending bits fit into 64 bits

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are stored in the byte order of the format");

inline std::uint64_t load64(const std::uint8_t* at) {
    std::uint64_t word;
    std::memcpy(&word, at, 8);
    return word;
}

// ---------------------------------------------------------------------------------------------------------------------- Adler-32

// The Adler-32 checksum of RFC 1950. Each stretch is summed without the modulus, so that the compiler can vectorise the loop.
SESEG_CLONES static std::uint32_t adler32(std::uint32_t adler, const std::uint8_t* data, std::size_t size) {
    constexpr std::uint32_t MODULUS = 65521;
    constexpr std::size_t STRETCH = 4096;  // 255 * 4096 * 4097 / 2 < 2^32
    std::uint32_t low = adler & 0xffff, high = adler >> 16;
    while (size > 0) {
        const std::uint32_t length = static_cast<std::uint32_t>(std::min(size, STRETCH));
        std::uint32_t sum = 0, weighted = 0;
        for (std::uint32_t i = 0; i < length; ++i) {
            sum += data[i];
            weighted += data[i] * (length - i);
        }
        high = static_cast<std::uint32_t>((high + std::uint64_t{low} * length + weighted) % MODULUS);
        low = (low + sum) % MODULUS;
        data += length;
        size -= length;
    }
    return high << 16 | low;
}

// ------------------------------------------------------------------------------------------------------------------------- codes

struct Code {
    std::uint16_t bits = 0;
    std::uint16_t length = 0;
};

// Compute the code lengths of a prefix code, none longer than `limit`, into lengths[0..count). The code is optimal if the limit does not
// apply: Moffat and Katajainen, "In-place calculation of minimum-redundancy codes" (1995). Otherwise lengths are adjusted until the Kraft
// sum is 1 again.
inline void code_lengths(const std::uint32_t* frequencies, int count, int limit, std::uint8_t* lengths) {
    std::fill(lengths, lengths + count, std::uint8_t{0});
    std::vector<std::uint64_t> used;  // frequency and symbol in one number: a total order, so the result is deterministic
    for (int symbol = 0; symbol < count; ++symbol)
        if (frequencies[symbol]) used.push_back(std::uint64_t{frequencies[symbol]} << 16 | static_cast<std::uint64_t>(symbol));
    const int n = static_cast<int>(used.size());
    if (n < 2) {
        if (n == 1) lengths[used[0] & 0xffff] = 1;
        return;
    }
    std::sort(used.begin(), used.end());
    std::vector<std::uint64_t> a(used.size());
    for (int i = 0; i < n; ++i) a[i] = used[i] >> 16;
    a[0] += a[1];
    int root = 0, leaf = 2;
    for (int next = 1; next < n - 1; ++next) {
        for (int side = 0; side < 2; ++side) {
            std::uint64_t weight;
            if (leaf >= n || (root < next && a[root] < a[leaf])) {
                weight = a[root];
                a[root++] = static_cast<std::uint64_t>(next);  // replace the weight by the parent's index
            } else {
                weight = a[leaf++];
            }
            a[next] = side == 0 ? weight : a[next] + weight;
        }
    }
    a[n - 2] = 0;
    for (int next = n - 3; next >= 0; --next) a[next] = a[a[next]] + 1;
    int available = 1, inner = 0, depth = 0, next = n - 1;
    root = n - 2;
    std::vector<int> of_length(static_cast<std::size_t>(n) + 1, 0);
    while (available > 0) {
        while (root >= 0 && a[root] == static_cast<std::uint64_t>(depth)) ++inner, --root;
        while (available > inner) ++of_length[depth], --next, --available;
        available = 2 * inner;
        ++depth;
        inner = 0;
    }
    for (int length = limit + 1; length <= n; ++length) of_length[std::min(limit, n)] += of_length[length], of_length[length] = 0;
    std::uint64_t kraft = 0;
    for (int length = 1; length <= std::min(limit, n); ++length) kraft += static_cast<std::uint64_t>(of_length[length]) << (limit - length);
    for (; kraft > std::uint64_t{1} << limit; --kraft) {  // lengthen a shorter code by a bit; one of the longest becomes its sibling
        --of_length[limit];
        for (int length = limit - 1; length > 0; --length) {
            if (!of_length[length]) continue;
            --of_length[length];
            of_length[length + 1] += 2;
            break;
        }
    }
    int index = n - 1;
    for (int length = 1; length <= std::min(limit, n); ++length)
        for (int i = 0; i < of_length[length]; ++i) lengths[used[index--] & 0xffff] = static_cast<std::uint8_t>(length);
}

// Assign the canonical codes of RFC 1951, with their bits reversed as the format stores them.
inline void assign_codes(const std::uint8_t* lengths, int count, Code* codes) {
    std::uint32_t of_length[17] = {0}, next[17] = {0};
    for (int symbol = 0; symbol < count; ++symbol) ++of_length[lengths[symbol]];
    of_length[0] = 0;
    for (int length = 1; length <= 15; ++length) next[length + 1] = (next[length] + of_length[length]) << 1;
    for (int symbol = 0; symbol < count; ++symbol) {
        const int length = lengths[symbol];
        std::uint32_t code = length ? next[length]++ : 0, turned = 0;
        for (int bit = 0; bit < length; ++bit, code >>= 1) turned = turned << 1 | (code & 1);
        codes[symbol] = Code{static_cast<std::uint16_t>(turned), static_cast<std::uint16_t>(length)};
    }
}

// The symbol of a match length of 3 to 258, and the extra bits that follow it.
struct Length {
    int symbol;
    int extra_bits;
    std::uint32_t extra;
};
inline Length length_of(std::size_t match) {
    if (match == 258) return {285, 0, 0};
    const std::uint32_t value = static_cast<std::uint32_t>(match - 3);
    if (value < 8) return {257 + static_cast<int>(value), 0, 0};
    const int bits = 29 - __builtin_clz(value);  // 8..15: 1, and so on
    return {257 + 4 * (bits + 1) + static_cast<int>(value >> bits & 3), bits, value & ((1u << bits) - 1)};
}

// Split a run into matches of 3 to 258 bytes and call take(length) for each.
template <typename Take>
inline void cut_run(std::size_t run, Take take) {
    while (run > 258) {
        const std::size_t match = run - 258 < 3 ? 255 : 258;
        take(match);
        run -= match;
    }
    take(run);
}

// -------------------------------------------------------------------------------------------------------------------------- bits

class Bits {
  public:
    explicit Bits(std::uint8_t* out) : at_(out) {}

    void put(std::uint32_t bits, int count) {
        held_ |= std::uint64_t{bits} << count_;
        count_ += static_cast<std::uint32_t>(count);
        flush();
    }
    void put(Code code) { put(code.bits, code.length); }

    // Write four codes of at most MAX_CODE bits each.
    void put4(Code a, Code b, Code c, Code d) {
        const std::uint64_t left = a.bits | std::uint64_t{b.bits} << a.length, right = c.bits | std::uint64_t{d.bits} << c.length;
        const std::uint32_t left_count = a.length + b.length;
        held_ |= (left | right << left_count) << count_;
        count_ += left_count + c.length + d.length;
        flush();
    }

    void align() {
        if (count_) *at_++ = static_cast<std::uint8_t>(held_);
        held_ = count_ = 0;
    }

    // Write whole bytes. Call align() first.
    void copy(const void* data, std::size_t size) {
        std::memcpy(at_, data, size);
        at_ += size;
    }

    std::uint8_t* end() const { return at_; }

  private:
    // Store 8 bytes and advance by the complete ones. The output needs room for all 8.
    void flush() {
        std::memcpy(at_, &held_, 8);
        at_ += count_ >> 3;
        held_ >>= count_ & ~7u;
        count_ &= 7;
    }

    std::uint8_t* at_;
    std::uint64_t held_ = 0;
    std::uint32_t count_ = 0;  // below 8 between calls
};

// ------------------------------------------------------------------------------------------------------------------------ blocks

constexpr int ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

// The header of a dynamic block: its code lengths, with runs of equal lengths as the symbols 16, 17 and 18 (RFC 1951, 3.2.7).
class Header {
  public:
    Header(const std::uint8_t* literals, int literal_count, const std::uint8_t* distances, int distance_count)
        : literal_count_(literal_count), distance_count_(distance_count) {
        std::vector<std::uint8_t> all(literals, literals + literal_count);
        all.insert(all.end(), distances, distances + distance_count);
        for (std::size_t i = 0; i < all.size();) {
            std::size_t same = 1;
            while (i + same < all.size() && all[i + same] == all[i]) ++same;
            i += same;
            const std::uint8_t value = all[i - 1];
            if (value) add(value, 0, 0), --same;
            while (same >= 3) {
                const std::size_t most = value ? 6 : 138, taken = std::min(same, most);
                if (value) add(16, static_cast<std::uint32_t>(taken - 3), 2);
                else if (taken <= 10) add(17, static_cast<std::uint32_t>(taken - 3), 3);
                else add(18, static_cast<std::uint32_t>(taken - 11), 7);
                same -= taken;
            }
            for (; same > 0; --same) add(value, 0, 0);
        }
        std::uint8_t lengths[19];
        code_lengths(frequencies_, 19, 7, lengths);
        assign_codes(lengths, 19, codes_);
        for (shown_ = 19; shown_ > 4 && !lengths[ORDER[shown_ - 1]];) --shown_;
    }

    std::uint64_t bits() const {
        std::uint64_t sum = 5 + 5 + 4 + 3 * static_cast<std::uint64_t>(shown_);
        for (const Item& item : items_) sum += codes_[item.symbol].length + static_cast<std::uint64_t>(item.extra_bits);
        return sum;
    }

    void write(Bits& out) const {
        out.put(static_cast<std::uint32_t>(literal_count_ - 257), 5);
        out.put(static_cast<std::uint32_t>(distance_count_ - 1), 5);
        out.put(static_cast<std::uint32_t>(shown_ - 4), 4);
        for (int i = 0; i < shown_; ++i) out.put(codes_[ORDER[i]].length, 3);
        for (const Item& item : items_) {
            out.put(codes_[item.symbol]);
            out.put(item.extra, item.extra_bits);
        }
    }

  private:
    struct Item {
        int symbol;
        std::uint32_t extra;
        int extra_bits;
    };
    void add(int symbol, std::uint32_t extra, int extra_bits) {
        items_.push_back({symbol, extra, extra_bits});
        ++frequencies_[symbol];
    }

    int literal_count_, distance_count_, shown_ = 19;
    std::vector<Item> items_;
    std::uint32_t frequencies_[19] = {0};
    Code codes_[19];
};

struct Run {
    std::uint32_t start, length;
};

// Find stretches that repeat the byte before them and contain an aligned word: all runs of 15 bytes and more, and none under 8. (A match
// saves few bits for a shorter run, and a search at every byte would take longer than everything else but the writing.)
inline void find_runs(const std::uint8_t* data, std::size_t size, std::vector<Run>& runs) {
    runs.clear();
    std::size_t covered = 1;  // no byte precedes the first
    for (std::size_t at = 8; at + 8 <= size; at += 8) {
        if (load64(data + at) != load64(data + at - 1)) continue;
        std::size_t start = at, end = at + 8;
        while (start > covered && data[start - 1] == data[start - 2]) --start;
        while (end + 8 <= size && load64(data + end) == load64(data + end - 1)) end += 8;
        while (end < size && data[end] == data[end - 1]) ++end;
        runs.push_back({static_cast<std::uint32_t>(start), static_cast<std::uint32_t>(end - start)});
        covered = end;
        at = end & ~std::size_t{7};  // the word with the run's end can't be inside another run
    }
}

struct Codes {
    Code literals[LITERALS];
    Code distance;
};

inline void count_symbols(const std::uint8_t* data, std::size_t size, const std::vector<Run>& runs, std::uint32_t* frequencies) {
    std::uint32_t tables[4][256] = {};  // four tables, so that equal neighbours don't wait for each other's increments
    std::fill(frequencies, frequencies + LITERALS, 0u);
    std::size_t at = 0;
    const auto count = [&](std::size_t end) {
        for (; at + 4 <= end; at += 4)
            for (std::size_t i = 0; i < 4; ++i) ++tables[i][data[at + i]];
        for (; at < end; ++at) ++tables[0][data[at]];
    };
    for (const Run& run : runs) {
        count(run.start);
        cut_run(run.length, [&](std::size_t match) { ++frequencies[length_of(match).symbol]; });
        at = run.start + run.length;
    }
    count(size);
    for (int byte = 0; byte < 256; ++byte) frequencies[byte] = tables[0][byte] + tables[1][byte] + tables[2][byte] + tables[3][byte];
    frequencies[END_OF_BLOCK] = 1;
}

inline void write_symbols(Bits& out, const std::uint8_t* data, std::size_t size, const std::vector<Run>& runs, const Codes& codes) {
    std::size_t at = 0;
    const Code* literals = codes.literals;
    const auto write = [&](std::size_t end) {
        Bits local = out;
        for (; at + 4 <= end; at += 4)
            local.put4(literals[data[at]], literals[data[at + 1]], literals[data[at + 2]], literals[data[at + 3]]);
        for (; at < end; ++at) local.put(literals[data[at]]);
        out = local;
    };
    for (const Run& run : runs) {
        write(run.start);
        cut_run(run.length, [&](std::size_t match) {
            const Length length = length_of(match);
            out.put(literals[length.symbol]);
            out.put(length.extra, length.extra_bits);
            out.put(codes.distance);
        });
        at = run.start + run.length;
    }
    write(size);
    out.put(literals[END_OF_BLOCK]);
}

inline void write_stored(Bits& out, const std::uint8_t* data, std::size_t size, bool last) {
    do {
        const std::uint16_t length = static_cast<std::uint16_t>(std::min<std::size_t>(size, 65535));
        size -= length;
        out.put(last && size == 0, 3);
        out.align();
        const std::uint16_t lengths[2] = {length, static_cast<std::uint16_t>(~length)};
        out.copy(lengths, 4);
        out.copy(data, length);
        data += length;
    } while (size > 0);
}

// Write a block in the shortest of the three formats. `runs` is scratch memory.
inline void write_block(Bits& out, const std::uint8_t* data, std::size_t size, bool last, std::vector<Run>& runs) {
    std::uint32_t frequencies[LITERALS];
    find_runs(data, size, runs);
    count_symbols(data, size, runs, frequencies);

    std::uint8_t dynamic[LITERALS], fixed[288];
    code_lengths(frequencies, LITERALS, MAX_CODE, dynamic);
    for (int symbol = 0; symbol < 288; ++symbol) fixed[symbol] = symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8;
    int shown = LITERALS;
    while (shown > 257 && !dynamic[shown - 1]) --shown;
    const std::uint8_t one_distance = runs.empty() ? 0 : 1;  // RFC 1951, 3.2.7: a single distance code has one bit
    const Header header(dynamic, shown, &one_distance, 1);

    std::uint64_t dynamic_bits = header.bits(), fixed_bits = 0;
    for (int symbol = 0; symbol < LITERALS; ++symbol) {
        const std::uint64_t extra = symbol < 265 || symbol == 285 ? 0 : static_cast<std::uint64_t>((symbol - 261) / 4);
        const std::uint64_t each_distance = symbol > END_OF_BLOCK ? 1 : 0;
        dynamic_bits += frequencies[symbol] * (dynamic[symbol] + extra + each_distance);
        fixed_bits += frequencies[symbol] * (fixed[symbol] + extra + 5 * each_distance);
    }
    if (std::min(dynamic_bits, fixed_bits) / 8 >= size + 5 * (size / 65535 + 1)) return write_stored(out, data, size, last);
    Codes codes;
    out.put(last, 1);
    if (fixed_bits <= dynamic_bits) {
        Code all[288];
        assign_codes(fixed, 288, all);
        std::copy(all, all + LITERALS, codes.literals);
        codes.distance = Code{0, 5};
        out.put(1, 2);
    } else {
        assign_codes(dynamic, LITERALS, codes.literals);
        codes.distance = Code{0, 1};
        out.put(2, 2);
        header.write(out);
    }
    write_symbols(out, data, size, runs, codes);
}

// ------------------------------------------------------------------------------------------------------------------------ images

SESEG_CLONES static void subtract(const std::uint8_t* row, const std::uint8_t* above, std::size_t length, std::uint8_t* out) {
    for (std::size_t x = 0; x < length; ++x) out[x] = static_cast<std::uint8_t>(row[x] - above[x]);
}

// An upper bound for the output of compress_rows: every block stored, and 8 bytes beyond the end that a flush may touch.
inline std::size_t compressed_bound(std::size_t height, std::size_t length) {
    const std::size_t size = height * (length + 1);
    const std::size_t blocks = size / BLOCK + height / std::max<std::size_t>(1, BLOCK / (length + 1)) + 2;
    return size + size / 65535 * 5 + blocks * 16 + 64;
}

// Filter `height` rows of `length` bytes, `pitch` bytes apart, and write them to `out` as a zlib stream; return its size in bytes.
inline std::size_t compress_rows(const std::uint8_t* rows, std::size_t height, std::size_t length, std::size_t pitch, std::uint8_t* out) {
    constexpr std::uint8_t FILTER_UP = 2;
    const std::size_t step = std::max<std::size_t>(1, BLOCK / (length + 1));
    std::vector<std::uint8_t> filtered(std::min(step, height) * (length + 1));
    std::vector<Run> runs;
    std::uint32_t adler = 1;
    const std::uint8_t header[2] = {0x78, 0x01};  // RFC 1950: deflate with a window of 32 KiB, fastest level
    Bits bits(out);
    bits.copy(header, 2);
    for (std::size_t top = 0; top < height; top += step) {
        const std::size_t bottom = std::min(height, top + step);
        std::uint8_t* to = filtered.data();
        for (std::size_t y = top; y < bottom; ++y, to += length + 1) {
            const std::uint8_t* row = rows + y * pitch;
            to[0] = FILTER_UP;
            if (y == 0) {  // PNG defines the row above the first as zeros
                std::memcpy(to + 1, row, length);
                continue;
            }
            const std::uint8_t* above = row - pitch;
            subtract(row, above, length, to + 1);
        }
        const std::size_t size = static_cast<std::size_t>(to - filtered.data());
        adler = adler32(adler, filtered.data(), size);
        for (std::size_t at = 0; at < size; at += BLOCK)
            write_block(bits, filtered.data() + at, std::min(BLOCK, size - at), bottom == height && at + BLOCK >= size, runs);
    }
    bits.align();
    const std::uint8_t checksum[4] = {static_cast<std::uint8_t>(adler >> 24), static_cast<std::uint8_t>(adler >> 16),
                                      static_cast<std::uint8_t>(adler >> 8), static_cast<std::uint8_t>(adler)};
    bits.copy(checksum, 4);
    return static_cast<std::size_t>(bits.end() - out);
}

}  // namespace seseg
