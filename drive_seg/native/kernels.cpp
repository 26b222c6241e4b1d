// The steps of a folded DSNet on a processor, for drive_seg/native/program.py.
//
// A tensor is [height, width, channels], a pixel's channels side by side and as many of them as fill whole vectors. It
// holds float, bfloat16, or bytes from 0 to 255. Four bytes, a group of 1, 2 or 4 channels, are what one multiply-add
// takes of a pixel: it is broadcast and meets a vector of weights, one for each output channel. A convolution keeps the
// sums of some pixels and up to four vectors of channels in registers until all its inputs went in.
//
// An input need not lie in one tensor: a convolution reads pieces, runs of channels of any tensor, one after the other.
// So nothing is ever copied to be split, shuffled or joined. Rows outside the image are left out; columns outside it
// are zeros that lie beside the rows in memory.

#include <cstdint>
#include <cstring>
#include <cmath>
#include <algorithm>
#include <utility>
#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
#else
constexpr int LANES = 4;
constexpr int REGISTERS = 32;
#endif

constexpr int PIECES = 40;
constexpr int TAPS = 9;
constexpr int WIDEST = 512;  // channels of a pixel

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

enum Type : int32_t { FLOAT = 0, BFLOAT = 1, BYTE = 2 };
enum Kind : int32_t { CONVOLUTION = 0, FIRST = 1, POOL = 2, UNPOOL = 3, AVERAGE = 4, GATE = 5, WEIGH = 6, DECIDE = 7 };

// Channels of a tensor: where those of its first pixel lie, and how many bytes further the next pixel's and row's.
struct Piece {
    const char* data;
    int64_t pixel, row;
    int32_t channels;  // for a convolution: groups of them
    int32_t type;
    float factor;      // what is stored times this is what it means; 1 but for bytes
    int32_t wrap;      // if not 0: only so many rows are there, each thread's own, over and over
    int64_t thread;    // bytes from one thread's rows to the next one's

    const char* at(int64_t y, int64_t x, int number) const {
        return data + number * thread + (wrap ? y % wrap : y) * row + x * pixel;
    }
};

// One step. Its fields are those of steps.Step in Python, where it is said what they mean.
struct Step {
    int32_t kind, reads, writes, relu, together, rows;
    int32_t height, width, in_height, in_width, stride;
    int32_t vectors, passes, channels;
    int32_t taps, dy[TAPS], dx[TAPS];
    int32_t pieces;
    Piece in[PIECES];
    int32_t by, below, beside;
    Piece out, also;
    const float *weights, *scale, *bias;

    char* to(int y, int x, int number) const {
        return const_cast<char*>(out.at((int64_t)y * by + below, (int64_t)x * by + beside, number));
    }
};

inline Floats load(const float* from) {
    Floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

inline Floats all(float value) { return Floats{} + value; }

inline Floats positive(Floats v) { return v > 0.0f ? v : Floats{}; }

// --- Multiply-adds ----------------------------------------------------------------------------------------------

struct OfFloats {
    typedef Floats Sum;
    static inline Sum add(Sum sum, Floats weights, const char* group) {
        float value;
        std::memcpy(&value, group, 4);
        return sum + weights * value;
    }
    static inline Floats floats(Sum sum) { return sum; }
};

#if defined(__AVX512BF16__)
struct OfBfloats {
    typedef Floats Sum;
    static inline Sum add(Sum sum, Floats weights, const char* group) {
        int32_t pair;
        std::memcpy(&pair, group, 4);
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(pair));
    }
    static inline Floats floats(Sum sum) { return sum; }
};
#endif

#if defined(__AVX512VNNI__)
struct OfBytes {
    typedef Ints Sum;
    static inline Sum add(Sum sum, Floats weights, const char* group) {
        int32_t four;
        std::memcpy(&four, group, 4);
        return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), (__m512i)weights);
    }
    static inline Floats floats(Sum sum) { return (Floats)_mm512_cvtepi32_ps((__m512i)sum); }
};
#endif

// --- What is stored ---------------------------------------------------------------------------------------------

