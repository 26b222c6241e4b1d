// The steps of a folded network on a processor, for drive_seg/inference/runtimes/native/program.py.
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
enum Kind : int32_t { CONVOLUTION = 0, FIRST = 1, POOL = 2, UNPOOL = 3, AVERAGE = 4, GATE = 5, WEIGH = 6, DECIDE = 7, DEPTHWISE = 8, REGIONS = 9, RESIZE = 10 };

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
    int32_t kind, reads, writes, relu, together, rows, above, ahead;
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

// By a step's `relu`: 0 is none, 1 is ReLU, 6 is ReLU6.
inline Floats activated(int32_t relu, Floats v) {
    if (relu) v = positive(v);
    if (relu == 6) v = v > 6.0f ? all(6.0f) : v;
    return v;
}

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
    // What is added to the result: a residual, or what was brought to this size.
    const int64_t size_more = size_of(s.also.type);
    const char* more = s.also.data ? s.also.at(y, x, number) + first * size_more : nullptr;
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
            v = activated(s.relu, v);
            if (more) v += get(s.also.type, more + p * s.also.pixel + n * LANES * size_more);
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
        case 3: return convolve<Of, 3>(s, begin, end, number);
        case 4: return convolve<Of, 4>(s, begin, end, number);
    }
}

// --- The other steps --------------------------------------------------------------------------------------------

// A 3x3 convolution of stride 2 over an image: in[0], in[1], in[2] are its planes, float. Of each plane nine vectors of
// weights; with ten `taps` one more, of factors for its 2x2 maximum (DSNet's init unit). To `out` as float, and to `also`,
// if that is there, in its type. P pixels from (y, x) on; EDGE: some of what they read may lie beside the image.
template <int P, bool EDGE>
inline void first_of(const Step& s, int y, int x, int lane, int number) {
    Floats sums[P];
    for (int p = 0; p < P; p++) sums[p] = load(s.bias + lane);
    const float* w = s.weights + lane;
    const int top = 2 * y + s.dy[0], left = 2 * x + s.dx[0];
    for (int c = 0; c < 3; c++) {
        const Piece& plane = s.in[c];
        const auto value = [](const char* at) {
            float v;
            std::memcpy(&v, at, 4);
            return v;
        };
        const char* row = plane.at(top, left, 0);
        for (int i = 0; i < 3; i++, row += plane.row)
            for (int j = 0; j < 3; j++, w += s.channels) {
                if (top + i < 0 || top + i >= s.in_height || (EDGE && (left + j < 0 || left + j >= s.in_width))) continue;
                const Floats weights = load(w);
                const char* at = row + j * plane.pixel;
#pragma GCC unroll 8
                for (int p = 0; p < P; p++) sums[p] += weights * value(at + 2 * p * plane.pixel);
            }
        if (s.taps == 9) continue;
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
        const Floats sum = activated(s.relu, sums[p]);
        store((float*)(to + p * s.out.pixel), sum);
        if (also) put(s.also.type, also + p * s.also.pixel, sum * (1.0f / s.also.factor));
    }
}

void first(const Step& s, int begin, int end, int number) {
    // Of pixels from `inner` to `outer` every column lies in the image.
    const int inner = s.dx[0] < 0, outer = (s.in_width - 1 - s.dx[0]) / 2;
    for (int y = begin; y < end; y++)
        for (int lane = 0; lane < s.channels; lane += LANES) {
            int x = 0;
            for (; x < inner; x++) first_of<1, true>(s, y, x, lane, number);
            for (; x + 8 <= outer; x += 8) first_of<8, false>(s, y, x, lane, number);
            for (; x < s.width; x++) first_of<1, true>(s, y, x, lane, number);
        }
}

