// The verifiers of what the host answers (src/region/verify.hpp) beside a plain definition in
// numbers too wide to wrap.
#pragma once

#include "exclave/port.hpp"
#include "fuzz/target.hpp"
#include "region/verify.hpp"

namespace exclave::fuzz {

struct VerifyOp {
  std::uintptr_t address;
  int error;
  std::size_t size;
  std::size_t alignment;
  std::uintptr_t fixed;
  std::uintptr_t enclave_base;
  std::size_t enclave_size;
};

class VerifiersRun {
 public:
  void perform(const VerifyOp& o) {
    const Extent range{o.address, o.size};
    const Extent enclave{o.enclave_base, o.enclave_size};
    const Error outside = check_outside(range, enclave).error();
    EXPECT_EQ(outside, expected_outside(range, enclave));

    const Result<Extent> verified =
        verify_reply({o.address, o.error}, o.size, o.alignment, o.fixed, enclave);
    if (o.error != 0) {
      EXPECT_EQ(verified.error(), Error::kHostRefused);
      return;
    }
    const bool true_to_request = expected_outside(range, enclave) == Error::kNone &&
                                 o.address % o.alignment == 0 &&
                                 (o.fixed == 0 || o.fixed == o.address);
    EXPECT_EQ(verified.error(), true_to_request ? Error::kNone : Error::kHostLied);
    if (verified.ok()) {
      EXPECT_EQ(*verified, range);
    }
  }

 private:
  __extension__ using Wide = unsigned __int128;

  static Error expected_outside(Extent range, Extent enclave) {
    const Wide start = range.base, end = start + range.size;
    const bool in_shape =
        range.size > 0 && start > 0 && start % 4096 == 0 && end % 4096 == 0 && end <= Wide{1} << 47;
    if (!in_shape) return Error::kInvalidArgument;
    const Wide enclave_start = enclave.base, enclave_end = enclave_start + enclave.size;
    // One byte of both?
    const Wide first = start > enclave_start ? start : enclave_start;
    const Wide last = end < enclave_end ? end : enclave_end;
    return first < last ? Error::kInsideEnclave : Error::kNone;
  }
};

inline std::string cpp_of(const VerifyOp& o) {
  return cpp_call("fuzz::VerifyOp", o.address, o.error, o.size, o.alignment, o.fixed,
                  o.enclave_base, o.enclave_size);
}

}  // namespace exclave::fuzz
