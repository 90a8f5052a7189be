// Which state of the schemas in library.cpp a library was built from. The package compares it with INTERFACE in
// hybridgen/ops/native.py, and leaves a library alone that is older or newer than itself: raise both numbers together
// whenever a schema changes, or the meaning of an argument.
#pragma once

#include <cstdint>

// Once in each library; a plain C function, so that it can be asked before any operator is trusted.
#define HYBRIDGEN_INTERFACE \
  extern "C" __attribute__((visibility("default"))) int32_t hybridgen_interface() { return 4; }
