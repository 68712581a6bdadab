// One allocator, and the threads that do everything at once to it.
//
// Worker is one thread after the other, with what they hold; Driver has what the workers share, and
// looks, whenever the threads have ended, for what cannot be.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "exclave/process_port.hpp"
#include "soak/history.hpp"
#include "soak/journal.hpp"
#include "soak/subject.hpp"

namespace exclave::soak {

// Something is wrong: says so, and the run comes to its end. Usable in a signal handler.
void found(const char* what, std::uintptr_t first = 0, std::uint64_t second = 0);
void found(const char* what, Error error);
inline std::atomic<unsigned> findings{0};

struct Counts {
  std::atomic<std::uint64_t> steps{0}, allocations{0}, frees{0}, moves{0}, handles{0}, stale{0},
      attaches{0}, busy{0}, drained{0}, revoked{0}, refused{0}, pins{0}, duels{0}, signals{0},
      nested{0}, reentries{0}, threads{0};
};
inline Counts counts;

// One attachment of a range; its callback is called by whichever thread makes it go.
struct Pool {
  Attachment record;
  std::atomic<Stamp> gone{kNever};
  std::atomic<unsigned> gone_calls{0};
  Subject* subject = nullptr;
};

// Memory that is attached and detached again and again.
struct Range {
  Extent extent{};
  // Never revoked, and open to all: its blocks are freed by bare pointers.
  bool tame = false;
  std::mutex admin;      // of whoever attaches and detaches
  Pool* pool = nullptr;  // guarded by admin; null: not attached
  // Shared by whoever touches bytes of a block here, or frees it by a bare pointer; then he finds
  // the id of the block's pool in open_id, which is 0 while a revoke may be under way.
  std::shared_mutex access;
  std::atomic<std::uint64_t> open_id{0};
};

struct Pin {
  PinId id;
  PinLife life;
};

// A block that nobody has freed.
struct Held {
  Life* life = nullptr;
  Range* range = nullptr;  // null: it cannot be revoked
  std::size_t size = 0;    // as it was asked for last
  std::size_t alignment = 16;
  std::uint64_t mark = 0;  // what its bytes are
  bool marked = false;
};

// Somebody frees a pinned block and somebody else unpins it, at the same time.
struct Duel {
  Pin* pin;
  Held held;
  bool challenger_frees;
};

class Worker;

// The process port; before it answers, it calls in again.
struct CallingPort {
  ProcessPort& port;

  PortTable table() noexcept { return bind_port(*this); }
  Extent enclave() noexcept { return port.enclave(); }
  Extent book_window() noexcept { return port.book_window(); }
  void* trusted_reserve(std::size_t bytes) noexcept { return port.trusted_reserve(bytes); }
  void trusted_release(void* memory, std::size_t bytes) noexcept {
    port.trusted_release(memory, bytes);
  }
  bool entropy(void* memory, std::size_t bytes) noexcept { return port.entropy(memory, bytes); }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept;
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept;
  HostReply host_map(const MapRequest& request) noexcept { return port.host_map(request); }
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
    return port.host_unmap(address, bytes);
  }
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
    return port.host_protect(address, bytes, protection);
  }
};

class Driver {
 public:
  static constexpr unsigned kWorkers = 3;

  Driver(std::uint64_t seed, Plant plant);
  ~Driver();
  // False: no address space.
  bool open();
  // The threads start, work and end; then all is looked at.
  void round();
  // Everything is freed, unpinned and detached, and the allocator destroyed.
  void close();
  void tell_journals() const;

 private:
  friend class Worker;

  static void on_gone(void* context, std::uint64_t, std::uintptr_t, std::size_t);
  static void on_misuse(void*, std::int32_t, std::uintptr_t, std::size_t);
  static bool on_rescue(void* context, std::size_t);
  void send_signals();
  void check_quiet();
  void check_history();
  std::vector<Held> all_held();
  void free_all();

  const Plant plant_;
  const std::uint64_t seed_;
  Dice dice_;
  Config config_;
  ProcessPort* port_ = nullptr;
  std::optional<CallingPort> calling_;
  std::optional<Allocator> allocator_;
  std::optional<Subject> subject_;
  std::array<Range, 3> ranges_;
  Range* focus_ = nullptr;  // of this round: the one range that the threads are about, if any
  std::mutex pools_lock_;
  std::vector<std::unique_ptr<Pool>> pools_;  // guarded by pools_lock_
  std::array<std::unique_ptr<Worker>, kWorkers> workers_;
  std::atomic<unsigned> running_{0};
  struct Stall {
    std::mutex mutex;
    std::optional<Held> held;
    Pin* pin = nullptr;
  };
  std::array<Stall, 16> market_;
  std::atomic<Duel*> duel_{nullptr};
  Stamp from_ = 0;  // of this round
};

class Worker {
 public:
  Worker(Driver& driver, std::uint64_t seed)
      : driver_(driver), dice_(seed), handler_dice_(seed + 1) {}

  void one_life(std::uint64_t steps);
  void on_signal();
  // In a callback.
  void reenter();
  // 0: none that may be sent a signal.
  std::atomic<pid_t> thread{0};

 private:
  friend class Driver;

  Subject& subject() { return *driver_.subject_; }
  void step();
  void work_on_one_pool();
  Range& some_range();

  // ---- Bytes ----
  template <class Function>
  bool with_access(const Held& held, const Function& function);
  void mark(Held& held);
  // The first bytes of what is marked.
  void look(const Held& held, std::size_t bytes);
  void look(const Held& held) { look(held, held.life->extent.size); }
  void look_for_zeros(const Held& held);

  // ---- Blocks ----
  std::size_t some_size();
  Held new_held(Range* range, RegionId region, std::size_t size, std::size_t alignment);
  void keep(Held held, std::uintptr_t at, const Window& made);
  bool note_usable(const Held& held);
  void keep_resized(Held old, Held target, std::uintptr_t at, const Window& window);
  std::optional<Held> take_held();
  void allocate_anywhere();
  void allocate_in_pool();
  void move_into_pool(Held target, Extent pool, Placement where);
  void move_one();
  void free_one(const Held& held);
  void free_badly();
  void exchange_block();

  // ---- Pools ----
  void administer();
  void attach(Range& range);
  void detach(Range& range);
  // It has been detached; nobody writes there but the driver.
  void vacate(Range& range);

  // ---- Pins ----
  Pin* pin(Extent extent, bool whole_pool);
  void unpin(Pin& pin);
  void pin_something();
  void exchange_pin();
  void challenge();
  void accept();
  void fight(const Duel& duel, bool frees);

  void look_around();

  Driver& driver_;
  Dice dice_;
  Journal journal_;
  std::vector<Held> held_;
  std::vector<std::unique_ptr<Life>> lives_;
  std::vector<Glimpse> glimpses_;
  std::vector<std::unique_ptr<Pin>> pins_;
  std::vector<std::unique_ptr<Duel>> duels_;
  unsigned depth_ = 0;  // of callbacks

  // The signal handler's, which takes no memory of its own.
  void allocate_in_handler();
  void free_in_handler();
  Dice handler_dice_;
  Journal handler_journal_;
  std::atomic<bool> in_handler_{false};
  std::array<Life, 4096> handler_lives_{};
  std::size_t handler_life_count_ = 0;
  std::array<std::size_t, 16> handler_held_{};  // indices in handler_lives_
  std::size_t handler_held_count_ = 0;
};

extern thread_local Worker* this_worker;

}  // namespace exclave::soak
