// Mamba-2's norm with its gate, for the few rows of a decoding step: the gated values are computed again for the
// second pass instead of being stored.
#include "../gated_norm.h"

#include "activations.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <typename T, typename S = Compute<T>, typename Body>
inline void for_vectors(int64_t columns, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<S> <= columns; i += kLanes<S>) {
    body(i, [](const T* from) { return load(from); }, [](T* to, Vec<S> x) { store(to, x); });
  }
  if (const int rest = static_cast<int>(columns - i)) {
    body(i, [rest](const T* from) { return load_part(from, rest); }, [rest](T* to, Vec<S> x) { store_part(to, x, rest); });
  }
}

template <Activation kind, bool norm_first, typename T>
void norm_group(T* out, const T* y, const T* z, const T* weight, int64_t columns, double eps) {
  using S = Compute<T>;
  Vec<S> squares{};
  for_vectors<T>(columns, [&](int64_t i, const auto& read, const auto&) {
    Vec<S> x = read(y + i);
    if constexpr (!norm_first) x *= Act<kind>::value(read(z + i));
    squares += x * x;
  });
  const S scale = 1 / static_cast<S>(__builtin_sqrt(sum<S>(squares) / static_cast<S>(columns) + static_cast<S>(eps)));
  for_vectors<T>(columns, [&](int64_t i, const auto& read, const auto& write) {
    Vec<S> x = read(y + i);
    const Vec<S> opened = Act<kind>::value(read(z + i));
    if constexpr (!norm_first) x *= opened;
    x = x * scale * read(weight + i);
    if constexpr (norm_first) x *= opened;
    write(out + i, x);
  });
}

template <Activation kind, typename T>
void norm_row(const GatedNorm& args, int64_t row) {
  T* out = static_cast<T*>(args.out) + row * args.out_row;
  const T *y = static_cast<const T*>(args.y) + row * args.y_row, *z = static_cast<const T*>(args.z) + row * args.z_row;
  const T* weight = static_cast<const T*>(args.weight);
  const int64_t columns = args.columns / args.groups;
  for (int64_t first = 0; first < args.columns; first += columns) {
    if (args.norm_first) {
      norm_group<kind, true>(out + first, y + first, z + first, weight + first, columns, args.eps);
    } else {
      norm_group<kind, false>(out + first, y + first, z + first, weight + first, columns, args.eps);
    }
  }
}

}  // namespace

void gated_norm(const GatedNorm& args, int64_t first_row, int64_t last_row) {
  with_element(args.element, [&]<typename T>() {
    with_activation(args.activation, [&]<Activation kind>() {
      for (int64_t row = first_row; row < last_row; ++row) norm_row<kind, T>(args, row);
    });
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
