// Copies over the boundary, at any alignment and length.
#include "fuzz/accessors_run.hpp"

namespace exclave::fuzz {
namespace {

AccessOp decode(Input& in) {
  AccessOp o{};
  o.kind = in.choice(AccessOp::Kind::kLoad);
  const std::size_t shape = in.pick(8);
  o.to = in.pick(FencedMemory::kBytes);
  o.from = in.pick(FencedMemory::kBytes);
  // Short ones mostly; long enough for the string instructions now and then; or up to the edge.
  o.size = shape < 4 ? in.pick(256) : in.pick(FencedMemory::kBytes);
  if (shape == 7) o.size = FencedMemory::kBytes - std::max(o.to, o.from);
  if (shape % 2 == 0) o.to &= ~std::size_t{7};
  o.number = in.flag() ? in.number(8) : in.pick(512);
  o.seed = in.number(2);
  return o;
}

}  // namespace

void perform(Input in) {
  AccessorsRun run(in.flag());
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/accessors_run.hpp\"\nfuzz::AccessorsRun run(" << cpp_value(in.flag())
      << ");\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