inline int64_t size_of(int32_t type) { return type == FLOAT ? 4 : type == BFLOAT ? 2 : 1; }

// A vector of numbers, already in units of what is stored, rounded to the nearest.
inline void put(int32_t type, char* to, Floats v) {
    if (type == FLOAT) {
        store((float*)to, v);
        return;
    }
#if defined(__AVX512BF16__)
    if (type == BFLOAT) {
        __m256bh half = _mm512_cvtneps_pbh((__m512)v);
        std::memcpy(to, &half, sizeof half);
    }
#endif
#if defined(__AVX512VNNI__)
    if (type == BYTE) {
        __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32((__m512)v));
        std::memcpy(to, &bytes, sizeof bytes);
    }
#endif
}

// The first `count` numbers of a vector, which may be none or all.
inline void put_some(float* to, Floats v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, count >= LANES ? 0xffff : (1u << std::max(count, 0)) - 1, (__m512)v);
#else
    for (int lane = 0; lane < std::min(count, LANES); lane++) to[lane] = v[lane];
#endif
}

inline Floats get(int32_t type, const char* from) {
#if defined(__AVX512BF16__)
    if (type == BFLOAT) {
        __m256i half;
        std::memcpy(&half, from, sizeof half);
        return (Floats)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
#endif
    if (type == BYTE) {
        Bytes bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        return __builtin_convertvector(bytes, Floats);
    }
    return load((const float*)from);
}

// --- Convolution ------------------------------------------------------------------------------------------------

// Sums of P pixels in a row, from (y, x) of the output on, and of N vectors of channels.
template <class Of, int P, int N>
__attribute__((noinline)) void tile(const Step& s, int y, int x, int pass, int number) {
    constexpr int TRIPLES = (P + 2) / 3;
    typename Of::Sum sums[P][N] = {};
    int64_t groups = 0;
    for (int k = 0; k < s.pieces; k++) groups += s.in[k].channels;
    const float* w = s.weights + pass * s.taps * groups * N * LANES;
    if (s.taps == 1 && pass == 0)
        // Pieces of many tensors are more streams than the processor foresees: ask for the next tile's.
        for (int k = 0; k < s.pieces; k++)
            for (int p = P; p < 2 * P; p++)
                for (int line = 0; line < 4 * s.in[k].channels; line += 64)
                    __builtin_prefetch(s.in[k].at(y * s.stride, (x + p) * s.stride, number) + line);
    for (int t = 0; t < s.taps; t++) {
        const int in_y = y * s.stride + s.dy[t], in_x = x * s.stride + s.dx[t];
        if (in_y < 0 || in_y >= s.in_height || in_x + (P - 1) * s.stride < 0 || in_x >= s.in_width) {
            w += groups * N * LANES;
            continue;
        }
        for (int k = 0; k < s.pieces; k++) {
            const Piece& piece = s.in[k];
            const int64_t step = piece.pixel * s.stride;
            // Three pixels share a pointer: an address is a pointer and the step once or twice.
            const char* at[TRIPLES];
            for (int i = 0; i < TRIPLES; i++) at[i] = piece.at(in_y, in_x, number) + 3 * i * step;
            for (int g = piece.channels; g; g--) {
                Floats weights[N];
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) weights[n] = load(w + n * LANES);
#pragma GCC unroll 16
                for (int p = 0; p < P; p++) {
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) sums[p][n] = Of::add(sums[p][n], weights[n], at[p / 3] + (p % 3) * step);
                }
#pragma GCC unroll 8
                for (int i = 0; i < TRIPLES; i++) at[i] += 4;
                w += N * LANES;
            }
        }
    }
    const int first = pass * N * LANES;
    const int64_t size = size_of(s.writes), step = s.by * s.out.pixel;
    char* to = s.to(y, x, number) + first * size;
    Floats scale[N], bias[N];
    for (int n = 0; n < N; n++) {
        scale[n] = s.scale ? load(s.scale + first + n * LANES) : all(1.0f);
        bias[n] = load(s.bias + first + n * LANES);
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; p++, to += step) {
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            Floats v = Of::floats(sums[p][n]) * scale[n] + bias[n];
            if (s.relu) v = positive(v);
            if (s.channels)
                put_some((float*)to + n * LANES, v, s.channels - first - n * LANES);
            else
                put(s.writes, to + n * LANES * size, v);
        }
    }
}

