// What one of the threads does.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "soak/driver.hpp"

namespace exclave::soak {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMostHeld = 300;

untrusted_bytes pointer(std::uintptr_t address) {
  return untrusted_bytes::unsafe_from_address(address);
}

void spin(std::uint64_t turns) {
  for (; turns != 0; --turns) __builtin_ia32_pause();
}

// Of an allocation. kNotFound: of a pool that may be on its way out.
bool may_fail_so(Error error, Placement where) {
  return error == Error::kOutOfMemory || error == Error::kQuota ||
         (error == Error::kNotFound && where.kind == Placement::Kind::kPool);
}

// The words that are marked: the first eight, and one in each 512 bytes.
template <class Function>
void each_marked_word(std::uintptr_t at, std::size_t bytes, const Function& function) {
  const std::size_t words = bytes / sizeof(std::uint64_t);
  for (std::size_t i = 0; i < words; i += i < 7 ? 1 : 64 - i % 64)
    function(*reinterpret_cast<volatile std::uint64_t*>(at + i * sizeof(std::uint64_t)), i);
}

}  // namespace

thread_local Worker* this_worker = nullptr;

void Worker::one_life(std::uint64_t steps) {
  this_worker = this;
  thread = static_cast<pid_t>(syscall(SYS_gettid));
  for (std::uint64_t i = 0; i != steps && findings == 0; ++i) {
    step();
    counts.steps.fetch_add(1, std::memory_order_relaxed);
  }
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  thread = 0;
  this_worker = nullptr;
  ++counts.threads;
}

void Worker::step() {
  accept();
  if (driver_.focus_ != nullptr && dice_.one_in(2)) {
    work_on_one_pool();
    return;
  }
  const std::uint64_t kind = dice_.below(100);
  if (kind < 18) {
    if (held_.size() < kMostHeld) allocate_anywhere();
  } else if (kind < 34) {
    if (const auto held = take_held()) free_one(*held);
  } else if (kind < 38) {
    move_one();
  } else if (kind < 43) {
    exchange_block();
  } else if (kind < 58) {
    if (held_.size() < kMostHeld) allocate_in_pool();
  } else if (kind < 70) {
    administer();
  } else if (kind < 75) {
    pin_something();
  } else if (kind < 80) {
    exchange_pin();
  } else if (kind < 88) {
    challenge();
  } else if (kind < 92) {
    for (int turns = 0; turns != 3000 && driver_.duel_.load() == nullptr; ++turns) spin(1);
  } else if (kind < 98) {
    look_around();
  } else {
    free_badly();
  }
}

// All three on one pool that is revoked again and again.
void Worker::work_on_one_pool() {
  if (dice_.one_in(2)) {
    administer();
  } else if (held_.size() < kMostHeld && !dice_.one_in(4)) {
    allocate_in_pool();
  } else if (const auto held = take_held()) {
    free_one(*held);
  }
}

Range& Worker::some_range() {
  if (driver_.focus_ != nullptr) return *driver_.focus_;
  return driver_.ranges_[dice_.below(driver_.ranges_.size())];
}

// The host, or a callback of the allocator, calls in. What it does needs none of the driver's locks
// for itself alone.
void Worker::reenter() {
  if (in_handler_ || depth_ >= 2) return;
  ++depth_;
  ++counts.reentries;
  switch (dice_.below(4)) {
    case 0:
      allocate_anywhere();
      break;
    case 1:
      if (const auto held = take_held()) free_one(*held);
      break;
    case 2:
      allocate_in_pool();
      break;
    default:
      look_around();
      break;
  }
  --depth_;
}

// ---- Bytes ----

// Calls the function while the block's pool cannot be revoked. False: it was, or may be about to
// be.
template <class Function>
bool Worker::with_access(const Held& held, const Function& function) {
  if (held.range == nullptr) {
    function();
    return true;
  }
  std::shared_lock lock(held.range->access, std::defer_lock);
  if (depth_ == 0) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return false;  // called back, this thread may hold another one, and waits for none
  }
  if (held.range->open_id != held.life->region.value) return false;
  function();
  return true;
}

