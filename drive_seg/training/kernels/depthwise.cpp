// Depth-wise convolution in bfloat16 and its gradients, each one pass over its features.
//
// Features are [images, height, width, channels], a pixel's channels side by side, weights are float
// [kernel * kernel, channels]. Products are summed up in float, a weight's gradient over the lines of an image in double,
// each thread's lines apart and added up in the threads' order, so that the same machine with the same number of threads
// always gets the same bits. Channels are a multiple of LANES.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

typedef uint16_t Bfloat;

constexpr int LANES = 16;
constexpr int MOST = 5;      // rows and columns of a kernel
constexpr int TOGETHER = 8;  // so many pixels side by side share what they read
typedef float Lane __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef Bfloat Half __attribute__((vector_size(2 * LANES)));

inline Lane widen(const Bfloat* from) {
    Half half;
    std::memcpy(&half, from, sizeof half);
    return (Lane)(__builtin_convertvector(half, Bits) << 16);
}

inline void narrow(Lane values, Bfloat* to) {  // to the nearest, ties to even
    const Bits bits = (Bits)values, rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const Half half = __builtin_convertvector(values == values ? rounded : 0x7FC0u + 0 * bits, Half);
    std::memcpy(to, &half, sizeof half);
}

// The lines of all images with zeros around them. Those that were asked for last are kept, as the next ask for them again.
class Lines {
  public:
    Lines(const Bfloat* features, int height, int width, int channels, int left, int right, int lines)
        : features_(features), height_(height), row_((int64_t)width * channels), start_((int64_t)left * channels),
          line_((int64_t)(left + width + right) * channels), held_(lines, -1), kept_(lines * line_), zeros_(line_) {}

    // The line y of an image, from the zeros to its left on.
    const Bfloat* operator()(int64_t image, int y) {
        if (y < 0 || y >= height_) return zeros_.data();
        const size_t slot = y % held_.size();
        Bfloat* line = kept_.data() + slot * line_;
        if (const int64_t number = image * height_ + y; held_[slot] != number) {
            std::memcpy(line + start_, features_ + number * row_, row_ * sizeof(Bfloat));
            held_[slot] = number;
        }
        return line;
    }

  private:
    const Bfloat* features_;
    int height_;
    int64_t row_, start_, line_;
    std::vector<int64_t> held_;
    std::vector<Bfloat> kept_, zeros_;
};

// A line of outputs from `rows` lines of inputs: output j is the sum over rows and k < KERNEL of weight times the input
// j * STRIDE + k. Inputs are so many numbers apart, weights are [rows, KERNEL] of [channels].
struct Line {
    const Bfloat* in[MOST];
    const float* weight[MOST * MOST];
    Bfloat* out;
    int64_t in_apart, out_apart;
    int rows, outputs, channels;
};