// A depth-wise convolution of K x K and stride S over in[0], float: P pixels from (y, x) on.
template <int K, int S, int P>
inline void depthwise_of(const Step& s, int y, int x, int number) {
    const Piece& in = s.in[0];
    const int top = y * S + s.dy[0], from = std::max(0, -top), to = std::min(K, s.in_height - top);
    const int64_t pixel = in.pixel / 4;
    const float* rows[K];
    for (int i = from; i < to; i++) rows[i] = (const float*)in.at(top + i, x * S + s.dx[0], number);
    char* out = s.to(y, x, number);
    const int64_t size = size_of(s.writes);
    const float* w = s.weights;
    for (int c = 0; c < s.channels; c += LANES, w += K * K * LANES) {
        Floats sums[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) sums[p] = load(s.bias + c);
        for (int i = from; i < to; i++) {
            Floats weights[K], pixels[(P - 1) * S + K];
#pragma GCC unroll 8
            for (int j = 0; j < K; j++) weights[j] = load(w + (i * K + j) * LANES);
#pragma GCC unroll 32
            for (int j = 0; j < (P - 1) * S + K; j++) pixels[j] = load(rows[i] + j * pixel + c);
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) {
#pragma GCC unroll 8
                for (int j = 0; j < K; j++) sums[p] += weights[j] * pixels[p * S + j];
            }
        }
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) put(s.writes, out + p * s.out.pixel + c * size, activated(s.relu, sums[p]));
    }
}

template <int K, int S>
void depthwise(const Step& s, int begin, int end, int number) {
    constexpr int P = REGISTERS >= 32 ? 8 / S : 4 / S;
    for (int y = begin; y < end; y++) {
        int x = 0;
        for (; x + P <= s.width; x += P) depthwise_of<K, S, P>(s, y, x, number);
        for (; x < s.width; x++) depthwise_of<K, S, 1>(s, y, x, number);
    }
}

