// Memory calls with a host that answers what the input says.
#include "fuzz/memory_calls_run.hpp"

namespace exclave::fuzz {
namespace {

Place decode_place(Input& in) {
  const auto from = in.choice(Place::From::kLast);
  const std::size_t shape = in.pick(256);
  const std::size_t which = shape % 16;
  if (shape < 224) return {from, which, (in.pick(256) - std::uint64_t{64}) * kPageBytes};
  return {from, which, in.odd_number()};
}
std::size_t decode_length(Input& in) {
  const std::size_t shape = in.pick(256);
  if (shape < 192) return (1 + shape % 16) * kPageBytes;
  if (shape < 240) return in.pick(1 << 18);
  return static_cast<std::size_t>(in.odd_number());
}
int decode_flags(Input& in) {
  static constexpr int kFlags[] = {
      MAP_SHARED,
      MAP_SHARED,
      MAP_SHARED | MAP_FIXED,
      MAP_SHARED | MAP_FIXED,
      MAP_SHARED | MAP_FIXED_NOREPLACE,
      MAP_PRIVATE | MAP_ANONYMOUS,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
      MAP_PRIVATE,
      MAP_SHARED | MAP_FIXED | MAP_FIXED_NOREPLACE,
      MAP_SHARED_VALIDATE,
      MAP_SHARED | MAP_ANONYMOUS,
      MAP_SHARED | MAP_GROWSDOWN,
  };
  const std::size_t shape = in.pick(13);
  return shape < std::size(kFlags) ? kFlags[shape] : static_cast<int>(in.number(4));
}

MemoryCallOperation decode(Input& in) {
  switch (in.pick(16)) {
    case 0:
    case 1:
    case 2: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      const int protection =
          in.pick(8) == 7 ? static_cast<int>(in.number(4)) : PROT_READ | PROT_WRITE;
      const int flags = decode_flags(in);
      return MapCall{at, length, protection, flags, in.pick(8) != 0};
    }
    case 3:
    case 4: {
      const Place at = decode_place(in);
      return UnmapCall{at, decode_length(in)};
    }
    case 5:
    case 6: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      const std::size_t shape = in.pick(8);
      return ProtectCall{at, length,
                         shape == 7 ? static_cast<int>(in.number(4)) : static_cast<int>(shape % 4)};
    }
    case 7:
    case 8:
    case 9:
    case 10: {
      const auto call = static_cast<sim::HostCall>(in.pick(sim::kHostCalls));
      return HostSays{call, in.choice(sim::kLastLie)};
    }
    case 11:
      return BooksFail{in.pick(8)};
    case 12:
      return TakeBlock{1 + (in.flag() ? in.pick(3 << 20) : in.pick(5000))};
    case 13:
      return FreeBlock{in.pick(256)};
    case 14:
      if (in.flag()) return TrimAll{};
      return UnpinPages{in.pick(256)};
    default: {
      const Place at = decode_place(in);
      return PinPages{at, decode_length(in)};
    }
  }
}

}  // namespace

void perform(Input in) {
  MemoryCallsRun run(in.number(1));
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/memory_calls_run.hpp\"\nfuzz::MemoryCallsRun run(" << in.number(1)
      << ");\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
