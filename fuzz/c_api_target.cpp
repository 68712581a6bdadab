// The C ABI with arbitrary arguments.
#include "fuzz/c_api_run.hpp"

namespace exclave::fuzz {
namespace {

CCall decode(Input& in) {
  CCall o{};
  o.function = in.choice(CCall::Function::kErrorText);
  o.base = in.choice(CCall::Base::kLast);
  const std::size_t shape = in.pick(256);
  // Nulls are rare, or nothing else would happen.
  o.nulls = shape < 200 ? 0 : static_cast<unsigned>(shape % 16);
  o.offset = shape % 8 == 0 ? in.odd_number() : in.pick(64) * kPageBytes * (shape % 2);
  o.size = shape % 8 == 1  ? in.odd_number()
           : shape % 8 < 5 ? 1 + in.pick(100000)
                           : (1 + in.pick(256)) * kPageBytes;
  o.more = shape % 16 == 2  ? in.odd_number()
           : shape % 16 < 9 ? std::uint64_t{1} << in.pick(20)
                            : in.number(5);
  o.other = shape % 16 == 3 ? in.odd_number() : in.number(2);
  return o;
}

}  // namespace

void perform(Input in) {
  CApiRun run;
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/c_api_run.hpp\"\nfuzz::CApiRun run;\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