typedef void (*Tile)(const Step&, int, int, int, int);

// As many pixels as leave registers for the weights and one broadcast number.
template <int N>
constexpr int MOST = std::min(12, (REGISTERS - N - 2) / N);

template <class Of, int N>
Tile tile_of(int pixels) {
    static constexpr Tile tiles[] = {
        tile<Of, 1, N>,
        tile<Of, std::min(2, MOST<N>), N>,
        tile<Of, std::min(3, MOST<N>), N>,
        tile<Of, std::min(4, MOST<N>), N>,
        tile<Of, std::min(5, MOST<N>), N>,
        tile<Of, std::min(6, MOST<N>), N>,
        tile<Of, std::min(7, MOST<N>), N>,
        tile<Of, std::min(8, MOST<N>), N>,
        tile<Of, std::min(9, MOST<N>), N>,
        tile<Of, std::min(10, MOST<N>), N>,
        tile<Of, std::min(11, MOST<N>), N>,
        tile<Of, std::min(12, MOST<N>), N>,
    };
    return tiles[pixels - 1];
}

// A convolution of the pieces; `bias` and `scale` are in units of what is stored.
template <class Of, int N>
void convolve(const Step& s, int begin, int end, int number) {
    // Tiles of a row differ by a pixel at most.
    const int count = (s.width + MOST<N> - 1) / MOST<N>, shortest = s.width / count, longer = s.width % count;
    const Tile small = tile_of<Of, N>(shortest), large = longer ? tile_of<Of, N>(shortest + 1) : small;
    for (int y = begin; y < end; y++)
        for (int pass = 0; pass < s.passes; pass++)
            for (int i = 0, x = 0; i < count; x += shortest + (i < longer), i++) (i < longer ? large : small)(s, y, x, pass, number);
}

template <class Of>
void convolve(const Step& s, int begin, int end, int number) {
    switch (s.vectors) {
        case 1: return convolve<Of, 1>(s, begin, end, number);
        case 2: return convolve<Of, 2>(s, begin, end, number);
        case 4: return convolve<Of, 4>(s, begin, end, number);
    }
}

// --- The other steps --------------------------------------------------------------------------------------------

// The init unit: in[0], in[1], in[2] are the planes of the image, float. Of each plane nine vectors of weights, for a
// 3x3 convolution of stride 2, then one of factors for its 2x2 maximum. To `out` as float, and to `also` in its type.
// P pixels from (y, x) on; LEFT: the first one of a row, which has no column beside it.
template <int P, bool LEFT>
inline void first_of(const Step& s, int y, int x, int lane, int number) {
    Floats sums[P];
    for (int p = 0; p < P; p++) sums[p] = load(s.bias + lane);
    const float* w = s.weights + lane;
    for (int c = 0; c < 3; c++) {
        const Piece& plane = s.in[c];
        const auto value = [](const char* at) {
            float v;
            std::memcpy(&v, at, 4);
            return v;
        };
        const char* row = plane.at(2 * y - 1, 2 * x - 1, 0);
        for (int i = 0; i < 3; i++, row += plane.row)
            for (int j = 0; j < 3; j++, w += s.channels) {
                if (2 * y + i == 0 || (LEFT && j == 0)) continue;
                const Floats weights = load(w);
                const char* at = row + j * plane.pixel;
#pragma GCC unroll 8
                for (int p = 0; p < P; p++) sums[p] += weights * value(at + 2 * p * plane.pixel);
            }
        const Floats factors = load(w);
        w += s.channels;
        const char *upper = plane.at(2 * y, 2 * x, 0), *lower = upper + plane.row;
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            float most = value(upper + 2 * p * plane.pixel);
            most = std::max(most, value(upper + (2 * p + 1) * plane.pixel));
            most = std::max(most, value(lower + 2 * p * plane.pixel));
            most = std::max(most, value(lower + (2 * p + 1) * plane.pixel));
            sums[p] += factors * most;
        }
    }
    char* to = s.to(y, x, number) + 4 * lane;
    char* also = s.also.data ? const_cast<char*>(s.also.at(y, x, number)) + lane * size_of(s.also.type) : nullptr;
    for (int p = 0; p < P; p++) {
        const Floats sum = positive(sums[p]);
        store((float*)(to + p * s.out.pixel), sum);
        if (also) put(s.also.type, also + p * s.also.pixel, sum * (1.0f / s.also.factor));
    }
}

