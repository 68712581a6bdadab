#include "port/thread_slot.hpp"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <new>

#include "exclave/process_port.hpp"

namespace exclave {

namespace detail {
__thread std::uint32_t thread_slot_word __attribute__((tls_model("initial-exec"))) = 0;
}  // namespace detail

namespace {

constexpr std::uint32_t kWords = kMaxThreadSlots / 64;
static_assert(kMaxThreadSlots % 64 == 0);

// Allocators keep a word for each slot, which its thread writes in every call, side by side. So
// slots are given out eight apart, and only from the 129th thread on do two of them share a cache
// line.
constexpr std::uint32_t kApart = 8;
constexpr std::uint32_t slot_of_rank(std::uint32_t rank) noexcept {
  return rank % (kMaxThreadSlots / kApart) * kApart + rank / (kMaxThreadSlots / kApart);
}
constexpr std::uint32_t rank_of_slot(std::uint32_t slot) noexcept {
  return slot / kApart + slot % kApart * (kMaxThreadSlots / kApart);
}
static_assert(slot_of_rank(1) == kApart && slot_of_rank(kMaxThreadSlots - 1) < kMaxThreadSlots &&
              rank_of_slot(slot_of_rank(777)) == 777);

// By rank: a set bit is a slot in use. A claim acquires what the giving back released: the heap
// that the last owner left.
std::atomic<std::uint64_t> g_slots_in_use[kWords];

// By rank: the thread that has the slot, so that one is found that it never gave back: claimed in
// the last round of its destructors, after ours. The low half is its id; 0: none, or not known. The
// high half counts the changes, for the kernel gives an id out again.
std::atomic<std::uint64_t> g_owners[kMaxThreadSlots];

constexpr std::uint64_t next_owner(std::uint64_t before, pid_t thread) noexcept {
  return ((before >> 32) + 1) << 32 | static_cast<std::uint32_t>(thread);
}
// Only by who has the slot.
void set_owner(std::uint32_t rank, pid_t thread) noexcept {
  std::atomic<std::uint64_t>& owner = g_owners[rank];
  owner.store(next_owner(owner.load(std::memory_order_relaxed), thread), std::memory_order_relaxed);
}

std::uint32_t claim_lowest_slot() noexcept {
  for (std::uint32_t i = 0; i < kWords; ++i) {
    std::uint64_t seen = g_slots_in_use[i].load(std::memory_order_relaxed);
    while (~seen != 0) {
      const auto bit = static_cast<std::uint32_t>(std::countr_one(seen));
      if (g_slots_in_use[i].compare_exchange_weak(seen, seen | (std::uint64_t{1} << bit),
                                                  std::memory_order_acquire,
                                                  std::memory_order_relaxed)) {
        return slot_of_rank(i * 64 + bit);
      }
    }
  }
  return kNoThreadSlot;
}

void give_back_slot(std::uint32_t slot) noexcept {
  const std::uint32_t rank = rank_of_slot(slot);
  set_owner(rank, 0);
  g_slots_in_use[rank / 64].fetch_and(~(std::uint64_t{1} << (rank % 64)),
                                      std::memory_order_release);
}

// Asks the kernel for each owner, which is slow: where all are alive, not again for as many
// questions.
std::uint32_t claim_slot_of_dead_thread() noexcept {
  static std::atomic<std::uint32_t> questions_left{0};
  std::uint32_t left = questions_left.load(std::memory_order_relaxed);
  while (left != 0) {
    if (questions_left.compare_exchange_weak(left, left - 1, std::memory_order_relaxed))
      return kNoThreadSlot;
  }
  const int saved = errno;
  const pid_t process = getpid();
  std::uint32_t claimed = kNoThreadSlot;
  for (std::uint32_t rank = 0; rank < kMaxThreadSlots && claimed == kNoThreadSlot; ++rank) {
    std::uint64_t owner = g_owners[rank].load(std::memory_order_relaxed);
    const auto thread = static_cast<pid_t>(static_cast<std::uint32_t>(owner));
    // Acquire: whoever takes it over comes after all that the dead thread did.
    if (thread != 0 && tgkill(process, thread, 0) != 0 && errno == ESRCH &&
        g_owners[rank].compare_exchange_strong(owner, next_owner(owner, 0),
                                               std::memory_order_acquire)) {
      claimed = slot_of_rank(rank);
    }
  }
  if (claimed == kNoThreadSlot) questions_left.store(kMaxThreadSlots, std::memory_order_relaxed);
  errno = saved;
  return claimed;
}

// One registration. It stays linked while a thread runs its hook, so a walk can go on from it.
struct Hook {
  ThreadExitHook function;
  void* context;
  Hook* next = nullptr;
  std::uint32_t running = 0;
  bool removed = false;
};

// Plain pthread objects: ready before any constructor ran, and never destroyed under a thread that
// ends late.
pthread_mutex_t g_hooks_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t g_hook_finished = PTHREAD_COND_INITIALIZER;
Hook* g_hooks = nullptr;  // guarded by g_hooks_lock, as are the hooks' fields

// No lock is held while a hook runs: it may call the host, which may stall.
void run_hooks(std::uint32_t slot) noexcept {
  pthread_mutex_lock(&g_hooks_lock);
  for (Hook* hook = g_hooks; hook != nullptr; hook = hook->next) {
    if (hook->removed) continue;
    ++hook->running;
    pthread_mutex_unlock(&g_hooks_lock);
    hook->function(hook->context, slot);
    pthread_mutex_lock(&g_hooks_lock);
    --hook->running;
    if (hook->removed && hook->running == 0) {
      // The waiter unlinks and frees it, but not before this walk has read next: the lock is still
      // held.
      pthread_cond_broadcast(&g_hook_finished);
    }
  }
  pthread_mutex_unlock(&g_hooks_lock);
}

extern "C" void exclave_process_thread_ends(void*) {
  const std::uint32_t word = detail::thread_slot_word;
  if (word == 0) return;
  run_hooks(word - 1);
  detail::thread_slot_word = 0;
  give_back_slot(word - 1);
}

// The key plus one; 0: not made yet. Made without a lock, so that a signal handler may come in at
// any point.
std::atomic<std::uint32_t> g_key_word;

bool thread_end_key(pthread_key_t& key) noexcept {
  std::uint32_t word = g_key_word.load(std::memory_order_acquire);
  if (word == 0) {
    pthread_key_t made;
    if (pthread_key_create(&made, exclave_process_thread_ends) != 0) return false;
    // Release pairs with the acquire above: a thread that sees the key may use it.
    if (g_key_word.compare_exchange_strong(word, made + 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
      word = made + 1;
    } else {
      pthread_key_delete(made);
    }
  }
  key = word - 1;
  return true;
}

}  // namespace

std::uint32_t detail::assign_thread_slot_slow() noexcept {
  pthread_key_t key;
  if (!thread_end_key(key)) return kNoThreadSlot;
  std::uint32_t claimed = claim_lowest_slot();
  if (claimed == kNoThreadSlot) claimed = claim_slot_of_dead_thread();
  if (claimed == kNoThreadSlot) return kNoThreadSlot;
  // A signal handler may have asked meanwhile and been given another slot: the first one stands.
  // One instruction, so that no signal comes between the look and the store.
  std::uint32_t expected = 0;
  if (!__atomic_compare_exchange_n(&thread_slot_word, &expected, claimed + 1, false,
                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    give_back_slot(claimed);
    return expected - 1;
  }
  set_owner(rank_of_slot(claimed), gettid());
  // Last, because where many keys came before ours it allocates, and malloc may be what is built
  // upon this port. Any value but null makes the destructor run; the slot is in thread_slot_word.
  if (pthread_setspecific(key, &g_slots_in_use) != 0) {
    thread_slot_word = 0;
    give_back_slot(claimed);
    return kNoThreadSlot;
  }
  return claimed;
}

std::uint32_t detail::claim_thread_slot() noexcept {
  return claim_lowest_slot();
}

bool register_thread_exit(ThreadExitHook hook, void* context) noexcept {
  // A page for each allocator, which has megabytes: malloc may be what is built upon this port.
  void* const page =
      mmap(nullptr, sizeof(Hook), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  Hook* const added = new (page) Hook{hook, context};
  pthread_mutex_lock(&g_hooks_lock);
  Hook** link = &g_hooks;
  while (*link != nullptr) link = &(*link)->next;
  *link = added;
  pthread_mutex_unlock(&g_hooks_lock);
  return true;
}

void unregister_thread_exit(ThreadExitHook hook, void* context) noexcept {
  pthread_mutex_lock(&g_hooks_lock);
  Hook* found = g_hooks;
  while (found != nullptr &&
         (found->removed || found->function != hook || found->context != context)) {
    found = found->next;
  }
  if (found != nullptr) {
    found->removed = true;
    while (found->running != 0) pthread_cond_wait(&g_hook_finished, &g_hooks_lock);
    Hook** link = &g_hooks;
    while (*link != found) link = &(*link)->next;
    *link = found->next;
  }
  pthread_mutex_unlock(&g_hooks_lock);
  if (found != nullptr) munmap(found, sizeof(Hook));
}

// The child's threads but this one are gone, in whatever they were. Nobody holds the lock across a
// fork for long, but one of them may have held it: it is made anew.
void ProcessPort::forget_other_threads() noexcept {
  g_hooks_lock = PTHREAD_MUTEX_INITIALIZER;
  g_hook_finished = PTHREAD_COND_INITIALIZER;
  for (Hook* hook = g_hooks; hook != nullptr; hook = hook->next) hook->running = 0;
  for (std::atomic<std::uint64_t>& slots : g_slots_in_use)
    slots.store(0, std::memory_order_relaxed);
  for (std::uint32_t rank = 0; rank < kMaxThreadSlots; ++rank) set_owner(rank, 0);
  const std::uint32_t word = detail::thread_slot_word;
  if (word == 0) return;
  const std::uint32_t rank = rank_of_slot(word - 1);
  g_slots_in_use[rank / 64].store(std::uint64_t{1} << (rank % 64), std::memory_order_relaxed);
  set_owner(rank, gettid());
}

}  // namespace exclave
