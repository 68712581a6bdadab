#include "loader/shortage.hpp"

#include <atomic>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/stats.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

std::atomic<bool> g_told{false};

struct Wish {
  std::uintptr_t place = 0;  // 0: anywhere
  std::size_t size = 0;
  int protection = PROT_NONE;
  int kept_flags = 0;
};

Wish wish_of(const Call& call) noexcept {
  if (call.number == __NR_mremap) return {0, call.a[2], PROT_NONE, 0};
  const auto flags = static_cast<int>(call.a[3]);
  const bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  return {fixed ? call.a[0] : 0, call.a[1], static_cast<int>(call.a[2]), flags & MAP_NORESERVE};
}

// Would it be there, natively? Tried outside, and given back.
bool linux_has(const Wish& wish) noexcept {
  const int placed = wish.place != 0 ? MAP_FIXED_NOREPLACE : 0;
  const long place = RawCalls::mmap(wish.place, wish.size, wish.protection,
                                    MAP_PRIVATE | MAP_ANONYMOUS | wish.kept_flags | placed, -1, 0);
  if (failed(place)) return false;
  (void)system_call(__NR_munmap, place, wish.size);
  return true;
}

// SIZE_MAX: nobody can say just now.
std::size_t largest_hole(Extent window) noexcept {
  struct Walk {
    std::uintptr_t at;
    std::size_t largest;
  } walk{window.base, 0};
  const int end = g_process.inside->visit(
      window,
      [](void* context, Extent area, int) {
        Walk& on = *static_cast<Walk*>(context);
        if (area.base - on.at > on.largest) on.largest = area.base - on.at;
        on.at = area.end();
        return 0;
      },
      &walk);
  if (end != 0 && end != -ENOMEM) return SIZE_MAX;
  const std::size_t last = window.end() - walk.at;
  return last > walk.largest ? last : walk.largest;
}

struct Size {
  std::size_t count;
  char unit;
};

// Exactly where that is short; else rounded, to five digits at most.
Size size_of(std::size_t bytes) noexcept {
  constexpr std::string_view kUnits = "KMGT";
  std::size_t count = (bytes + 1023) >> 10, unit = 0;
  while (unit + 1 < kUnits.size() && count != 0 &&
         (count % 1024 == 0 || count >= std::size_t{16} << 10)) {
    count >>= 10;
    ++unit;
  }
  return {count, kUnits[unit]};
}

using Text = Line<512>;

Text& put_size(Text& line, std::size_t bytes) noexcept {
  const Size size = size_of(bytes);
  return line.unsigned_decimal(size.count).put(' ').put(size.unit).text("iB");
}

void put_advice(Text& line, std::size_t needed) noexcept {
  std::size_t range = kRangeLeast;
  while (range < needed && range <= kRangeMost) range *= 2;
  if (range > kRangeMost) {
    line.text(", and none is larger: see docs/exec.md, \"Programs that want more\"\n");
  } else {
    const Size size = size_of(range);
    line.text(": try --elrange ").unsigned_decimal(size.count).put(size.unit).put('\n');
  }
}

}  // namespace

void tell_shortage(const Call& call) noexcept {
  const Wish wish = wish_of(call);
  const Extent window = g_process.port.program_window();
  const Extent wanted{wish.place, wish.size};
  if (g_told.load(std::memory_order_relaxed) || wish.size == 0 ||
      wanted.base + wanted.size < wanted.size) {
    return;
  }
  std::size_t hole = 0;
  if (wish.place != 0) {
    if (wanted.end() <= window.end()) return;
  } else {
    hole = largest_hole(window);
    if (wish.size <= hole) return;
  }
  if (!linux_has(wish) || g_told.exchange(true, std::memory_order_relaxed)) return;

  const std::size_t range = g_process.port.enclave().end();
  Text line;
  line.text("exclave: exec: ").text(name_of_program()).text(" asked for ");
  put_size(line, wish.size);
  if (wish.place != 0) {
    line.text(" at ").hex(wish.place).text(", which lies beyond its range of ");
    put_size(line, range);
    put_advice(line, wanted.end());
  } else {
    put_size(line.text(" at once, and its range of "), range);
    put_size(line.text(" has "), hole).text(" left in one piece");
    put_advice(line, range - hole + wish.size);
  }
  line.write_to(output_descriptor());
}

}  // namespace exclave::loader