void first(const Step& s, int begin, int end, int number) {
    for (int y = begin; y < end; y++)
        for (int lane = 0; lane < s.channels; lane += LANES) {
            first_of<1, true>(s, y, 0, lane, number);
            int x = 1;
            for (; x + 8 <= s.width; x += 8) first_of<8, false>(s, y, x, lane, number);
            for (; x < s.width; x++) first_of<1, false>(s, y, x, lane, number);
        }
}

// A pixel's channels of the pieces from `from` on, side by side, as what they mean.
inline void gather(const Step& s, int from, int y, int x, int number, float* to) {
    for (int k = from; k < s.pieces; k++) {
        const Piece& piece = s.in[k];
        const char* at = piece.at(y, x, number);
        int i = 0;
        for (; i + LANES <= piece.channels; i += LANES)
            store(to + i, get(piece.type, at + i * size_of(piece.type)) * piece.factor);
        for (; i < piece.channels; i++) {
            if (piece.type == BFLOAT) {
                const uint32_t bits = (uint32_t)((const uint16_t*)at)[i] << 16;
                std::memcpy(to + i, &bits, 4);
            } else {
                to[i] = piece.type == BYTE ? (float)(uint8_t)at[i] * piece.factor : ((const float*)at)[i];
            }
        }
        to += piece.channels;
    }
}

// 2x2 max-pooling of the pieces: the maxima to `out`, and to `also` bytes that say where each stood: 0 to 3 in reading
// order, of equals the first.
void pool(const Step& s, int begin, int end, int number) {
    alignas(64) float four[4][WIDEST] = {};
    for (int y = begin; y < end; y++)
        for (int x = 0; x < s.width; x++) {
            for (int k = 0; k < 4; k++) gather(s, 0, 2 * y + k / 2, 2 * x + k % 2, number, four[k]);
            char* out = s.to(y, x, number);
            char* where = const_cast<char*>(s.also.at(y, x, number));
            for (int i = 0; i < s.channels; i += LANES) {
                const Floats a = load(four[0] + i), b = load(four[1] + i), c = load(four[2] + i), d = load(four[3] + i);
                const Floats upper = b > a ? b : a, lower = d > c ? d : c;
                const Ints in_upper = b > a ? Ints{} + 1 : Ints{}, in_lower = d > c ? Ints{} + 3 : Ints{} + 2;
                const Bytes place = __builtin_convertvector(lower > upper ? in_lower : in_upper, Bytes);
                put(s.writes, out + i * size_of(s.writes), (lower > upper ? lower : upper) * (1.0f / s.out.factor));
                std::memcpy(where + i, &place, sizeof place);
            }
        }
}

// in[0], of half the height and width, each number put back to where in[1] says that its maximum stood, and in[2] added,
// and what the other pieces have side by side.
void unpool(const Step& s, int begin, int end, int number) {
    alignas(64) float skip[WIDEST] = {};
    const Piece &low = s.in[0], &where = s.in[1], &right = s.in[2];
    const float rest = 1.0f / s.out.factor;
    for (int y = begin; y < end; y++) {
        const char* values = low.at(y / 2, 0, number);
        const char* places = where.at(y / 2, 0, number);
        const char* beside = right.at(y, 0, number);
        char* out = s.to(y, 0, number);
        for (int x = 0; x < s.width; x++) {
            if (s.pieces > 3) gather(s, 3, y, x, number, skip);
            const float here = (float)(y % 2 * 2 + x % 2);
            for (int i = 0; i < s.channels; i += LANES) {
                Floats sum = get(right.type, beside + i * size_of(right.type)) * right.factor;
                const Floats value = get(low.type, values + i * size_of(low.type)) * low.factor;
                sum += get(BYTE, places + i) == here ? value : Floats{};
                if (s.pieces > 3) sum += load(skip + i);
                put(s.writes, out + i * size_of(s.writes), sum * rest);
            }
            values += x % 2 * low.pixel;
            places += x % 2 * where.pixel;
            beside += right.pixel;
            out += s.out.pixel;
        }
    }
}

