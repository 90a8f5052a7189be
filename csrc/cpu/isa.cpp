#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace hybridgen {

namespace {

Isa widest() {
#if defined(HYBRIDGEN_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::kAvx512 : Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

// Unknown names never come here: hybridgen/ops/native.py refuses them.
Isa chosen() {
  const Isa best = widest();
  const char* name = std::getenv("HYBRIDGEN_CPU_CAPABILITY");
  if (name == nullptr) return best;
  Isa wanted = best;
  if (std::strcmp(name, "baseline") == 0) wanted = Isa::kBaseline;
  if (std::strcmp(name, "avx2") == 0) wanted = Isa::kAvx2;
  return wanted < best ? wanted : best;
}

}  // namespace

Isa isa() {
  static const Isa value = chosen();
  return value;
}

}  // namespace hybridgen
