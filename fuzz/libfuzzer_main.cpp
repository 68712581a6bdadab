// The main of the fuzz preset is libFuzzer's; this joins it to a target.
#include "fuzz/target.hpp"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

int LLVMFuzzerInitialize(int* argc, char*** argv) {
  exclave::fuzz::serve_print(*argc, *argv);
  exclave::fuzz::StopAtFailure::install();
  return 0;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  exclave::fuzz::perform(exclave::fuzz::Input(bytes, size));
  return 0;
}