void Worker::mark(Held& held) {
  held.mark = dice_.next();
  held.marked = with_access(held, [&] {
    each_marked_word(held.life->extent.base, held.life->extent.size,
                     [&](volatile std::uint64_t& word, std::size_t i) { word = held.mark + i; });
  });
}

void Worker::look(const Held& held, std::size_t bytes) {
  if (!held.marked) return;
  bool same = true;
  (void)with_access(held, [&] {
    each_marked_word(
        held.life->extent.base, bytes,
        [&](volatile std::uint64_t& word, std::size_t i) { same &= word == held.mark + i; });
  });
  if (!same) found("a live block changed", held.life->extent.base, held.life->extent.size);
}

void Worker::look_for_zeros(const Held& held) {
  (void)with_access(held, [&] {
    const auto* const bytes =
        reinterpret_cast<const volatile unsigned char*>(held.life->extent.base);
    for (std::size_t i = 0; i != held.life->extent.size; ++i) {
      if (bytes[i] == 0) continue;
      found("a zeroed block is not", held.life->extent.base, i);
      break;
    }
  });
}

// ---- Blocks ----

std::size_t Worker::some_size() {
  switch (dice_.below(16)) {
    case 0:
      return 1 + dice_.below(300 * kKiB);
    case 1:
    case 2:
      return 1 + dice_.below(40 * kKiB);
    default:
      return 1 + dice_.below(dice_.one_in(2) ? 64 : 1200);
  }
}

Held Worker::new_held(Range* range, RegionId region, std::size_t size, std::size_t alignment) {
  lives_.push_back(std::make_unique<Life>());
  Life& life = *lives_.back();
  life.region = region;
  return {&life, range, size, alignment};
}

void Worker::keep(Held held, std::uintptr_t at, const Window& made) {
  held.life->extent = {at, held.size};
  held.life->made = made;
  if (!note_usable(held)) return;
  mark(held);
  held_.push_back(held);
  ++counts.allocations;
}

// False: it is no block of that size, which has been said.
bool Worker::note_usable(const Held& held) {
  Life& life = *held.life;
  bool good = true;
  const bool open = with_access(held, [&] {
    const auto usable = subject().real().usable_size(pointer(life.extent.base));
    if (usable.ok() && *usable >= held.size) {
      life.usable = std::max(life.usable, *usable);
    } else {
      found("the usable size of a live block is wrong", usable.error());
      good = false;
    }
  });
  if (!open) life.usable = 2 * held.size + kPageBytes;  // no slot wastes as much
  return good;
}

// One that stayed goes on living, with what it had all the time.
void Worker::keep_resized(Held old, Held target, std::uintptr_t at, const Window& window) {
  Life& life = *old.life;
  if (at == life.extent.base) {
    old.size = target.size;
    old.alignment = 16;
    life.extent.size = std::min(life.extent.size, target.size);
    if (note_usable(old)) held_.push_back(old);
    return;
  }
  ++counts.moves;
  life.ended = window;
  target.life->extent = {at, target.size};
  target.mark = old.mark;
  target.marked = old.marked;
  look(target, std::min(life.extent.size, target.size));
  keep(target, at, window);
}

std::optional<Held> Worker::take_held() {
  if (held_.empty()) return std::nullopt;
  std::swap(held_[dice_.below(held_.size())], held_.back());
  const Held held = held_.back();
  held_.pop_back();
  return held;
}

void Worker::allocate_anywhere() {
  const std::size_t alignment = dice_.one_in(4) ? std::size_t{16} << dice_.below(9) : 16;
  Held held = new_held(nullptr, {}, some_size(), alignment);
  const bool zeroed = dice_.one_in(8);
  Window window;
  const auto block =
      journal_.stamped(&window, zeroed ? "allocate_zeroed" : "allocate", held.size, alignment, [&] {
        return zeroed ? subject().allocate_zeroed(held.size, alignment, Placement::anywhere())
                      : subject().allocate(held.size, alignment, Placement::anywhere());
      });
  if (!block.ok()) {
    if (!may_fail_so(block.error(), Placement::anywhere()))
      found("an allocation was answered so", block.error());
    return;
  }
  held.life->extent = {block->address(), held.size};
  if (zeroed) look_for_zeros(held);
  keep(held, block->address(), window);
}

