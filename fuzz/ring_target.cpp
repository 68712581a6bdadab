// A ring whose peer writes any index and any byte at any time.
#include "fuzz/ring_run.hpp"

namespace exclave::fuzz {
namespace {

std::size_t decode_capacity(Input& in) {
  return RingLayout::kMinCapacity << in.pick(4);
}

RingOperation decode(Input& in) {
  switch (in.pick(8)) {
    case 0:
    case 1:
    case 2:
      return RingWrite{in.flag() ? in.pick(20) : in.pick(600), in.flag()};
    case 3:
    case 4:
      return RingRead{in.flag() ? in.pick(20) : in.pick(600), in.flag()};
    case 5:
      return RingAsk{in.flag()};
    case 6: {
      const bool tail = in.flag();
      const bool relative = in.flag();
      return RingPokeIndex{tail, relative,
                           in.flag() ? in.odd_number() : in.number(1) - std::uint64_t{128}};
    }
    default:
      return RingPokeData{in.pick(1024), static_cast<std::uint8_t>(in.number(1))};
  }
}

}  // namespace

void perform(Input in) {
  RingRun run(decode_capacity(in));
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/ring_run.hpp\"\nfuzz::RingRun run(" << decode_capacity(in) << ");\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
