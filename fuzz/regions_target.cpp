// Regions and pins: attach, detach, drain, revoke, pin, query, with the model and without.
#include "fuzz/regions_run.hpp"

namespace exclave::fuzz {
namespace {

WildRange decode_range(Input& in) {
  const auto from = in.choice(WildRange::From::kTop);
  std::uint64_t offset = in.odd_number();
  std::uint64_t size = in.odd_number();
  const std::size_t shape = in.pick(4);
  if (shape != 0) {
    // Most in whole pages, else they would all fail for the same reason.
    offset &= ~std::uint64_t{kPageBytes - 1};
    size &= ~std::uint64_t{kPageBytes - 1};
  }
  if (shape > 1) size %= std::uint64_t{1} << 40;
  if (shape > 2) offset = offset % (std::uint64_t{1} << 42) - (std::uint64_t{1} << 41);
  return {from, offset, size};
}

RegionOperation decode(Input& in) {
  switch (in.pick(12)) {
    case 0: {
      const WildRange range = decode_range(in);
      return WildAttach{range, decode_attach_options(in)};
    }
    case 1: {
      const WildRange range = decode_range(in);
      return WildDetach{range, in.choice(DetachMode::kRevoke)};
    }
    case 2:
      return WildPin{decode_range(in)};
    case 3:
      return WildUnpin{in.odd_number()};
    case 4:
      return WildQuery{decode_range(in)};
    case 5:
      return WildFree{decode_range(in)};
    case 6:
    case 7:
      return decode_block_operation(in);
    default:
      return decode_region_operation(in);
  }
}

}  // namespace

void perform(Input in) {
  RegionsRun run;
  perform_all(run, in, decode);
}

void print(Input in, std::ostream& out) {
  out << "// #include \"fuzz/regions_run.hpp\"; using namespace exclave::testing_support;\n"
      << "fuzz::RegionsRun run;\n";
  print_all(in, out, decode);
}

}  // namespace exclave::fuzz
