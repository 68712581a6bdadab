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
      MAP_PRIVATE | MAP_FIXED,
      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
      MAP_PRIVATE,
      MAP_SHARED | MAP_FIXED | MAP_FIXED_NOREPLACE,
      MAP_SHARED_VALIDATE,
      MAP_SHARED | MAP_ANONYMOUS,
      MAP_SHARED | MAP_GROWSDOWN,
  };
  const std::size_t shape = in.pick(15);
  return shape < std::size(kFlags) ? kFlags[shape] : static_cast<int>(in.number(4));
}

int decode_remap_flags(Input& in) {
  static constexpr int kFlags[] = {0,
                                   MREMAP_MAYMOVE,
                                   MREMAP_MAYMOVE,
                                   MREMAP_MAYMOVE | MREMAP_FIXED,
                                   MREMAP_MAYMOVE | MREMAP_FIXED,
                                   MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
                                   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP};
  const std::size_t shape = in.pick(8);
  return shape < std::size(kFlags) ? kFlags[shape] : static_cast<int>(in.number(1));
}

MemoryCallOperation decode(Input& in) {
  switch (in.pick(32)) {
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
    case 15: {
      const Place at = decode_place(in);
      return PinPages{at, decode_length(in)};
    }
    case 16:
    case 17:
    case 18:
    case 19: {
      const Place at = decode_place(in);
      const Place to = decode_place(in);
      const std::size_t old_length = decode_length(in);
      // 0 is a second view, and the same length moves all of it.
      const std::size_t shape = in.pick(8);
      const std::size_t new_length = shape == 0 ? old_length : decode_length(in);
      return RemapCall{at, shape == 1 ? 0 : old_length, new_length, decode_remap_flags(in), to};
    }
    case 20:
    case 21: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      const std::size_t shape = in.pick(32);
      return AdviseCall{at, length,
                        shape < 26 ? static_cast<int>(shape) : static_cast<int>(in.number(4))};
    }
    case 22: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      return SyncCall{at, length, static_cast<int>(in.pick(9))};
    }
    case 23: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      return LockCall{at, length, static_cast<int>(in.pick(3))};
    }
    case 24: {
      const Place at = decode_place(in);
      return UnlockCall{at, decode_length(in)};
    }
    case 25:
      return LockAllCall{static_cast<int>(in.pick(9))};
    case 26: {
      const Place at = decode_place(in);
      return ResidentCall{at, decode_length(in)};
    }
    case 27:
      return BreakCall{decode_place(in)};
    case 28: {
      const Place at = decode_place(in);
      const std::size_t length = decode_length(in);
      return AdoptCall{at, length, static_cast<int>(in.pick(16))};
    }
    case 29: {
      const Place at = decode_place(in);
      return GiveUpCall{at, decode_length(in)};
    }
    case 30: {
      if (in.flag()) return HostCallsBack{decode_place(in)};
      const auto op = in.choice(testing_support::FakePages::Op::kResident);
      return PagesFail{op, in.pick(6)};
    }
    default: {
      const std::size_t which = in.pick(256);
      return WriteInside{which, in.number(1)};
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