void Worker::allocate_in_pool() {
  Range& range = some_range();
  const RegionId id{range.open_id};
  if (!id) return;
  // One in eight fills the pool, or half of it.
  const std::size_t size = dice_.one_in(8) ? range.extent.size / (1 + dice_.below(2)) : some_size();
  Held held = new_held(range.tame ? nullptr : &range, id, size, 16);
  const auto where = Placement::in_pool(id);
  const std::uint64_t way = dice_.below(5);
  if (way == 0) {
    move_into_pool(held, range.extent, where);
    return;
  }
  Window window;
  Result<untrusted_bytes> block = Error::kNotFound;
  if (way == 1) {
    block = journal_.stamped(&window, "allocate_zeroed in pool", size, id.value,
                             [&] { return subject().allocate_zeroed(size, 16, where); });
  } else if (way == 2) {
    block = journal_.stamped(&window, "allocate in pool", size, id.value,
                             [&] { return subject().allocate(size, 16, where); });
  } else {
    const auto made = journal_.stamped(&window, "Block::create in pool", size, id.value,
                                       [&] { return subject().create_handle(size, 16, where); });
    if (!made.ok()) return;  // it may have been revoked at any moment
    ++counts.handles;
    block = made->block;
    if (made->region != id) {
      found("a handle names another pool", block->address(), made->region.value);
      return;
    }
  }
  if (!block.ok()) {
    if (way == 1) glimpses_.push_back({range.extent, window});
    if (!may_fail_so(block.error(), where)) found("an allocation was answered so", block.error());
    return;
  }
  held.life->extent = {block->address(), size};
  if (way == 1) look_for_zeros(held);
  keep(held, block->address(), window);
}

// A block that no revoke can take moves into the pool.
void Worker::move_into_pool(Held target, Extent pool, Placement where) {
  const std::optional<Held> taken = take_held();
  if (!taken) return;
  const Held old = *taken;
  if (old.range != nullptr) {
    held_.push_back(old);
    return;
  }
  look(old);
  Window window;
  const std::uintptr_t at = old.life->extent.base;
  const auto block = journal_.stamped(&window, "reallocate into pool", at, where.pool.value, [&] {
    return subject().reallocate(pointer(at), target.size, 16, where);
  });
  if (!block.ok()) {
    held_.push_back(old);
    glimpses_.push_back({pool, window});
    if (!may_fail_so(block.error(), where)) found("a move was answered so", block.error());
    return;
  }
  keep_resized(old, target, block->address(), window);
}

// Of a block that no revoke can take, or while none can come.
void Worker::move_one() {
  const std::optional<Held> taken = take_held();
  if (!taken) return;
  const Held old = *taken;
  look(old);
  Held target = new_held(old.range, old.life->region, some_size(), 16);
  Window window;
  Result<untrusted_bytes> block = Error::kNone;
  const std::uintptr_t at = old.life->extent.base;
  const bool open = with_access(old, [&] {
    block = journal_.stamped(&window, "reallocate", at, target.size, [&] {
      return subject().reallocate(pointer(at), target.size, 16, Placement::anywhere());
    });
  });
  if (!open) {
    free_one(old);
    return;
  }
  if (!block.ok()) {
    held_.push_back(old);
    // It would stay in its pool, which may be draining.
    const auto stays = old.life->region || driver_.ranges_.back().extent.contains(at)
                           ? Placement::in_pool(old.life->region)
                           : Placement::anywhere();
    if (!may_fail_so(block.error(), stays)) found("a move was answered so", block.error());
    return;
  }
  keep_resized(old, target, block->address(), window);
}

