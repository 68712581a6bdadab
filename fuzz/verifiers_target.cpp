// The verifiers on raw replies.
#include "fuzz/verifiers_run.hpp"

namespace exclave::fuzz {
namespace {

VerifyOp decode(Input& in) {
  // An enclave as ports have them: whole pages, in the lower half. The rest is the host's choice.
  const std::uintptr_t enclave_base = (1 + in.number(4)) << 12;
  const std::size_t enclave_size = (1 + in.number(3)) << 12;
  const std::size_t shape = in.pick(256);
  std::size_t size = in.odd_number();
  if (shape % 4 != 0) size &= ~std::size_t{kPageBytes - 1};
  std::uintptr_t address = in.odd_number();
  switch (shape / 4 % 6) {
    case 0:
      break;
    case 1:  // around the enclave's start
      address = enclave_base - size + (in.number(1) << 12);
      break;
    case 2:
      address = enclave_base + (in.number(1) << 12) - (std::uintptr_t{128} << 12);
      break;
    case 3:  // around its end
      address = enclave_base + enclave_size + (in.number(1) << 12) - (std::uintptr_t{128} << 12);
      break;
    case 4:  // around the end of the lower half, and of all addresses
      address = kAddressLimit - size + (in.number(1) << 12) - (std::uintptr_t{128} << 12);
      break;
    default:
      address = 0 - size + (in.number(1) << 12) - (std::uintptr_t{128} << 12);
      break;
  }
  if (shape & 128) address &= ~std::uintptr_t{kPageBytes - 1};
  const std::size_t alignment = kPageBytes << in.pick(19);
  const std::size_t more = in.pick(8);
  const std::uintptr_t fixed = more < 4 ? 0 : more < 6 ? address : in.odd_number();
  const int error = more % 4 == 3 ? static_cast<int>(in.number(4)) : 0;
  return {address, error, size, alignment, fixed, enclave_base, enclave_size};
}

}  // namespace

void perform(Input in) {
  VerifiersRun run;
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/verifiers_run.hpp\"\nfuzz::VerifiersRun run;\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