template <int KERNEL, int STRIDE, int SIDE_BY_SIDE>
void outputs(const Line& l, int first) {
    constexpr int INPUTS = (SIDE_BY_SIDE - 1) * STRIDE + KERNEL;
    for (int c = 0; c < l.channels; c += LANES) {
        Lane sum[SIDE_BY_SIDE] = {};
        for (int row = 0; row < l.rows; ++row) {
            Lane weight[KERNEL];
#pragma GCC unroll 8
            for (int k = 0; k < KERNEL; ++k) std::memcpy(weight + k, l.weight[row * KERNEL + k] + c, sizeof(Lane));
            const Bfloat* in = l.in[row] + first * STRIDE * l.in_apart + c;
#pragma GCC unroll 32
            for (int i = 0; i < INPUTS; ++i) {
                const Lane value = widen(in + i * l.in_apart);
#pragma GCC unroll 8
                for (int j = 0; j < SIDE_BY_SIDE; ++j)
                    if (i >= j * STRIDE && i < j * STRIDE + KERNEL) sum[j] += weight[i - j * STRIDE] * value;
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < SIDE_BY_SIDE; ++j) narrow(sum[j], l.out + (first + j) * l.out_apart + c);
    }
}

template <int KERNEL, int STRIDE>
void line_of(const Line& l) {
    int j = 0;
    for (; j + TOGETHER <= l.outputs; j += TOGETHER) outputs<KERNEL, STRIDE, TOGETHER>(l, j);
    for (; j < l.outputs; ++j) outputs<KERNEL, STRIDE, 1>(l, j);
}

void run(const Line& l, int kernel, int stride) {  // kernels of 3 and 5, and what a stride of 2 leaves of them
    switch (kernel * 2 + stride - 1) {
        case 2: return line_of<1, 1>(l);
        case 4: return line_of<2, 1>(l);
        case 6: return line_of<3, 1>(l);
        case 7: return line_of<3, 2>(l);
        case 10: return line_of<5, 1>(l);
        default: return line_of<5, 2>(l);
    }
}

// The products of a line's gradients with its inputs at each place of the kernel, added to sums [KERNEL, KERNEL, channels].
template <int KERNEL, int STRIDE, int SIDE_BY_SIDE>
inline void add_products(const Bfloat* in, const Bfloat* grad, int64_t apart, Lane* found) {
    Lane g[SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int j = 0; j < SIDE_BY_SIDE; ++j) g[j] = widen(grad + j * apart);
#pragma GCC unroll 32
    for (int i = 0; i < (SIDE_BY_SIDE - 1) * STRIDE + KERNEL; ++i) {
        const Lane value = widen(in + i * apart);
#pragma GCC unroll 8
        for (int j = 0; j < SIDE_BY_SIDE; ++j)
            if (i >= j * STRIDE && i < j * STRIDE + KERNEL) found[i - j * STRIDE] += g[j] * value;
    }
}

template <int KERNEL, int STRIDE>
void products(const Bfloat* const* lines, const Bfloat* grad, int width, int64_t apart, int channels, double* sums) {
    for (int c = 0; c < channels; c += LANES)
        for (int row = 0; row < KERNEL; ++row) {
            Lane found[KERNEL] = {};
            const Bfloat *in = lines[row] + c, *g = grad + c;
            int x = 0;
            for (; x + TOGETHER <= width; x += TOGETHER)
                add_products<KERNEL, STRIDE, TOGETHER>(in + x * STRIDE * apart, g + x * apart, apart, found);
            for (; x < width; ++x) add_products<KERNEL, STRIDE, 1>(in + x * STRIDE * apart, g + x * apart, apart, found);
            for (int k = 0; k < KERNEL; ++k)
                for (int i = 0; i < LANES; ++i) sums[(row * KERNEL + k) * channels + c + i] += found[k][i];
        }
}

}  // namespace

