// What the kernels are compared with: the textbook, one value after the other, in f64.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

using Values = std::vector<double>;

inline int failures = 0;
inline int comparisons = 0;

// Values of a type, without structure, and what they are in f64.
template <class T> struct Numbers {
    std::vector<T> stored;

    explicit Numbers(size_t count) : stored(count, narrow<T>(NAN)) {}

    Numbers(size_t count, unsigned seed, float scale = 1.0f, float shift = 0.0f) : stored(count) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal(shift, scale);
        for (T &value : stored) value = narrow<T>(normal(random));
    }

    T *data() { return stored.data(); }
    void set(size_t at, float value) { stored[at] = narrow<T>(value); }
    double operator[](size_t at) const { return widen(stored[at]); }
    size_t size() const { return stored.size(); }
};

// The largest relative error of one rounding.
template <class T> constexpr double unit = 0;
template <> inline constexpr double unit<float> = 6e-8;
template <> inline constexpr double unit<f16> = 4.9e-4;
template <> inline constexpr double unit<bf16> = 3.9e-3;

// Compares each value; what is no number must be none, and what is infinite infinite. The tolerance is relative to 1 or
// to the value, whichever is greater.
template <class T> void compare(const std::string &what, const Numbers<T> &found, const Values &expected, double most) {
    comparisons++;
    if (found.size() != expected.size()) {
        std::printf("%s: %zu values, not %zu\n", what.c_str(), found.size(), expected.size());
        failures++;
        return;
    }
    for (size_t at = 0; at < expected.size(); at++) {
        const double have = found[at], want = expected[at];
        const bool alike = std::isnan(want)   ? std::isnan(have)
                           : std::isinf(want) ? have == want
                                              : std::fabs(have - want) <= most * std::fmax(1.0, std::fabs(want));
        if (alike) continue;
        std::printf("%s: value %zu is %.9g, not %.9g\n", what.c_str(), at, have, want);
        failures++;
        return;
    }
}

inline Values normed(const Values &x, int width, const Values &weight, const Values &bias, double eps) {
    Values y(x.size());
    for (size_t row = 0; row < x.size() / width; row++) {
        double mean = 0, variance = 0;
        for (int at = 0; at < width; at++) mean += x[row * width + at] / width;
        for (int at = 0; at < width; at++) variance += std::pow(x[row * width + at] - mean, 2) / width;
        for (int at = 0; at < width; at++)
            y[row * width + at] = (x[row * width + at] - mean) / std::sqrt(variance + eps) * weight[at] + bias[at];
    }
    return y;
}

inline double activated_exactly(double x, int kind) {
    if (kind == 0) return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    if (kind == 1) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    return x / (1 + std::exp(-1.702 * x));
}

struct AttentionCase {
    int batch, queries, keys, heads, dim;
    bool causal;
    // Of each row of the batch, or empty.
    std::vector<int> counts;

    int seen(int row, int query) const {
        const int count = counts.empty() ? keys : std::min(keys, std::max(0, counts[row]));
        return causal ? std::min(count, query + keys - queries + 1) : count;
    }
    std::string name() const {
        std::string name = std::to_string(batch) + " x " + std::to_string(queries) + " to " + std::to_string(keys) +
                           " of " + std::to_string(heads) + " x " + std::to_string(dim);
        return name + (causal ? ", causal" : "") + (counts.empty() ? "" : ", padded");
    }
};

// `q`, `k` and `v` give a value by row of the batch, token, head and place in it.
template <class Q, class K, class V> Values attended(const AttentionCase &c, Q q, K k, V v) {
    Values out(static_cast<size_t>(c.batch) * c.queries * c.heads * c.dim);
    Values scores(c.keys);
    for (int row = 0; row < c.batch; row++)
        for (int head = 0; head < c.heads; head++)
            for (int query = 0; query < c.queries; query++) {
                const int seen = c.seen(row, query);
                double most = -INFINITY, sum = 0;
                for (int key = 0; key < seen; key++) {
                    double score = 0;
                    for (int at = 0; at < c.dim; at++) score += q(row, query, head, at) * k(row, key, head, at);
                    scores[key] = score / std::sqrt(static_cast<double>(c.dim));
                    most = std::fmax(most, scores[key]);
                }
                for (int key = 0; key < seen; key++) sum += scores[key] = std::exp(scores[key] - most);
                double *to = &out[((static_cast<size_t>(row) * c.queries + query) * c.heads + head) * c.dim];
                for (int key = 0; key < seen; key++)
                    for (int at = 0; at < c.dim; at++) to[at] += scores[key] / sum * v(row, key, head, at);
            }
    return out;
}