// The sums over each row of the pieces, as float: `out` has a row for each.
void average(const Step& s, int begin, int end, int number) {
    alignas(64) float pixel[WIDEST] = {};
    for (int y = begin; y < end; y++) {
        float* sums = (float*)s.to(y, 0, number);
        std::fill(sums, sums + s.channels, 0.0f);
        for (int x = 0; x < s.width; x++) {
            gather(s, 0, y, x, number, pixel);
            for (int i = 0; i < s.channels; i += LANES) store(sums + i, load(sums + i) + load(pixel + i));
        }
    }
}

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// FBNet's channel sensor, of one pixel: the sums of in[0]'s rows, `in_height` of them with `in_width` pixels each.
void gate(const Step& s) {
    float mean[WIDEST] = {};
    for (int y = 0; y < s.in_height; y++)
        for (int i = 0; i < s.channels; i++) mean[i] += ((const float*)s.in[0].at(y, 0, 0))[i];
    for (int o = 0; o < s.channels; o++) {
        float sum = s.bias[o];
        for (int i = 0; i < s.channels; i++)
            sum += s.weights[o * s.channels + i] * (mean[i] / ((float)s.in_height * s.in_width));
        ((float*)s.to(0, 0, 0))[o] = sigmoid(sum);
    }
}

// FBNet's eq. 7 and addition: the pieces x from the second on, x + x * spatial * channel, with in[0] as what gate() gave.
void weigh(const Step& s, int begin, int end, int number) {
    alignas(64) float pixel[WIDEST] = {};
    const float* channel = (const float*)s.in[0].data;
    for (int y = begin; y < end; y++)
        for (int x = 0; x < s.width; x++) {
            gather(s, 1, y, x, number, pixel);
            Floats products{};
            for (int i = 0; i < s.channels; i += LANES) products += load(pixel + i) * load(s.weights + i);
            float sum = s.bias[0];
            for (int lane = 0; lane < LANES; lane++) sum += products[lane];
            const float spatial = sigmoid(sum);
            char* out = s.to(y, x, number);
            for (int i = 0; i < s.channels; i += LANES) {
                const Floats v = load(pixel + i);
                put(s.writes, out + i * size_of(s.writes), (v + v * load(channel + i) * spatial) * (1.0f / s.out.factor));
            }
        }
}

// e to the power of what is not above 0, to two units in the last place. What is not a number stays so.
inline Floats exponential(Floats x) {
    constexpr float WHOLE = 12582912.0f;  // 1.5 * 2^23: the sum has no bits for a fraction, and a whole number in the lowest
    x = x < -87.0f ? all(-87.0f) : x;
    const Floats shifted = x * 1.44269504f + WHOLE, twos = shifted - WHOLE;
    // The rest of x is within half of ln 2, which stands here as a short number and what that lacks.
    const Floats r = (x - twos * 0.693359375f) + twos * 2.12194440e-4f;
    Floats y = r * (1.0f / 720) + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return (Floats)((Ints)y + ((Ints)shifted << 23));
}

// Of two vectors, what turns the squares of STEP x STEP that they are rows of.
template <int STEP, int... LANE>
inline void exchange(Floats& a, Floats& b, std::integer_sequence<int, LANE...>) {
    const Floats upper = __builtin_shufflevector(a, b, (LANE & STEP ? LANES + LANE - STEP : LANE)...);
    b = __builtin_shufflevector(a, b, (LANE & STEP ? LANES + LANE : LANE + STEP)...);
    a = upper;
}