void depthwise(const Step& s, int begin, int end, int number) {
    if (s.taps == 9)
        s.stride == 1 ? depthwise<3, 1>(s, begin, end, number) : depthwise<3, 2>(s, begin, end, number);
    else
        s.stride == 1 ? depthwise<5, 1>(s, begin, end, number) : depthwise<5, 2>(s, begin, end, number);
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

// The means of in[0] over height x width regions, which may share pixels (nn.AdaptiveAvgPool2d).
void regions(const Step& s, int begin, int end, int number) {
    const Piece& in = s.in[0];
    const int64_t size = size_of(in.type);
    for (int y = begin; y < end; y++) {
        const int top = y * s.in_height / s.height, bottom = ((y + 1) * s.in_height + s.height - 1) / s.height;
        for (int x = 0; x < s.width; x++) {
            const int left = x * s.in_width / s.width, right = ((x + 1) * s.in_width + s.width - 1) / s.width;
            const float share = 1.0f / (float)((bottom - top) * (right - left));
            for (int c = 0; c < s.channels; c += LANES) {
                Floats sum{};
                for (int v = top; v < bottom; v++)
                    for (int u = left; u < right; u++) sum += get(in.type, in.at(v, u, number) + c * size);
                put(s.writes, s.to(y, x, number) + c * size_of(s.writes), sum * share);
            }
        }
    }
}

// Between which two of `there` places one of `here` places lies, and how far from the lower one (align_corners=False).
struct Between {
    int low, high;
    float share;

    Between(int place, int there, int here) {
        const float at = std::max(0.0f, (place + 0.5f) * ((float)there / (float)here) - 0.5f);
        low = std::min((int)at, there - 1);
        high = std::min(low + 1, there - 1);
        share = at - low;
    }
};

// in[0] brought to height x width, bilinear.
void resize(const Step& s, int begin, int end, int number) {
    const Piece& in = s.in[0];
    const int64_t size = size_of(in.type);
    for (int y = begin; y < end; y++) {
        const Between v(y, s.in_height, s.height);
        for (int x = 0; x < s.width; x++) {
            const Between u(x, s.in_width, s.width);
            const char *a = in.at(v.low, u.low, number), *b = in.at(v.low, u.high, number);
            const char *c = in.at(v.high, u.low, number), *d = in.at(v.high, u.high, number);
            const float left = 1.0f - u.share, upper = 1.0f - v.share;
            char* out = s.to(y, x, number);
            for (int i = 0; i < s.channels; i += LANES, a += LANES * size, b += LANES * size, c += LANES * size, d += LANES * size) {
                const Floats sum = (get(in.type, a) * left + get(in.type, b) * u.share) * upper
                    + (get(in.type, c) * left + get(in.type, d) * u.share) * v.share;
                if (s.channels % LANES)
                    put_some((float*)out + i, sum, s.channels - i);
                else
                    put(s.writes, out + i * size_of(s.writes), sum);
            }
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

// Lane i of the result is lane at[i] of v.
inline Floats permuted(Floats v, Ints at) {
#if defined(__AVX512F__)
    return (Floats)_mm512_permutexvar_ps((__m512i)at, (__m512)v);
#else
    Floats result;
    for (int i = 0; i < LANES; i++) result[i] = v[at[i]];
    return result;
#endif
}

// Where row y of the step's pixels lies in in[0], which has another size: as numbers of a class side by side, to `rows`.
void blend(const Step& s, int y, int number, float* rows, int64_t row) {
    const Between v(y, s.in_height, s.height);
    for (int x = 0; x < s.in_width; x += LANES)
        for (int c = 0; c < s.channels; c += LANES) {
            Floats pixels[LANES];
            for (int p = 0; p < LANES; p++) {
                const int here = std::min(x + p, s.in_width - 1);
                pixels[p] = load((const float*)s.in[0].at(v.low, here, number) + c) * (1.0f - v.share)
                    + load((const float*)s.in[0].at(v.high, here, number) + c) * v.share;
            }
            turn(pixels);
            for (int i = 0; i < LANES; i++) store(rows + (c + i) * row + x, pixels[i]);
        }
}

// LANES pixels from x on of what blend() made, by class.
void interpolated(const Step& s, int x, const float* rows, int64_t row, Floats* classes) {
    Floats at;
    for (int i = 0; i < LANES; i++) at[i] = x + i + 0.5f;
    at = positive(at * ((float)s.in_width / (float)s.width) - 0.5f);
    const Ints last = Ints{} + (s.in_width - 1);
    Ints low = __builtin_convertvector(at, Ints);
    low = low < last ? low : last;
    Ints high = low + 1;
    high = high < last ? high : last;
    const Floats share = at - __builtin_convertvector(low, Floats), rest = 1.0f - share;
    const int base = low[0];
    low -= base;
    high -= base;
    for (int c = 0; c < s.channels; c++) {
        const Floats v = load(rows + c * row + base);
        classes[c] = permuted(v, low) * rest + permuted(v, high) * share;
    }
}

// LANES pixels of in[0] from (y, x) on, by class; the last one of a row stands for those behind it.
void turned(const Step& s, int y, int x, int number, Floats* classes) {
    const int count = std::min(LANES, s.width - x);
    for (int c = 0; c < s.channels; c += LANES) {
        Floats pixels[LANES];
        for (int p = 0; p < LANES; p++)
            pixels[p] = load((const float*)s.in[0].at(y, x + std::min(p, count - 1), number) + c);
        turn(pixels);
        for (int i = 0; i < LANES; i++) classes[c + i] = pixels[i];
    }
}

// in[0], logits as float: to `out` a byte for each pixel, its class; to `also`, if that is there, how sure that is, the
// logits times its factor, as decide() of drive_seg/inference/decision.py has both; to in[1] the same of each stride-th row. Logits
// of another size are brought to this one first, bilinear, by way of each thread's own memory in[2].
void decide(const Step& s, int begin, int end, int number) {
    Floats classes[WIDEST];
    float* rows = s.in[2].data ? (float*)s.in[2].at(0, 0, number) : nullptr;
    const int64_t row = s.in[2].pixel / 4;
    for (int y = begin; y < end; y++) {
        if (rows) blend(s, y, number, rows, row);
        for (int x = 0; x < s.width; x += LANES) {
            const int count = std::min(LANES, s.width - x);
            rows ? interpolated(s, x, rows, row, classes) : turned(s, y, x, number, classes);
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
        case DEPTHWISE: return depthwise(s, begin, end, number);
        case REGIONS: return regions(s, begin, end, number);
        case RESIZE: return resize(s, begin, end, number);
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

// Carries out the steps in turn. Those that go together are carried out row by row, each thread taking some of the rows of
// the last one. Where a step reads rows above and below, the others keep ahead of it, and begin above a thread's first row.
void drive_seg_run(const Step* steps, int32_t count, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; i += steps[i].together) {
        const Step *end = steps + i + steps[i].together, *last = end - 1;
        const int rounds = (last->height + last->rows - 1) / last->rows;
        int before = -2;
#pragma omp for schedule(static)
        for (int32_t y = 0; y < rounds; y++) {
            const bool goes_on = y == before + 1;
            for (const Step* s = steps + i; s < end; s++) {
                const int from = goes_on ? y * s->rows + s->ahead : y * s->rows - s->above;
                carry_out(*s, std::max(0, from), std::min(s->height, (y + 1) * s->rows + s->ahead), omp_get_thread_num());
            }
            before = y;
        }
    }
}
}
