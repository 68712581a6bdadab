#include "soak/history.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <unordered_map>
#include <utility>

namespace exclave::soak {
namespace {

using Stretch = std::pair<Stamp, Stamp>;  // from the first stamp to the second

[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  return line;
}
std::string text_of(Window window) {
  return text("[%" PRId64 ", %" PRId64 "]", static_cast<std::int64_t>(window.before),
              static_cast<std::int64_t>(window.after));
}
std::string text_of(Extent extent) {
  return text("0x%" PRIxPTR "+%zu", extent.base, extent.size);
}
std::string text_of(const Life& life) {
  return "block " + text_of(life.extent) + text(" of pool %" PRIu64, life.region.value) +
         ", allocated in " + text_of(life.made) + ", freed in " + text_of(life.ended) +
         (life.revoked.happened() ? ", revoked in " + text_of(life.revoked) : "");
}
std::string text_of(const PinLife& pin) {
  return "pin of " + text_of(pin.extent) + ", pinned in " + text_of(pin.made) + ", unpinned in " +
         text_of(pin.ended);
}
std::string text_of(const Attachment& pool) {
  return text("pool %" PRIu64 " at ", pool.id.value) + text_of(pool.extent) + ", attached in " +
         text_of(pool.attached) + ", draining in " + text_of(pool.draining) + ", detached in " +
         text_of(pool.detached) +
         text(" (mode %d), gone at %" PRId64, static_cast<int>(pool.mode),
              static_cast<std::int64_t>(pool.gone));
}

// A block or pin certainly lives in between.
Stretch certain(const Life& life) {
  return {life.made.after, std::min(life.ended.before, life.revoked.before)};
}
Stretch certain(const PinLife& pin) {
  return {pin.made.after, pin.ended.before};
}
bool certain_at(Stretch stretch, Stamp moment) {
  return stretch.first < moment && moment < stretch.second;
}
// Is there no moment in the window that none of the stretches holds?
bool always_one(Window window, std::vector<Stretch> stretches) {
  std::sort(stretches.begin(), stretches.end());
  Stamp covered = window.before;
  for (const auto& [from, until] : stretches) {
    if (from > covered) return false;
    covered = std::max(covered, until);
    if (covered > window.after) return true;
  }
  return false;
}

class Checker {
 public:
  explicit Checker(History& history) : history_(history) {}

  std::vector<std::string> run() {
    for (const Life& life : history_.lives) {
      by_base_.push_back(&life);
      longest_ = std::max(longest_, std::max(life.extent.size, life.usable));
    }
    std::sort(by_base_.begin(), by_base_.end(),
              [](const Life* a, const Life* b) { return a->extent.base < b->extent.base; });
    for (const Attachment& pool : history_.attachments) pools_.emplace(pool.id.value, &pool);
    for (Life& life : history_.lives) end_by_revoke(life);
    overlaps();
    for (const Life& life : history_.lives) {
      placement(life);
      answer(life);
    }
    for (const Attachment& pool : history_.attachments) ending(pool);
    for (const PinLife& pin : history_.pins) pinned(pin);
    return std::move(findings_);
  }

 private:
  void found(std::string what) { findings_.push_back(std::move(what)); }

  // Those that may overlap the range.
  template <class Function>
  void each_near(Extent range, const Function& function) const {
    const std::uintptr_t from = range.base - std::min(range.base, longest_);
    auto at = std::lower_bound(
        by_base_.begin(), by_base_.end(), from,
        [](const Life* life, std::uintptr_t base) { return life->extent.base < base; });
    for (; at != by_base_.end() && (*at)->extent.base < range.end(); ++at) function(**at);
  }

  void end_by_revoke(Life& life) {
    const auto pool = pools_.find(life.region.value);
    if (pool == pools_.end()) return;
    const Attachment& of = *pool->second;
    if (of.detached.happened() && of.mode == DetachMode::kRevoke) life.revoked = of.detached;
  }

  // No two blocks that certainly live overlap. In the order of their beginnings: what ended before
  // the next one began cannot overlap a later one either.
  void overlaps() {
    std::vector<const Life*> order;
    for (const Life& life : history_.lives) {
      const auto [from, until] = certain(life);
      if (from < until && !life.extent.empty()) order.push_back(&life);
    }
    std::sort(order.begin(), order.end(),
              [](const Life* a, const Life* b) { return a->made.after < b->made.after; });
    std::map<std::uintptr_t, const Life*> live;  // disjoint, by base
    for (const Life* life : order) {
      auto at = live.upper_bound(life->extent.base);
      if (at != live.begin() && std::prev(at)->second->extent.overlaps(life->extent)) --at;
      while (at != live.end() && at->second->extent.overlaps(life->extent)) {
        const Life& other = *at->second;
        if (certain(other).second > life->made.after)
          found("two live blocks overlap: " + text_of(*life) + "; " + text_of(other));
        at = live.erase(at);
      }
      live.emplace(life->extent.base, life);
    }
  }

