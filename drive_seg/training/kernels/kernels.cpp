// What a training step in bfloat16 does between its convolutions, each in one or two passes over memory.
//
// A tensor is rows of channels: [batch * height * width, channels], a pixel's channels side by side. Sums are of float
// over some rows, and of double over those, each thread's rows apart and added up in the threads' order, so that the
// same machine with the same number of threads always gets the same bits.

#pragma GCC optimize("no-math-errno", "no-trapping-math")

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

typedef uint16_t Bfloat;

constexpr int BLOCK = 64;      // rows that are summed up in float
constexpr int LEAST_LANE = 64; // so many numbers side by side, or more, are worked on at once

inline float widen(Bfloat b) {
    uint32_t bits = (uint32_t)b << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline Bfloat narrow(float f) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (Bfloat)(f != f ? 0x7FC0u : rounded);
}

// Numbers side by side; at the end of a pixel's channels fewer than that count.
constexpr int LANES = 16;
typedef float Lane __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef Bfloat Half __attribute__((vector_size(2 * LANES)));
typedef uint8_t Places __attribute__((vector_size(LANES)));

template <class Vector, class Number>
inline Vector load(const Number* from, int count) {
    Vector v = {};
    if (count == LANES)
        std::memcpy(&v, from, sizeof v);
    else
        std::memcpy(&v, from, count * sizeof(Number));
    return v;
}

template <class Vector, class Number>
inline void store(const Vector& v, Number* to, int count) {
    if (count == LANES)
        std::memcpy(to, &v, sizeof v);
    else
        std::memcpy(to, &v, count * sizeof(Number));
}

inline Lane widen(Half half) { return (Lane)(__builtin_convertvector(half, Bits) << 16); }

inline Half narrow(Lane values) {
    const Bits bits = (Bits)values, rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return __builtin_convertvector(values == values ? rounded : 0x7FC0u + 0 * bits, Half);
}

inline Half where_of(const uint8_t* from, int count) { return __builtin_convertvector(load<Places>(from, count), Half); }

// Few channels make short loops: several rows then count as one with more channels.
struct Shape {
    int64_t rows;
    int channels, times;
    Shape(int64_t r, int c) : rows(r), channels(c), times(1) {
        while (channels * times < LEAST_LANE && rows % 2 == 0) {
            rows /= 2;
            times *= 2;
        }
    }
    int wide() const { return channels * times; }
};

std::vector<float> repeated(const float* values, const Shape& s) {
    std::vector<float> out(s.wide());
    for (int i = 0; i < s.wide(); ++i) out[i] = values[i % s.channels];
    return out;
}

// Two sums for each channel over all rows; add(row, first, second) adds those of a row to its wide sums.
template <class Add>
void sums(const Shape& s, double* first, double* second, Add add) {
    const int wide = s.wide(), threads = omp_get_max_threads();
    std::vector<double> parts((size_t)threads * 2 * wide, 0.0);
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), n = omp_get_num_threads();
        double* mine = parts.data() + (size_t)t * 2 * wide;
        std::vector<float> block(2 * wide);
        const int64_t end = s.rows * (t + 1) / n;
        for (int64_t row = s.rows * t / n; row < end; row += BLOCK) {
            std::fill(block.begin(), block.end(), 0.f);
            for (int64_t r = row; r < std::min(end, row + BLOCK); ++r) add(r, block.data(), block.data() + wide);
            for (int i = 0; i < 2 * wide; ++i) mine[i] += block[i];
        }
    }
    std::fill(first, first + s.channels, 0.0);
    std::fill(second, second + s.channels, 0.0);
    for (int t = 0; t < threads; ++t)
        for (int i = 0; i < wide; ++i) {
            first[i % s.channels] += parts[(size_t)t * 2 * wide + i];
            second[i % s.channels] += parts[(size_t)t * 2 * wide + wide + i];
        }
}

template <class Work>
void each(const Shape& s, Work work) {
#pragma omp parallel
    {
        const int t = omp_get_thread_num(), n = omp_get_num_threads();
        const int64_t end = s.rows * (t + 1) / n;
        for (int64_t row = s.rows * t / n; row < end; ++row) work(row);
    }
}