void Worker::free_one(const Held& held) {
  look(held);
  Life& life = *held.life;
  const untrusted_bytes block = pointer(life.extent.base);
  const bool sized = dice_.one_in(2);
  Window window;
  Status freed;
  const auto by_pointer = [&] {
    freed = journal_.stamped(&window, sized ? "deallocate sized" : "deallocate", life.extent.base,
                             held.size, [&] {
                               return sized ? subject().deallocate(block, held.size, held.alignment)
                                            : subject().deallocate(block);
                             });
  };
  if ((life.region && dice_.one_in(2)) || !with_access(held, by_pointer)) {
    freed = journal_.stamped(&window, "deallocate_handle", life.extent.base, life.region.value,
                             [&] { return subject().deallocate_handle(block, life.region); });
  }
  life.ended = window;
  life.answer = freed.error();
  if (freed.error() == Error::kStale) ++counts.stale;
  ++counts.frees;
}

// Of a live block, so that its place is nobody else's.
void Worker::free_badly() {
  const std::optional<Held> held = take_held();
  if (!held) return;
  const std::uintptr_t at = held->life->extent.base + 1;
  Window window;
  (void)with_access(*held, [&] {
    const Status freed = journal_.stamped(&window, "deallocate badly", at, 0,
                                          [&] { return subject().deallocate(pointer(at)); });
    if (freed.error() != Error::kInteriorFree) found("a bad free was answered so", freed.error());
  });
  held_.push_back(*held);
}

void Worker::exchange_block() {
  std::optional<Held> mine = take_held();
  Driver::Stall& stall = driver_.market_[dice_.below(driver_.market_.size())];
  {
    const std::lock_guard lock(stall.mutex);
    std::swap(stall.held, mine);
  }
  if (mine) held_.push_back(*mine);
}

// ---- Pools ----

void Worker::administer() {
  Range& range = some_range();
  const std::unique_lock lock(range.admin, std::try_to_lock);
  if (!lock) return;
  if (range.pool == nullptr) {
    attach(range);
  } else if (range.pool->gone != kNever) {
    vacate(range);  // it drained away
  } else {
    detach(range);
  }
}

void Worker::attach(Range& range) {
  auto made = std::make_unique<Pool>();
  Pool& pool = *made;
  pool.record.extent = range.extent;
  pool.subject = &subject();
  {
    const std::lock_guard lock(driver_.pools_lock_);
    driver_.pools_.push_back(std::move(made));
  }
  AttachOptions options;
  options.device = range.tame ? 0 : 7;
  options.open_to_all = range.tame && dice_.one_in(2);
  options.gone = &Driver::on_gone;
  options.gone_context = &pool;
  const auto id =
      journal_.stamped(&pool.record.attached, "attach", range.extent.base, range.extent.size,
                       [&] { return subject().attach(range.extent, options); });
  if (!id.ok()) {
    pool.record.attached = {};
    found("an attach was answered so", id.error());
    return;
  }
  pool.record.id = *id;
  range.pool = &pool;
  const std::unique_lock lock(range.access);
  range.open_id = id->value;
  ++counts.attaches;
}

void Worker::detach(Range& range) {
  Pool& pool = *range.pool;
  auto mode = static_cast<DetachMode>(dice_.below(range.tame ? 2 : 3));
  if (driver_.focus_ != nullptr && !dice_.one_in(4)) mode = DetachMode::kRevoke;
  const bool revokes = mode == DetachMode::kRevoke;
  if (revokes) {
    const std::unique_lock lock(range.access);
    range.open_id = 0;
  }
  static constexpr const char* kNames[] = {"detach busy", "detach drain", "detach revoke"};
  Window window;
  const Status done =
      journal_.stamped(&window, kNames[static_cast<int>(mode)], range.extent.base,
                       pool.record.id.value, [&] { return subject().detach(range.extent, mode); });
  if (done.ok() && mode != DetachMode::kDrain) {
    pool.record.detached = window;
    pool.record.mode = mode;
    ++(revokes ? counts.revoked : counts.busy);
    vacate(range);
    return;
  }
  if (done.ok()) {
    if (!pool.record.draining.happened()) pool.record.draining = window;
    ++counts.drained;
    return;
  }
  ++counts.refused;
  // One that drains may be on its way out, and the callback still to come.
  const bool draining = pool.record.draining.happened();
  if (done.error() != Error::kPinned &&
      !(done.error() == Error::kBusy && mode == DetachMode::kBusy) &&
      !(done.error() == Error::kNotFound && draining))
    found("a detach was answered so", done.error());
  if (!revokes) return;
  const std::unique_lock lock(range.access);
  range.open_id = pool.record.id.value;
}