// Rows become columns.
template <int STEP = 1>
inline void turn(Floats (&rows)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>());
    if constexpr (2 * STEP < LANES) turn<2 * STEP>(rows);
}

// in[0], logits as float: to `out` a byte for each pixel, its class; to `also`, if that is there, how sure that is, the
// logits times its factor, as decide() of drive_seg/decision.py has both; to in[1] the same of each stride-th row.
void decide(const Step& s, int begin, int end, int number) {
    Floats classes[WIDEST];
    for (int y = begin; y < end; y++)
        for (int x = 0; x < s.width; x += LANES) {
            const int count = std::min(LANES, s.width - x);
            for (int c = 0; c < s.channels; c += LANES) {
                Floats pixels[LANES];
                for (int p = 0; p < LANES; p++)
                    pixels[p] = load((const float*)s.in[0].at(y, x + std::min(p, count - 1), number) + c);
                turn(pixels);
                for (int i = 0; i < LANES; i++) classes[c + i] = pixels[i];
            }
            Floats most = classes[0];
            Ints chosen{};
            for (int c = 1; c < s.channels; c++) {
                const Floats v = classes[c];
                // What is not a number counts as the largest, the first of them.
                const Ints larger = ~(v <= most) & (most == most);
                most = larger ? v : most;
                chosen = larger ? Ints{} + c : chosen;
            }
            chosen = most - most == Floats{} ? chosen : Ints{} + 255;  // not finite: no class
            const Bytes ids = __builtin_convertvector(chosen, Bytes);
            std::memcpy(s.to(y, x, number), &ids, count);
            const auto write_sureness = [&](const Piece& to, int row) {
                Floats total{};
                for (int c = 0; c < s.channels; c++) total += exponential((classes[c] - most) * to.factor);
                const Floats share = total == total ? 255.0f / total : Floats{};
                const Bytes sure = __builtin_convertvector((Ints)(share + 8388608.0f) & 255, Bytes);  // 2^23: rounded
                std::memcpy(const_cast<char*>(to.at(row, x, number)), &sure, count);
            };
            if (s.also.data) write_sureness(s.also, y);
            if (s.in[1].data && y % s.stride == 0) write_sureness(s.in[1], y / s.stride);
        }
}

void carry_out(const Step& s, int begin, int end, int number) {
    switch (s.kind) {
        case CONVOLUTION:
#if defined(__AVX512BF16__)
            if (s.reads == BFLOAT) return convolve<OfBfloats>(s, begin, end, number);
#endif
#if defined(__AVX512VNNI__)
            if (s.reads == BYTE) return convolve<OfBytes>(s, begin, end, number);
#endif
            return convolve<OfFloats>(s, begin, end, number);
        case FIRST: return first(s, begin, end, number);
        case POOL: return pool(s, begin, end, number);
        case UNPOOL: return unpool(s, begin, end, number);
        case AVERAGE: return average(s, begin, end, number);
        case GATE: return gate(s);
        case WEIGH: return weigh(s, begin, end, number);
        case DECIDE: return decide(s, begin, end, number);
    }
}

}  // namespace

extern "C" {

// What steps.py must agree with, and whether the processor's bfloat16 and bytes are used.
int32_t drive_seg_lanes() { return LANES; }
int64_t drive_seg_step_bytes() { return sizeof(Step); }
int32_t drive_seg_multiplies_bfloats() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}
int32_t drive_seg_multiplies_bytes() {
#if defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}

// Carries out the steps in turn. Those that go together are carried out row by row, each thread taking some of the rows.
void drive_seg_run(const Step* steps, int32_t count, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; i += steps[i].together) {
        const int rounds = steps[i].height / steps[i].rows;
#pragma omp for schedule(static)
        for (int32_t y = 0; y < rounds; y++)
            for (const Step* s = steps + i; s < steps + i + steps[i].together; s++)
                carry_out(*s, y * s->rows, (y + 1) * s->rows, omp_get_thread_num());
    }
}
}
