// How an operator calls the build of its kernel that suits this machine.
//
// Files in kernels/ are compiled once per instruction set, each time in a namespace named after it. An operator's
// header declares its kernels with HYBRIDGEN_KERNEL(name, arguments...), and calls them as best::name(...).
#pragma once

#include <cstdint>

namespace hybridgen {

// The element types of tensors that kernels know.
enum class Element : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

enum class Isa : int32_t { kBaseline, kAvx2, kAvx512 };

// The widest instruction set that this binary has kernels for and this machine can run, or the narrower one that the
// environment variable HYBRIDGEN_CPU_CAPABILITY names: avx512, avx2 or baseline.
Isa isa();

}  // namespace hybridgen

#if defined(HYBRIDGEN_X86)
#define HYBRIDGEN_KERNEL(name, ...)                                                  \
  namespace hybridgen::avx512 { void name(__VA_ARGS__); }                            \
  namespace hybridgen::avx2 { void name(__VA_ARGS__); }                              \
  namespace hybridgen::baseline { void name(__VA_ARGS__); }                          \
  namespace hybridgen::best {                                                        \
  template <typename... Arguments>                                                   \
  inline void name(Arguments&&... arguments) {                                       \
    switch (isa()) {                                                                 \
      case Isa::kAvx512: return avx512::name(static_cast<Arguments&&>(arguments)...); \
      case Isa::kAvx2: return avx2::name(static_cast<Arguments&&>(arguments)...);    \
      default: return baseline::name(static_cast<Arguments&&>(arguments)...);        \
    }                                                                                \
  }                                                                                  \
  }
#else
#define HYBRIDGEN_KERNEL(name, ...)                                           \
  namespace hybridgen::baseline { void name(__VA_ARGS__); }                   \
  namespace hybridgen::best {                                                 \
  template <typename... Arguments>                                            \
  inline void name(Arguments&&... arguments) {                                \
    baseline::name(static_cast<Arguments&&>(arguments)...);                   \
  }                                                                           \
  }
#endif