  // A block comes out of a pool that may have been there.
  void placement(const Life& life) {
    if (life.made.before < history_.from) return;  // looked at before
    if (life.region) {
      const auto pool = pools_.find(life.region.value);
      if (pool == pools_.end()) {
        found("a pool that went long ago gave out a block: " + text_of(life));
      } else {
        may_have_given(*pool->second, life);
      }
      return;
    }
    bool in_a_pool = false;
    for (const Attachment& pool : history_.attachments)
      in_a_pool |= pool.extent.overlaps(life.extent);
    if (!in_a_pool) return;
    for (const Attachment& pool : history_.attachments) {
      if (pool.extent.covers(life.extent) && pool.attached.before < life.made.after &&
          closed_at(pool) > life.made.before)
        return;
    }
    found("a block where no pool was attached: " + text_of(life));
  }
  static Stamp closed_at(const Attachment& pool) {
    return std::min({pool.draining.after, pool.detached.after, pool.gone});
  }
  void may_have_given(const Attachment& pool, const Life& life) {
    if (!pool.extent.covers(life.extent))
      found("a block outside of its pool: " + text_of(life) + "; " + text_of(pool));
    if (life.made.after < pool.attached.before)
      found("a block of a pool that was not there yet: " + text_of(life) + "; " + text_of(pool));
    if (life.made.before > closed_at(pool))
      found("a detached pool gave out a block: " + text_of(life) + "; " + text_of(pool));
  }

  // One valid free is taken, unless the pool may have been revoked.
  void answer(const Life& life) {
    if (!life.ended.happened()) return;
    if (life.answer == Error::kNone) {
      if (life.revoked.after < life.ended.before)
        found("a free of a revoked block was taken: " + text_of(life));
      return;
    }
    const bool may_be_stale = life.revoked.before < life.ended.after;
    if (life.answer == Error::kStale && may_be_stale) return;
    found(std::string("a valid free was refused (") + error_text(life.answer) +
          "): " + text_of(life));
  }

  void ending(const Attachment& pool) {
    std::vector<Stretch> blocks, pins;
    each_near(pool.extent, [&](const Life& life) {
      if (life.extent.overlaps(pool.extent)) blocks.push_back(certain(life));
    });
    for (const PinLife& pin : history_.pins) {
      if (pin.extent.overlaps(pool.extent)) pins.push_back(certain(pin));
    }
    if (pool.detached.happened()) {
      if (pool.mode == DetachMode::kBusy && always_one(pool.detached, blocks))
        found("detach(kBusy) took a pool with a live block: " + text_of(pool));
      if (always_one(pool.detached, pins)) found("a pinned pool went: " + text_of(pool));
      if (pool.gone_calls != 1 || pool.gone < pool.detached.before ||
          pool.gone > pool.detached.after)
        found(text("gone was called %u times, or not in the detach: ", pool.gone_calls) +
              text_of(pool));
    } else if (pool.gone != kNever) {
      const auto at_the_end = [&](Stretch stretch) { return certain_at(stretch, pool.gone); };
      if (!pool.draining.happened() && pool.attached.happened())
        found("a pool went by itself: " + text_of(pool));
      if (std::any_of(blocks.begin(), blocks.end(), at_the_end))
        found("a draining pool went with a live block: " + text_of(pool));
      if (std::any_of(pins.begin(), pins.end(), at_the_end))
        found("a pinned pool drained away: " + text_of(pool));
      if (pool.gone_calls != 1)
        found(text("gone was called %u times: ", pool.gone_calls) + text_of(pool));
    }
  }

  // A pin holds something, and nothing is placed there while it does.
  void pinned(const PinLife& pin) {
    if (pin.whole_pool) return;
    bool holds = false;
    each_near(pin.extent, [&](const Life& life) {
      holds |= Extent{life.extent.base, life.usable}.covers(pin.extent) &&
               life.made.before < pin.made.after &&
               std::min(life.ended.after, life.revoked.after) > pin.made.before;
      if (life.extent.overlaps(pin.extent) && life.made.before > pin.made.after &&
          life.made.after < pin.ended.before)
        found("pinned memory was handed out: " + text_of(life) + "; " + text_of(pin));
    });
    for (const Glimpse& glimpse : history_.glimpses) {
      holds |= glimpse.extent.covers(pin.extent) && glimpse.window.before < pin.made.after &&
               glimpse.window.after > pin.made.before;
    }
    // What an older pin held may have ended before this history begins.
    if (!holds && pin.made.before >= history_.from)
      found("a pin of no live block: " + text_of(pin));
  }

  History& history_;
  std::unordered_map<std::uint64_t, const Attachment*> pools_;
  std::vector<const Life*> by_base_;
  std::size_t longest_ = 0;  // of them
  std::vector<std::string> findings_;
};

}  // namespace

std::vector<std::string> check(History& history) {
  return Checker(history).run();
}

}  // namespace exclave::soak
