// The allocator against its reference model: blocks above all, and all else that the model knows.
#include "fuzz/allocator_run.hpp"

namespace exclave::fuzz {
namespace {

testing_support::Operation decode(Input& in) {
  return in.pick(4) == 0 ? decode_region_operation(in) : decode_block_operation(in);
}
HostMemory decode_host(Input& in) {
  return in.flag() ? HostMemory::kLittle : HostMemory::kPlenty;
}

}  // namespace

void perform(Input in) {
  AllocatorRun run(decode_host(in));
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/allocator_run.hpp\"; using namespace exclave::testing_support;\n"
      << "fuzz::AllocatorRun run(fuzz::HostMemory::"
      << (decode_host(in) == HostMemory::kLittle ? "kLittle" : "kPlenty") << ");\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