// Features at half the resolution beside those at the full one: work(coarse, fine, count) gets where `count` channels of a
// coarse pixel begin, and of its four fine ones in reading order.
template <class Work>
void quads(int64_t rows, int width, int channels, Work work) {
    const int64_t line = 2 * (int64_t)width * channels;
    each(Shape(rows, LEAST_LANE), [=](int64_t row) {
        for (int64_t pixel = 0; pixel < width; ++pixel)
            for (int c = 0; c < channels; c += LANES) {
                const int64_t corner = 2 * row * line + 2 * pixel * channels + c;
                const int64_t fine[4] = {corner, corner + channels, corner + line, corner + line + channels};
                work((row * width + pixel) * channels + c, fine, std::min(LANES, channels - c));
            }
    });
}

constexpr float TINY = 1e-30f;
constexpr int PIXELS = 64;  // so many are worked on side by side by the losses

// e^x for x <= 0, within 2 units in the last place (Cephes' expf).
inline float exponential(float x) {
    x = std::max(x, -87.f);
    const float n = x * 1.44269504f + 12582912.f - 12582912.f;  // rounded
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return y * power;
}

// The classes and groups of classes that a label may name, see targets.py.
struct Targets {
    int32_t classes, count;               // ids of classes; of classes and groups
    const int32_t *first, *members;       // the members of id t are members[first[t]] to members[first[t + 1] - 1]
    const uint8_t *inside, *judged;       // [count of ids, count of rows]
};

// Probabilities of up to PIXELS pixels, [count][PIXELS]; peak and log_sum: of each pixel.
struct Block {
    std::vector<float> p;
    std::vector<Bfloat> turned;  // logits or their gradients, a class's side by side
    float peak[PIXELS], log_sum[PIXELS], sum[PIXELS];

    explicit Block(const Targets& t) : p((size_t)t.count * PIXELS), turned((size_t)t.classes * PIXELS) {}

    // Reads logits and makes probabilities of them; what lies behind the last pixel is of a uniform distribution.
    void read(const Bfloat* logits, int pixels, const Targets& t) {
        for (int i = 0; i < pixels; ++i)
            for (int c = 0; c < t.classes; ++c) turned[(size_t)c * PIXELS + i] = logits[(size_t)i * t.classes + c];
        for (int c = 0; c < t.classes; ++c) {
            const Bfloat* __restrict__ in = turned.data() + (size_t)c * PIXELS;
            float* __restrict__ out = p.data() + (size_t)c * PIXELS;
            for (int i = 0; i < PIXELS; ++i) out[i] = i < pixels ? widen(in[i]) : 0;
        }
        float* __restrict__ top = peak;
        float* __restrict__ total = sum;
        for (int i = 0; i < PIXELS; ++i) top[i] = p[i];
        for (int c = 1; c < t.classes; ++c) {
            const float* __restrict__ z = p.data() + (size_t)c * PIXELS;
            for (int i = 0; i < PIXELS; ++i) top[i] = std::max(top[i], z[i]);
        }
        for (int i = 0; i < PIXELS; ++i) total[i] = 0;
        for (int c = 0; c < t.classes; ++c) {
            float* __restrict__ z = p.data() + (size_t)c * PIXELS;
            for (int i = 0; i < PIXELS; ++i) {
                z[i] = exponential(z[i] - top[i]);
                total[i] += z[i];
            }
        }
        for (int i = 0; i < pixels; ++i) log_sum[i] = std::log(total[i]);
        for (int i = 0; i < PIXELS; ++i) total[i] = 1 / total[i];
        for (int c = 0; c < t.classes; ++c) {
            float* __restrict__ z = p.data() + (size_t)c * PIXELS;
            for (int i = 0; i < PIXELS; ++i) z[i] *= total[i];
        }
        for (int g = t.classes; g < t.count; ++g) {
            float* __restrict__ out = p.data() + (size_t)g * PIXELS;
            for (int i = 0; i < PIXELS; ++i) out[i] = 0;
            for (int m = t.first[g]; m < t.first[g + 1]; ++m) {
                const float* __restrict__ z = p.data() + (size_t)t.members[m] * PIXELS;
                for (int i = 0; i < PIXELS; ++i) out[i] += z[i];
            }
        }
    }

    // Writes what stands in the place of probabilities.
    void write(Bfloat* to, int pixels, const Targets& t) {
        for (size_t i = 0; i < turned.size(); ++i) turned[i] = narrow(p[i]);
        for (int i = 0; i < pixels; ++i)
            for (int c = 0; c < t.classes; ++c) to[(size_t)i * t.classes + c] = turned[(size_t)c * PIXELS + i];
    }
};