void Worker::vacate(Range& range) {
  {
    const std::unique_lock lock(range.access);
    range.open_id = 0;
  }
  const auto words = reinterpret_cast<volatile std::uint64_t*>(range.extent.base);
  const std::size_t count = range.extent.size / sizeof(std::uint64_t);
  const std::uint64_t mark = dice_.next();
  for (std::size_t i = 0; i != count; ++i) words[i] = mark;
  spin(dice_.below(dice_.one_in(8) ? 5000 : 200));
  for (std::size_t i = 0; i != count; ++i) {
    if (words[i] == mark) continue;
    found("a byte of a detached pool changed", range.extent.base + i * sizeof(std::uint64_t),
          range.pool->record.id.value);
    break;
  }
  range.pool = nullptr;
}

// ---- Pins ----

// Null: nothing stands there, or the pool is not there any more.
Pin* Worker::pin(Extent extent, bool whole_pool) {
  auto made = std::make_unique<Pin>();
  made->life.extent = extent;
  made->life.whole_pool = whole_pool;
  const auto id = journal_.stamped(&made->life.made, "pin", extent.base, extent.size,
                                   [&] { return subject().pin(extent); });
  if (!id.ok()) {
    if (id.error() != Error::kNotFound) found("a pin was answered so", id.error());
    return nullptr;
  }
  made->id = *id;
  ++counts.pins;
  pins_.push_back(std::move(made));
  return pins_.back().get();
}

void Worker::unpin(Pin& pin) {
  const Status done = journal_.stamped(&pin.life.ended, "unpin", pin.life.extent.base, pin.id.value,
                                       [&] { return subject().unpin(pin.id); });
  if (!done.ok()) found("an unpin was answered so", done.error());
}

void Worker::pin_something() {
  Pin* pinned = nullptr;
  if (dice_.one_in(8)) {
    const Extent pool = some_range().extent;
    pinned = pin(pool, true);
  } else {
    // A block of its own: nobody may free it before the pin has answered (Allocator::pin).
    const std::optional<Held> held = take_held();
    if (!held) return;
    pinned = pin({held->life->extent.base, 1}, false);
    held_.push_back(*held);
  }
  if (pinned == nullptr) return;
  // To whoever comes by; who stands there already goes.
  Driver::Stall& stall = driver_.market_[dice_.below(driver_.market_.size())];
  {
    const std::lock_guard lock(stall.mutex);
    std::swap(stall.pin, pinned);
  }
  if (pinned != nullptr) unpin(*pinned);
}

void Worker::exchange_pin() {
  Pin* pinned = nullptr;
  for (Driver::Stall& stall : driver_.market_) {
    const std::lock_guard lock(stall.mutex);
    if (stall.pin == nullptr || dice_.one_in(2)) continue;
    std::swap(stall.pin, pinned);
    break;
  }
  if (pinned != nullptr) unpin(*pinned);
}

void Worker::challenge() {
  const std::optional<Held> held = take_held();
  if (!held) return;
  Pin* const pinned = pin({held->life->extent.base, 1}, false);
  if (pinned == nullptr) {  // its pool was revoked
    free_one(*held);
    return;
  }
  duels_.push_back(std::make_unique<Duel>(Duel{pinned, *held, dice_.one_in(2)}));
  Duel& duel = *duels_.back();
  Duel* none = nullptr;
  const bool offered = driver_.duel_.compare_exchange_strong(none, &duel);
  if (offered) spin(dice_.below(200));
  fight(duel, duel.challenger_frees);
  Duel* mine = &duel;
  if (offered && !driver_.duel_.compare_exchange_strong(mine, nullptr)) {
    ++counts.duels;
    return;
  }
  fight(duel, !duel.challenger_frees);  // nobody came
}