extern "C" {

// What a convolution is of; before: zeros above and to the left of the input. out_height and out_width say how many are
// below and to the right.
struct Geometry {
    int32_t images, height, width, channels, out_height, out_width, kernel, stride, dilation, before;
};

void drive_seg_depthwise(const Bfloat* in, const float* weight, Bfloat* out, const Geometry* geometry) {
    const Geometry g = *geometry;
    const int d = g.dilation, reach = (g.kernel - 1) * d;
    const int right = std::max(0, (g.out_width - 1) * g.stride + reach + 1 - g.before - g.width);
#pragma omp parallel
    {
        const int64_t t = omp_get_thread_num(), n = omp_get_num_threads(), all = (int64_t)g.images * g.out_height;
        Lines lines(in, g.height, g.width, g.channels, g.before, right, reach + 1);
        Line l = {};
        l.rows = g.kernel, l.channels = g.channels, l.in_apart = l.out_apart = (int64_t)d * g.channels;
        for (int k = 0; k < g.kernel * g.kernel; ++k) l.weight[k] = weight + (int64_t)k * g.channels;
        for (int64_t row = all * t / n; row < all * (t + 1) / n; ++row)
            for (int first = 0; first < d; ++first) {  // pixels first, first + d, ... read the same columns
                const int top = row % g.out_height * g.stride - g.before;
                for (int k = 0; k < g.kernel; ++k)
                    l.in[k] = lines(row / g.out_height, top + k * d) + (int64_t)first * g.channels;
                l.out = out + (row * g.out_width + first) * g.channels;
                l.outputs = (g.out_width - first + d - 1) / d;
                run(l, g.kernel, g.stride);
            }
    }
}

// The gradient of the input. A stride of 2 asks for those places alone that fall on a pixel of the output; its dilation is
// 1.
void drive_seg_depthwise_input(const Bfloat* grad, const float* weight, Bfloat* out, const Geometry* geometry) {
    const Geometry g = *geometry;
    const int d = g.dilation, reach = (g.kernel - 1) * d, s = g.stride, apart = std::max(s, d);
    const int left = std::max(0, (reach - g.before + s - 1) / s);
    const int right = std::max(0, (g.width - 1 + g.before) / s + 1 - g.out_width);
#pragma omp parallel
    {
        const int64_t t = omp_get_thread_num(), n = omp_get_num_threads(), all = (int64_t)g.images * g.height;
        Lines lines(grad, g.out_height, g.out_width, g.channels, left, right, reach / s + 1);
        Line l = {};
        l.channels = g.channels, l.in_apart = (int64_t)d * g.channels, l.out_apart = (int64_t)apart * g.channels;
        for (int64_t row = all * t / n; row < all * (t + 1) / n; ++row)
            for (int first = 0; first < apart && first < g.width; ++first) {
                const int y = row % g.height + g.before, x = first + g.before;
                int columns = 0, down[MOST], along[MOST];
                l.rows = 0;
                for (int k = g.kernel - 1; k >= 0; --k) {
                    if ((y - k * d) % s == 0) down[l.rows++] = k;
                    if ((x - k * d) % s == 0) along[columns++] = k;
                }
                for (int i = 0; i < l.rows; ++i) {
                    l.in[i] = lines(row / g.height, (y - down[i] * d) / s) +
                              (int64_t)((x - along[0] * d) / s + left) * g.channels;
                    for (int j = 0; j < columns; ++j)
                        l.weight[i * columns + j] = weight + (int64_t)(down[i] * g.kernel + along[j]) * g.channels;
                }
                l.out = out + (row * g.width + first) * g.channels;
                l.outputs = (g.width - first + apart - 1) / apart;
                run(l, columns, 1);
            }
    }
}

// The gradient of the weights.
void drive_seg_depthwise_weight(const Bfloat* in, const Bfloat* grad, float* out, const Geometry* geometry) {
    const Geometry g = *geometry;
    const int d = g.dilation, reach = (g.kernel - 1) * d;
    const int right = std::max(0, (g.out_width - 1) * g.stride + reach + 1 - g.before - g.width);
    const size_t size = (size_t)g.kernel * g.kernel * g.channels;
    const auto work = g.kernel == 3 ? (g.stride == 1 ? products<3, 1> : products<3, 2>)
                                    : (g.stride == 1 ? products<5, 1> : products<5, 2>);
    std::vector<double> sums(size * omp_get_max_threads());
#pragma omp parallel
    {
        const int64_t t = omp_get_thread_num(), n = omp_get_num_threads(), all = (int64_t)g.images * g.out_height;
        Lines lines(in, g.height, g.width, g.channels, g.before, right, reach + 1);
        const Bfloat* from[MOST];
        for (int64_t row = all * t / n; row < all * (t + 1) / n; ++row) {
            for (int k = 0; k < g.kernel; ++k)
                from[k] = lines(row / g.out_height, row % g.out_height * g.stride - g.before + k * d);
            for (int first = 0; first < d; ++first) {
                work(from, grad + (row * g.out_width + first) * g.channels, (g.out_width - first + d - 1) / d,
                     (int64_t)d * g.channels, g.channels, sums.data() + t * size);
                for (int k = 0; k < g.kernel; ++k) from[k] += g.channels;
            }
        }
    }
    for (size_t i = 0; i < size; ++i) {
        double sum = 0;
        for (size_t from = i; from < sums.size(); from += size) sum += sums[from];
        out[i] = sum;
    }
}

}  // extern "C"
