#include "selective_scan_common.h"
namespace hybridgen::HYBRIDGEN_ISA {
void selective_scan_backward(const SelectiveScanBackward& args, int64_t first_task, int64_t last_task) {}
}