inline int bin_of(float p, bool inside, int bins) {  // bin 0 holds the largest errors
    const float right = inside ? p : 1 - p;
    return std::min(std::max((int)(right * bins), 0), bins - 1);
}

}  // namespace

extern "C" {

// Batch Norm in training mode, and what follows it: y = min(max(scale * x + shift, low), high).
// saved: float [2, channels], the mean and 1 / standard deviation of the batch. running_*: moved towards the batch's.
void drive_seg_norm(const Bfloat* x, Bfloat* y, int64_t rows, int32_t channels, const float* gamma, const float* beta,
                    float epsilon, float low, float high, float momentum, float* running_mean, float* running_var,
                    float* saved) {
    const Shape s(rows, channels);
    const int wide = s.wide();
    std::vector<double> sum(channels), square(channels);
    sums(s, sum.data(), square.data(), [=](int64_t row, float* __restrict__ a, float* __restrict__ b) {
        const Bfloat* __restrict__ in = x + row * wide;
        for (int i = 0; i < wide; ++i) {
            const float v = widen(in[i]);
            a[i] += v;
            b[i] += v * v;
        }
    });
    std::vector<float> scales(channels), shifts(channels);
    for (int c = 0; c < channels; ++c) {
        const double mean = sum[c] / rows, variance = std::max(0.0, square[c] / rows - mean * mean);
        const double inverse = 1 / std::sqrt(variance + epsilon);
        saved[c] = mean;
        saved[channels + c] = inverse;
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_var[c] += momentum * (variance * rows / std::max<int64_t>(1, rows - 1) - running_var[c]);
        scales[c] = gamma[c] * inverse;
        shifts[c] = beta[c] - gamma[c] * inverse * mean;
    }
    const std::vector<float> scale = repeated(scales.data(), s), shift = repeated(shifts.data(), s);
    each(s, [&, wide](int64_t row) {
        const Bfloat* __restrict__ in = x + row * wide;
        Bfloat* __restrict__ out = y + row * wide;
        const float *__restrict__ a = scale.data(), *__restrict__ b = shift.data();
        for (int i = 0; i < wide; ++i) out[i] = narrow(std::min(std::max(a[i] * widen(in[i]) + b[i], low), high));
    });
}

// The gradients of the above: of x, and of gamma and beta.
void drive_seg_norm_gradient(const Bfloat* x, const Bfloat* grad, Bfloat* grad_x, int64_t rows, int32_t channels,
                             const float* gamma, const float* beta, float low, float high, const float* saved,
                             float* grad_gamma, float* grad_beta) {
    const Shape s(rows, channels);
    const int wide = s.wide();
    std::vector<float> scales(channels), shifts(channels);
    for (int c = 0; c < channels; ++c) {
        scales[c] = gamma[c] * saved[channels + c];
        shifts[c] = beta[c] - scales[c] * saved[c];
    }
    const std::vector<float> scale = repeated(scales.data(), s), shift = repeated(shifts.data(), s);
    const std::vector<float> means = repeated(saved, s);
    std::vector<double> sum(channels), product(channels);
    sums(s, sum.data(), product.data(), [&, wide](int64_t row, float* __restrict__ a, float* __restrict__ b) {
        const Bfloat *__restrict__ in = x + row * wide, *__restrict__ g = grad + row * wide;
        const float *__restrict__ k = scale.data(), *__restrict__ d = shift.data(), *__restrict__ m = means.data();
        for (int i = 0; i < wide; ++i) {
            const float v = widen(in[i]), u = k[i] * v + d[i];
            const float w = (u > low) & (u < high) ? widen(g[i]) : 0.f;
            a[i] += w;
            b[i] += w * (v - m[i]);
        }
    });
    std::vector<float> by_x(channels), plus(channels);
    for (int c = 0; c < channels; ++c) {
        const double inverse = saved[channels + c];
        grad_beta[c] = sum[c];
        grad_gamma[c] = inverse * product[c];
        const double b = -scales[c] * inverse * inverse * product[c] / rows;
        by_x[c] = b;
        plus[c] = -scales[c] * sum[c] / rows - b * saved[c];
    }
    const std::vector<float> b = repeated(by_x.data(), s), p = repeated(plus.data(), s);
    each(s, [&, wide](int64_t row) {
        const Bfloat *__restrict__ in = x + row * wide, *__restrict__ g = grad + row * wide;
        Bfloat* __restrict__ out = grad_x + row * wide;
        const float *__restrict__ k = scale.data(), *__restrict__ d = shift.data();
        const float *__restrict__ bb = b.data(), *__restrict__ pp = p.data();
        for (int i = 0; i < wide; ++i) {
            const float v = widen(in[i]), u = k[i] * v + d[i];
            const float w = (u > low) & (u < high) ? widen(g[i]) : 0.f;
            out[i] = narrow(k[i] * w + bb[i] * v + pp[i]);
        }
    });
}

// ShuffleNet's shuffle of two groups: channels 0..half-1 of the result, l0 r0 l1 r1 ..., go to a, the others to b. Rows
// of l and r, and of a and b, are so many channels apart, so that either two may be halves of one tensor.
void drive_seg_shuffle(const Bfloat* l, const Bfloat* r, Bfloat* a, Bfloat* b, int64_t rows, int32_t half, int32_t l_row,
                       int32_t r_row, int32_t out_row) {
    each(Shape(rows, LEAST_LANE), [=](int64_t row) {
        for (int side = 0; side < 2; ++side) {
            const Bfloat* __restrict__ left = l + row * l_row + side * half / 2;
            const Bfloat* __restrict__ right = r + row * r_row + side * half / 2;
            Bfloat* __restrict__ out = (side ? b : a) + row * out_row;
            for (int i = 0; i < half / 2; ++i) {
                out[2 * i] = left[i];
                out[2 * i + 1] = right[i];
            }
        }
    });
}

// Its gradient: the other way round.
void drive_seg_shuffle_gradient(const Bfloat* a, const Bfloat* b, Bfloat* l, Bfloat* r, int64_t rows, int32_t half,
                                int32_t a_row, int32_t b_row) {
    each(Shape(rows, LEAST_LANE), [=](int64_t row) {
        for (int side = 0; side < 2; ++side) {
            const Bfloat* __restrict__ in = side ? b + row * b_row : a + row * a_row;
            Bfloat* __restrict__ left = l + row * half + side * half / 2;
            Bfloat* __restrict__ right = r + row * half + side * half / 2;
            for (int i = 0; i < half / 2; ++i) {
                left[i] = in[2 * i];
                right[i] = in[2 * i + 1];
            }
        }
    });
}

// 2x2 max-pooling: rows of `width` pooled pixels of `channels`, and which of the four was the largest, the first in
// reading order where some are equal.
void drive_seg_pool(const Bfloat* x, Bfloat* y, uint8_t* where, int64_t rows, int32_t width, int32_t channels) {
    quads(rows, width, channels, [=](int64_t coarse, const int64_t* fine, int count) {
        Half best = load<Half>(x + fine[0], count), place = {};
        for (Bfloat k = 1; k < 4; ++k) {
            const Half other = load<Half>(x + fine[k], count);
            const Half larger = __builtin_convertvector(widen(other) > widen(best), Half);
            best = larger ? other : best;
            place = larger ? k + 0 * place : place;
        }
        store(best, y + coarse, count);
        store(__builtin_convertvector(place, Places), where + coarse, count);
    });
}

// Its gradient, which is also un-pooling: each value to its place, zeros elsewhere.
void drive_seg_unpool(const Bfloat* g, const uint8_t* where, Bfloat* x, int64_t rows, int32_t width, int32_t channels) {
    quads(rows, width, channels, [=](int64_t coarse, const int64_t* fine, int count) {
        const Half in = load<Half>(g + coarse, count), place = where_of(where + coarse, count);
        for (Bfloat k = 0; k < 4; ++k) store(place == k ? in : 0 * in, x + fine[k], count);
    });
}

// y = max(0, un-pooled u + r).
void drive_seg_join(const Bfloat* u, const uint8_t* where, const Bfloat* r, Bfloat* y, int64_t rows, int32_t width,
                    int32_t channels) {
    quads(rows, width, channels, [=](int64_t coarse, const int64_t* fine, int count) {
        const Half in = load<Half>(u + coarse, count), place = where_of(where + coarse, count);
        for (Bfloat k = 0; k < 4; ++k) {
            const Lane sum = widen(place == k ? in : 0 * in) + widen(load<Half>(r + fine[k], count));
            store(narrow(sum <= 0 ? Lane{} : sum), y + fine[k], count);
        }
    });
}

// Its gradients.
void drive_seg_join_gradient(const Bfloat* y, const Bfloat* g, const uint8_t* where, Bfloat* grad_u, Bfloat* grad_r,
                             int64_t rows, int32_t width, int32_t channels) {
    quads(rows, width, channels, [=](int64_t coarse, const int64_t* fine, int count) {
        const Half place = where_of(where + coarse, count);
        Half left = {};
        for (Bfloat k = 0; k < 4; ++k) {
            const Half in = load<Half>(g + fine[k], count);
            const Half passed = load<Half>(y + fine[k], count) != 0 ? in : 0 * in;  // y is not below 0
            store(passed, grad_r + fine[k], count);
            left = place == k ? passed : left;
        }
        store(left, grad_u + coarse, count);
    });
}

// The log probability of each pixel's label, 0 where it is void, and with bins > 0 for each row (class or group) and bin
// how many errors fall into it, how many of them are of pixels of the row, and the sum of the errors.
void drive_seg_softmax(const Bfloat* logits, const uint8_t* label, int64_t pixels, const Targets* targets, int32_t bins,
                       float* log_p, double* count, double* hits, double* errors) {
    const Targets t = *targets;
    const int threads = omp_get_max_threads();
    const size_t cells = (size_t)t.count * bins;
    std::vector<std::vector<int32_t>> counts(threads), inside(threads);
    std::vector<std::vector<float>> sums_of(threads);
#pragma omp parallel num_threads(threads)
    {
        const int number = omp_get_thread_num(), all = omp_get_num_threads();
        std::vector<int32_t> n(cells), h(cells);
        std::vector<float> e(cells);
        Block block(t);
        const int64_t blocks = (pixels + PIXELS - 1) / PIXELS, end = blocks * (number + 1) / all;
        for (int64_t b = blocks * number / all; b < end; ++b) {
            const int64_t start = b * PIXELS;
            const int here = (int)std::min<int64_t>(PIXELS, pixels - start);
            const uint8_t* ids = label + start;
            block.read(logits + start * t.classes, here, t);
            for (int i = 0; i < here; ++i) {
                const int id = ids[i];
                if (id >= t.count)
                    log_p[start + i] = 0;
                else if (id < t.classes)
                    log_p[start + i] = widen(logits[(start + i) * t.classes + id]) - block.peak[i] - block.log_sum[i];
                else
                    log_p[start + i] = std::log(std::max(block.p[(size_t)id * PIXELS + i], TINY));
            }
            if (bins)
                for (int r = 0; r < t.count; ++r) {
                    const float* p = block.p.data() + (size_t)r * PIXELS;
                    int32_t *nr = n.data() + (size_t)r * bins, *hr = h.data() + (size_t)r * bins;
                    float* er = e.data() + (size_t)r * bins;
                    for (int i = 0; i < here; ++i) {
                        const int id = ids[i];
                        if (id >= t.count || !t.judged[id * t.count + r]) continue;
                        const bool in = t.inside[id * t.count + r];
                        const int at = bin_of(p[i], in, bins);
                        nr[at] += 1;
                        hr[at] += in;
                        er[at] += in ? 1 - p[i] : p[i];
                    }
                }
        }
        counts[number].swap(n);
        inside[number].swap(h);
        sums_of[number].swap(e);
    }
    for (size_t i = 0; i < cells; ++i) {
        count[i] = hits[i] = errors[i] = 0;
        for (int k = 0; k < threads; ++k)
            if (!counts[k].empty()) {
                count[i] += counts[k][i];
                hits[i] += inside[k][i];
                errors[i] += sums_of[k][i];
            }
    }
}

// The gradient of the logits: by_log_p is that of each label's log probability, weight that of each error of a row and
// bin (none if bins is 0).
void drive_seg_softmax_gradient(const Bfloat* logits, const uint8_t* label, int64_t pixels, const Targets* targets,
                                int32_t bins, const float* by_log_p, const float* weight, Bfloat* grad) {
    const Targets t = *targets;
#pragma omp parallel
    {
        const int number = omp_get_thread_num(), all = omp_get_num_threads();
        Block block(t);
        std::vector<float> by_p((size_t)t.count * PIXELS);
        const int64_t blocks = (pixels + PIXELS - 1) / PIXELS, end = blocks * (number + 1) / all;
        for (int64_t b = blocks * number / all; b < end; ++b) {
            const int64_t start = b * PIXELS;
            const int here = (int)std::min<int64_t>(PIXELS, pixels - start);
            const uint8_t* ids = label + start;
            block.read(logits + start * t.classes, here, t);
            float along[PIXELS] = {}, outer[PIXELS] = {};
            for (int i = 0; i < here; ++i) outer[i] = ids[i] < t.count ? by_log_p[start + i] : 0;
            if (!bins && t.count == t.classes) {  // as below, with by_p 0 everywhere
                for (int c = 0; c < t.classes; ++c) {
                    float* __restrict__ p = block.p.data() + (size_t)c * PIXELS;
                    for (int i = 0; i < PIXELS; ++i) p[i] *= -outer[i];
                }
                for (int i = 0; i < here; ++i)
                    if (ids[i] < t.classes) block.p[(size_t)ids[i] * PIXELS + i] += outer[i];
                block.write(grad + start * t.classes, here, t);
                continue;
            }
            std::fill(by_p.begin(), by_p.end(), 0.f);
            if (bins && t.count == t.classes) {
                for (int r = 0; r < t.count; ++r) {
                    const float* __restrict__ p = block.p.data() + (size_t)r * PIXELS;
                    const float* __restrict__ w = weight + (size_t)r * bins;
                    float* __restrict__ f = by_p.data() + (size_t)r * PIXELS;
                    int at[PIXELS];
                    for (int i = 0; i < PIXELS; ++i) at[i] = bin_of(p[i], false, bins);
                    for (int i = 0; i < PIXELS; ++i) f[i] = w[at[i]];
                }
                for (int i = 0; i < here; ++i) {
                    const size_t own = (size_t)ids[i] * PIXELS + i;
                    if (ids[i] < t.count)
                        by_p[own] = -weight[(size_t)ids[i] * bins + bin_of(block.p[own], true, bins)];
                    else
                        for (int r = 0; r < t.count; ++r) by_p[(size_t)r * PIXELS + i] = 0;
                }
            } else if (bins)
                for (int r = 0; r < t.count; ++r) {
                    const float* p = block.p.data() + (size_t)r * PIXELS;
                    float* f = by_p.data() + (size_t)r * PIXELS;
                    const float* w = weight + (size_t)r * bins;
                    for (int i = 0; i < here; ++i) {
                        const int id = ids[i];
                        if (id >= t.count || !t.judged[id * t.count + r]) continue;
                        const bool in = t.inside[id * t.count + r];
                        const float v = w[bin_of(p[i], in, bins)];
                        f[i] = in ? -v : v;
                    }
                }
            for (int i = 0; i < here; ++i)  // of a group's label; a class's is added below, where no p is divided by
                if (ids[i] >= t.classes && ids[i] < t.count)
                    by_p[(size_t)ids[i] * PIXELS + i] += outer[i] / std::max(block.p[(size_t)ids[i] * PIXELS + i], TINY);
            for (int g = t.classes; g < t.count; ++g)
                for (int m = t.first[g]; m < t.first[g + 1]; ++m) {
                    const float* __restrict__ from = by_p.data() + (size_t)g * PIXELS;
                    float* __restrict__ to = by_p.data() + (size_t)t.members[m] * PIXELS;
                    for (int i = 0; i < PIXELS; ++i) to[i] += from[i];
                }
            for (int c = 0; c < t.classes; ++c) {
                const float* __restrict__ f = by_p.data() + (size_t)c * PIXELS;
                const float* __restrict__ p = block.p.data() + (size_t)c * PIXELS;
                for (int i = 0; i < PIXELS; ++i) along[i] += f[i] * p[i];
            }
            for (int i = 0; i < here; ++i) along[i] += ids[i] < t.classes ? outer[i] : 0;
            for (int c = 0; c < t.classes; ++c) {
                const float* __restrict__ f = by_p.data() + (size_t)c * PIXELS;
                float* __restrict__ p = block.p.data() + (size_t)c * PIXELS;
                for (int i = 0; i < PIXELS; ++i) p[i] *= f[i] - along[i];
            }
            for (int i = 0; i < here; ++i)
                if (ids[i] < t.classes) block.p[(size_t)ids[i] * PIXELS + i] += outer[i];
            block.write(grad + start * t.classes, here, t);
        }
    }
}

}  // extern "C"