void Worker::accept() {
  if (driver_.duel_.load(std::memory_order_relaxed) == nullptr) return;
  Duel* const duel = driver_.duel_.exchange(nullptr);
  if (duel == nullptr) return;
  spin(dice_.below(100));
  fight(*duel, !duel->challenger_frees);
}

void Worker::fight(const Duel& duel, bool frees) {
  if (frees) {
    free_one(duel.held);
  } else {
    unpin(*duel.pin);
  }
}

// ---- Looking ----

void Worker::look_around() {
  const std::optional<Held> held = take_held();
  if (!held) return;
  look(*held);
  Allocator& allocator = subject().real();
  const std::uintptr_t at = held->life->extent.base;
  switch (dice_.below(8)) {
    case 0:
      allocator.flush_thread();
      break;
    case 1:
      if (dice_.one_in(4)) allocator.trim();
      break;
    case 2:
      (void)with_access(*held, [&] {
        const auto usable = allocator.usable_size(pointer(at));
        if (!usable.ok() || *usable < held->life->extent.size)
          found("the usable size of a live block is wrong", usable.error());
      });
      break;
    case 3:
      (void)with_access(*held, [&] {
        const auto region = allocator.region_of(pointer(at));
        if (!region.ok() || (held->life->region && *region != held->life->region))
          found("the region of a live block is wrong", region.error());
      });
      break;
    case 4:
      (void)with_access(*held, [&] {
        const auto info = allocator.query(at, held->life->extent.size);
        if (!info.ok()) found("a live block lies in no region", info.error());
      });
      break;
    case 5:
      (void)allocator.next_run(at);
      break;
    case 6:
      if (dice_.one_in(16)) (void)allocator.statistics();
      break;
    default:
      if (const auto region = allocator.next_region(at); region.ok() && region->extent.empty())
        found("a region without a byte");
      break;
  }
  held_.push_back(*held);
}

// ---- The signal handler ----

void Worker::on_signal() {
  in_handler_ = true;
  ++counts.signals;
  if (handler_dice_.one_in(2)) {
    allocate_in_handler();
  } else {
    free_in_handler();
  }
  // The call that was interrupted takes its time.
  spin(handler_dice_.below(handler_dice_.one_in(8) ? 6000 : 500));
  in_handler_ = false;
}

void Worker::allocate_in_handler() {
  if (handler_held_count_ == handler_held_.size() || handler_life_count_ == handler_lives_.size())
    return;
  Life life;
  const std::size_t size = 1 + handler_dice_.below(handler_dice_.one_in(8) ? 50000 : 700);
  const auto block = handler_journal_.stamped(&life.made, "allocate", size, 16, [&] {
    return subject().real().allocate(size, 16, Placement::anywhere());
  });
  if (!block.ok()) {
    if (block.error() != Error::kReentered && !may_fail_so(block.error(), {}))
      found("an allocation was answered so", block.error());
    return;
  }
  life.extent = {block->address(), size};
  life.usable = 2 * size + kPageBytes;
  handler_lives_[handler_life_count_] = life;
  handler_held_[handler_held_count_++] = handler_life_count_++;
  ++counts.nested;
}

void Worker::free_in_handler() {
  if (handler_held_count_ == 0) return;
  Life& life = handler_lives_[handler_held_[handler_held_count_ - 1]];
  Window window;
  const Status freed = handler_journal_.stamped(
      &window, "deallocate", life.extent.base, life.extent.size,
      [&] { return subject().real().deallocate(pointer(life.extent.base)); });
  if (freed.error() == Error::kReentered) return;
  life.ended = window;
  life.answer = freed.error();
  --handler_held_count_;
  ++counts.nested;
}

}  // namespace exclave::soak
