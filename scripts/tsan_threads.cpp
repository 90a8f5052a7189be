// Stands in for torch's parallel_for under the thread sanitizer, which does not understand OpenMP: every range gets a
// thread of its own, made where the sanitizer sees it. Preloaded by scripts/tsan_check.sh.
#include <cstdint>
#include <thread>
#include <vector>

extern "C" int32_t torch_parallel_for(
    int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  if (begin >= end) return 0;
  constexpr int64_t kThreads = 4;
  int64_t step = (end - begin + kThreads - 1) / kThreads;
  if (step < grain) step = grain;
  if (step < 1) step = 1;
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = first + step < end ? first + step : end;
    threads.emplace_back([=] { body(first, last, context); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// What the sanitizer must find if it works at all: threads that write one number.
extern "C" void race() {
  static volatile int64_t count = 0;
  torch_parallel_for(0, 4, 1, [](int64_t, int64_t, void*) { count = count + 1; }, nullptr);
}
