// libexclave_malloc.so under a program that is linked with it, so that GoogleTest itself and the
// C++ library live on it, too.
#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/kernel_answers.hpp"

namespace {

constexpr std::size_t kPage = 4096;
// What the compiler cannot see through: sizes and alignments that it would warn of.
volatile std::size_t g_huge = PTRDIFF_MAX;
void (*volatile g_free)(void*) = &free;
void* (*volatile g_realloc)(void*, std::size_t) = &realloc;
void* (*volatile g_reallocarray)(void*, std::size_t, std::size_t) = &reallocarray;

bool is_aligned(const void* block, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}

bool holds(const void* block, unsigned char byte, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (std::size_t i = 0; i < size; ++i)
    if (bytes[i] != byte) return false;
  return true;
}

// Steps through classes, slab edges, runs of pages and what goes to the kernel by itself.
const std::vector<std::size_t>& sizes() {
  static const std::vector<std::size_t> all = {
      1,       7,       8,     15,    16,     17,      31,
      63,      64,      65,    127,   128,    129,     255,
      1000,    1024,    1025,  4095,  4096,   4097,    10000,
      32767,   32768,   32769, 65536, 100000, 1 << 20, (1 << 20) + 1,
      5 << 20, 70 << 20};
  return all;
}

// Runs the function in a child process; its exit status, or minus the signal that ended it.
template <class Function>
int in_child(const Function& function) {
  const pid_t child = fork();
  if (child == 0) _exit(function());
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// ---- One call at a time ----

TEST(Malloc, ServesEverySizeAlignedAndWritable) {
  for (const std::size_t size : sizes()) {
    void* const block = malloc(size);
    ASSERT_NE(block, nullptr) << size;
    EXPECT_TRUE(is_aligned(block, alignof(std::max_align_t))) << size;
    EXPECT_GE(malloc_usable_size(block), size);
    memset(block, 0x5a, malloc_usable_size(block));
    free(block);
  }
}

TEST(Malloc, ZeroBytesAreAUniqueBlock) {
  void* const a = malloc(0);
  void* const b = malloc(0);
  EXPECT_NE(a, nullptr);
  EXPECT_NE(b, nullptr);
  EXPECT_NE(a, b);
  free(a);
  free(b);
  void* const c = calloc(0, 8);
  EXPECT_NE(c, nullptr);
  free(c);
}

TEST(Malloc, TooMuchIsEnomem) {
  for (const std::size_t size :
       {std::size_t{g_huge}, std::size_t{g_huge} + 1, SIZE_MAX - 16, SIZE_MAX}) {
    errno = 0;
    EXPECT_EQ(malloc(size), nullptr);
    EXPECT_EQ(errno, ENOMEM);
  }
  errno = 0;
  EXPECT_EQ(calloc(std::size_t{g_huge}, 3), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_EQ(reallocarray(nullptr, std::size_t{g_huge}, 3), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_EQ(pvalloc(SIZE_MAX - 5), nullptr);
  EXPECT_EQ(errno, ENOMEM);
}

TEST(Malloc, FreeKeepsErrnoAndTakesNull) {
  errno = 1234;
  free(nullptr);
  void* const small = malloc(10);
  void* const large = malloc(200 << 20);
  errno = 1234;
  free(small);
  free(large);
  EXPECT_EQ(errno, 1234);
}

TEST(Malloc, FreeKeepsErrnoThoughTheKernelKeepsTheMemory) {
  using exclave::testing_support::KernelCall;
  EXPECT_EQ(exclave::testing_support::with_kernel_answers(
                SYS_munmap, [](const KernelCall&) { return long{-ENOMEM}; },
                [] {
                  // Of so much that lies idle one goes back.
                  void* const one = malloc(200 << 20);
                  void* const other = malloc(200 << 20);
                  free(one);
                  errno = 1234;
                  free(other);
                  return errno == 1234 ? 0 : 1;
                }),
            0);
}

TEST(Calloc, ZeroesWhatWasUsedBefore) {
  for (const std::size_t size : sizes()) {
    for (int round = 0; round < 3; ++round) {
      void* const dirty = malloc(size);
      ASSERT_NE(dirty, nullptr);
      memset(dirty, 0xff, malloc_usable_size(dirty));
      free(dirty);
      void* const zeroed = calloc(1, size);
      ASSERT_NE(zeroed, nullptr);
      EXPECT_TRUE(holds(zeroed, 0, size)) << size;
      memset(zeroed, 0xff, size);
      free(zeroed);
    }
  }
}

TEST(Realloc, KeepsContentsAcrossEverySize) {
  for (const std::size_t from : sizes()) {
    for (const std::size_t to : sizes()) {
      if (from + to > (std::size_t{16} << 20)) continue;
      void* const before = malloc(from);
      ASSERT_NE(before, nullptr);
      memset(before, 0x77, from);
      void* const after = realloc(before, to);
      ASSERT_NE(after, nullptr);
      EXPECT_TRUE(holds(after, 0x77, from < to ? from : to)) << from << " to " << to;
      EXPECT_GE(malloc_usable_size(after), to);
      memset(after, 0x11, malloc_usable_size(after));
      free(after);
    }
  }
}

TEST(Realloc, StaysInPlaceWhereItFits) {
  void* const block = malloc(1000);
  const std::size_t usable = malloc_usable_size(block);
  EXPECT_EQ(realloc(block, usable), block);
  EXPECT_EQ(realloc(block, usable - 1), block);
  EXPECT_EQ(realloc(block, usable / 2 + 1), block);
  free(block);
  void* const pages = malloc(1 << 20);
  memset(pages, 0x31, 1 << 20);
  EXPECT_EQ(realloc(pages, 100 << 10), pages) << "only the tail goes";
  EXPECT_LT(malloc_usable_size(pages), std::size_t{200} << 10);
  EXPECT_TRUE(holds(pages, 0x31, 100 << 10));
  free(pages);
}

TEST(Realloc, GrowsStepByStepWithFewMoves) {
  char* block = nullptr;
  int moves = 0;
  for (std::size_t size = 1; size < (8 << 20); size += 1 + size / 200) {
    char* const grown = static_cast<char*>(realloc(block, size));
    ASSERT_NE(grown, nullptr);
    moves += grown != block;
    block = grown;
    block[size - 1] = 1;
  }
  EXPECT_LT(moves, 250);
  free(block);
}

TEST(Realloc, NullAllocatesAndZeroFrees) {
  void* const block = realloc(nullptr, 100);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(realloc(block, 0), nullptr);
  void* const many = reallocarray(nullptr, 10, 10);
  ASSERT_NE(many, nullptr);
  EXPECT_GE(malloc_usable_size(many), 100u);
  free(many);
}

TEST(Realloc, FailureLeavesTheOldBlockAlone) {
  for (const std::size_t size : {std::size_t{100}, std::size_t{1} << 20}) {
    void* const block = malloc(size);
    memset(block, 0x42, size);
    errno = 0;
    EXPECT_EQ(realloc(block, std::size_t{g_huge}), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(g_reallocarray(block, std::size_t{g_huge}, 2), nullptr);
    EXPECT_TRUE(holds(block, 0x42, size));
    free(block);
  }
}

TEST(Aligned, EveryFunctionAndPowerOfTwo) {
  for (std::size_t alignment = sizeof(void*); alignment <= (std::size_t{4} << 20); alignment *= 2) {
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{100}, std::size_t{5000}, std::size_t{100000}}) {
      void* block = nullptr;
      ASSERT_EQ(posix_memalign(&block, alignment, size), 0);
      EXPECT_TRUE(is_aligned(block, alignment));
      memset(block, 1, size);
      free(block);
      for (auto* const function : {&memalign, &aligned_alloc}) {
        block = function(alignment, size);
        ASSERT_NE(block, nullptr);
        EXPECT_TRUE(is_aligned(block, alignment));
        EXPECT_GE(malloc_usable_size(block), size);
        memset(block, 2, size);
        block = realloc(block, size * 2);
        ASSERT_NE(block, nullptr);
        EXPECT_TRUE(holds(block, 2, size));
        free(block);
      }
    }
  }
  void* const page = valloc(10);
  EXPECT_TRUE(page != nullptr && is_aligned(page, kPage));
  free(page);
  void* const whole = pvalloc(10);
  EXPECT_TRUE(whole != nullptr && is_aligned(whole, kPage));
  EXPECT_GE(malloc_usable_size(whole), kPage);
  free(whole);
}

TEST(Aligned, WrongAlignmentsAreEinval) {
  int here = 0;
  void* const untouched = &here;
  void* block = untouched;
  errno = 77;
  for (const std::size_t alignment : {0u, 1u, 2u, 4u, 24u, 100u}) {
    EXPECT_EQ(posix_memalign(&block, alignment, 10), EINVAL) << alignment;
  }
  EXPECT_EQ(posix_memalign(&block, 64, std::size_t{g_huge}), ENOMEM);
  EXPECT_EQ(block, untouched);
  EXPECT_EQ(errno, 77) << "posix_memalign does not set it";
  for (const std::size_t alignment : {0u, 3u, 24u, 100u}) {
    errno = 0;
    EXPECT_EQ(aligned_alloc(alignment, 10), nullptr) << alignment;
    EXPECT_EQ(errno, EINVAL);
    errno = 0;
    EXPECT_EQ(memalign(alignment, 10), nullptr) << alignment;
    EXPECT_EQ(errno, EINVAL);
  }
}

TEST(UsableSize, NullHasNone) {
  EXPECT_EQ(malloc_usable_size(nullptr), 0u);
}

TEST(Trim, GivesIdleMemoryBack) {
  void* const block = malloc(40 << 20);
  free(block);
  malloc_trim(0);
  EXPECT_EQ(malloc_trim(0), 0) << "the second time there is nothing left";
}

// ---- glibc's other names ----

extern "C" {
void* __libc_malloc(std::size_t);
void __libc_free(void*);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* __libc_valloc(std::size_t);
void* __libc_pvalloc(std::size_t);
}

TEST(LibcNames, MixWithThePlainOnes) {
  for (const std::size_t size : {std::size_t{10}, std::size_t{100000}}) {
    __libc_free(malloc(size));
    free(__libc_malloc(size));
    void* const zeroed = __libc_calloc(1, size);
    EXPECT_TRUE(holds(zeroed, 0, size));
    free(zeroed);
    void* const block = __libc_realloc(malloc(size), 3 * size);
    EXPECT_GE(malloc_usable_size(block), 3 * size);
    EXPECT_EQ(__libc_realloc(block, 0), nullptr);
    for (void* const aligned :
         {__libc_memalign(kPage, size), __libc_valloc(size), __libc_pvalloc(size)}) {
      EXPECT_TRUE(is_aligned(aligned, kPage));
      EXPECT_GE(malloc_usable_size(aligned), size);
      free(aligned);
    }
  }
  EXPECT_EQ(__libc_calloc(std::size_t{g_huge}, 3), nullptr);
}

// ---- operator new ----

TEST(New, EveryForm) {
  ::operator delete(::operator new(10));
  ::operator delete (::operator new(10), std::size_t{10});
  ::operator delete[](::operator new[](100000));
  ::operator delete[](::operator new[](10), std::size_t{10});
  ::operator delete(::operator new(10, std::nothrow), std::nothrow);
  ::operator delete[](::operator new[](10, std::nothrow), std::nothrow);
  const std::align_val_t wide{512};
  void* block = ::operator new(10, wide);
  EXPECT_TRUE(is_aligned(block, 512));
  ::operator delete(block, wide);
  block = ::operator new[](10, wide);
  EXPECT_TRUE(is_aligned(block, 512));
  ::operator delete[](block, std::size_t{10}, wide);
  block = ::operator new(10, wide, std::nothrow);
  EXPECT_TRUE(is_aligned(block, 512));
  ::operator delete(block, wide, std::nothrow);
  block = ::operator new[](10, wide, std::nothrow);
  ::operator delete[](block, wide, std::nothrow);
  ::operator delete(nullptr);
}

TEST(New, ThrowsOrAnswersNullWithoutAHandler) {
  EXPECT_THROW((void)::operator new (std::size_t{g_huge}), std::bad_alloc);
  EXPECT_THROW((void)::operator new[](std::size_t{g_huge}, std::align_val_t{64}), std::bad_alloc);
  EXPECT_EQ(::operator new (std::size_t{g_huge}, std::nothrow), nullptr);
  EXPECT_EQ(::operator new (std::size_t{g_huge}, std::align_val_t{64}, std::nothrow), nullptr);
}

int g_handler_calls = 0;

TEST(New, AsksTheHandlerUntilItGivesUp) {
  const std::new_handler before = std::set_new_handler([] {
    if (++g_handler_calls % 3 == 0) throw std::bad_alloc();
  });
  EXPECT_THROW((void)::operator new (std::size_t{g_huge}), std::bad_alloc);
  EXPECT_EQ(g_handler_calls, 3);
  EXPECT_EQ(::operator new (std::size_t{g_huge}, std::nothrow), nullptr);
  EXPECT_EQ(g_handler_calls, 6);
  std::set_new_handler(before);
}

// ---- Threads ----

struct Box {
  std::mutex lock;
  std::vector<unsigned char*> blocks;
};

void fill(unsigned char* block, std::size_t size, unsigned char byte) {
  memcpy(block, &size, sizeof(size));
  memset(block + sizeof(size), byte, size - sizeof(size));
}

bool is_filled(const unsigned char* block, unsigned char byte) {
  std::size_t size = 0;
  memcpy(&size, block, sizeof(size));
  return holds(block + sizeof(size), byte, size - sizeof(size));
}

// Allocates, and frees what it finds in the box, which is mostly another thread's.
void churn(Box& box, unsigned seed, int rounds) {
  std::minstd_rand random(seed);
  for (int i = 0; i < rounds; ++i) {
    const std::size_t size = 16 + random() % (random() % 50 == 0 ? 200000 : 700);
    auto* mine = static_cast<unsigned char*>(malloc(size));
    ASSERT_NE(mine, nullptr);
    fill(mine, size, 0xc3);
    unsigned char* theirs = nullptr;
    {
      const std::lock_guard<std::mutex> guard(box.lock);
      box.blocks.push_back(mine);
      if (box.blocks.size() > 500) {
        std::swap(box.blocks[random() % box.blocks.size()], box.blocks.back());
        theirs = box.blocks.back();
        box.blocks.pop_back();
      }
    }
    if (theirs == nullptr) continue;
    ASSERT_TRUE(is_filled(theirs, 0xc3));
    free(theirs);
  }
}

void free_all(Box& box) {
  for (unsigned char* const block : box.blocks) {
    ASSERT_TRUE(is_filled(block, 0xc3));
    free(block);
  }
  box.blocks.clear();
}

TEST(Threads, FreeEachOthersBlocks) {
  Box box;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back([&box, i] { churn(box, i + 1, 20000); });
  for (std::thread& thread : threads) thread.join();
  free_all(box);
}

TEST(Threads, ComeAndGoAndLeaveBlocksBehind) {
  Box box;
  for (unsigned round = 0; round < 300; ++round) {
    std::thread a([&box, round] { churn(box, round * 2 + 1, 50); });
    std::thread b([&box, round] { churn(box, round * 2 + 2, 50); });
    a.join();
    b.join();
  }
  free_all(box);
}

// A destructor of the thread's own data that frees after the allocator heard of the end, and a
// block of this thread that only libc frees, later still.
TEST(Threads, FreeAndAllocateInLateDestructors) {
  static pthread_key_t key;
  ASSERT_EQ(pthread_key_create(&key,
                               [](void* block) {
                                 free(block);
                                 void* const another = malloc(3000);
                                 memset(another, 1, 3000);
                                 free(another);
                                 static thread_local int again = 0;
                                 if (++again < 10) pthread_setspecific(key, malloc(50));
                               }),
            0);
  // More threads than there are slots, so a slot that is not given back would be missed.
  for (int i = 0; i < 3000; ++i) {
    std::thread([] {
      (void)strerror(9999);  // libc's own buffer
      pthread_setspecific(key, malloc(100));
    }).join();
  }
  std::atomic<bool> fine{false};
  std::thread([&fine] { fine = std::make_unique<int>(1) != nullptr; }).join();
  EXPECT_TRUE(fine);
}

TEST(Threads, MoreAtOnceThanSlots) {
  constexpr int kThreads = 1300;
  std::atomic<int> here{0};
  std::atomic<int> good{0};
  std::atomic<bool> go{false};
  std::vector<void*> blocks(kThreads);
  std::vector<pthread_t> threads;
  struct Task {
    int index;
    std::atomic<int>*here, *good;
    std::atomic<bool>* go;
    std::vector<void*>* blocks;
  };
  std::vector<Task> tasks(kThreads);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 128 << 10);
  for (int i = 0; i < kThreads; ++i) {
    tasks[static_cast<std::size_t>(i)] = {i, &here, &good, &go, &blocks};
    pthread_t thread;
    const int created = pthread_create(
        &thread, &attributes,
        [](void* argument) -> void* {
          const Task& task = *static_cast<Task*>(argument);
          void*& block = (*task.blocks)[static_cast<std::size_t>(task.index)];
          block = malloc(100);
          ++*task.here;
          task.here->notify_one();
          task.go->wait(false);
          bool fine = block != nullptr;
          for (int k = 0; k < 100; ++k) {
            void* const other = malloc(static_cast<std::size_t>(k) * 40);
            fine = fine && other != nullptr;
            free(other);
          }
          block = realloc(block, 50000);
          *task.good += fine && block != nullptr;
          return nullptr;
        },
        &tasks[static_cast<std::size_t>(i)]);
    if (created != 0) break;  // a small machine
    threads.push_back(thread);
  }
  for (int n = here; n < static_cast<int>(threads.size()); n = here) here.wait(n);
  go = true;
  go.notify_all();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  EXPECT_EQ(good, static_cast<int>(threads.size()));
  for (void* const block : blocks) free(block);
}

// ---- Signals ----

std::atomic<void*> g_given_away{nullptr};
std::atomic<int> g_signals{0};

TEST(Signals, HandlersFreeAndAllocateInTheMiddle) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {
    ++g_signals;
    // Null with ENOMEM is allowed here; a deadlock or a lost block is not.
    free(malloc(100));
    free(malloc(100000));
    free(g_given_away.exchange(nullptr));
  };
  ASSERT_EQ(sigaction(SIGALRM, &action, &before), 0);
  const itimerval often{{0, 200}, {0, 200}};
  const itimerval never{};
  setitimer(ITIMER_REAL, &often, nullptr);
  std::minstd_rand random(1);
  for (int i = 0; i < 300000 || g_signals < 50; ++i) {
    void* const block = malloc(random() % 100000);
    void* const other = malloc(random() % 300);
    free(g_given_away.exchange(malloc(random() % 80000)));
    free(block);
    free(other);
  }
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
  free(g_given_away.exchange(nullptr));
}

// ---- fork ----

int use_the_heap() {
  std::vector<void*> blocks;
  for (std::size_t i = 0; i < 5000; ++i) {
    blocks.push_back(malloc(1 + i * 7 % 3000));
    if (blocks.back() == nullptr) return 1;
  }
  void* const large = malloc(4 << 20);
  if (large == nullptr) return 2;
  memset(large, 1, 4 << 20);
  free(large);
  for (void* const block : blocks) free(block);
  return 0;
}

TEST(Fork, UnderLoadChildAndParentGoOn) {
  Box box;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) {
    threads.emplace_back([&box, &stop, i] {
      while (!stop) churn(box, i + 1, 200);
    });
  }
  for (int round = 0; round < 30; ++round) {
    // The blocks must not change hands while the child looks.
    box.lock.lock();
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      box.lock.unlock();
      // Blocks of threads that are not here.
      for (unsigned char* const block : box.blocks) {
        if (!is_filled(block, 0xc3)) _exit(3);
        free(block);
      }
      if (const int failed = use_the_heap(); failed != 0) _exit(failed);
      int wrong = 0;
      std::thread([&wrong] { wrong = use_the_heap(); }).join();
      if (wrong != 0) _exit(4);
      // A child's child.
      const pid_t grandchild = fork();
      if (grandchild == 0) _exit(use_the_heap());
      int status = 0;
      waitpid(grandchild, &status, 0);
      _exit(status == 0 ? 0 : 5);
    }
    box.lock.unlock();
    ASSERT_GT(child, 0);
    ASSERT_EQ(use_the_heap(), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "round " << round;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  free_all(box);
}

TEST(Fork, OfManyThreadsAtOnce) {
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&failed] {
      for (int k = 0; k < 20; ++k) failed += in_child([] { return use_the_heap(); }) != 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

// What a program does that keeps its own lock in order across a fork, and asks for it before
// anything of it has allocated.
std::atomic<bool> g_handlers_work{false};
std::atomic<int> g_handlers_failed{0};
pthread_mutex_t g_program_lock = PTHREAD_MUTEX_INITIALIZER;

void allocate_in_handler() {
  for (const std::size_t size : {std::size_t{100}, std::size_t{100000}}) {
    void* const block = malloc(size);
    if (block == nullptr) ++g_handlers_failed;
    free(block);
  }
}

void program_before_fork() {
  if (!g_handlers_work) return;
  pthread_mutex_lock(&g_program_lock);
  allocate_in_handler();
}

void program_after_fork() {
  if (!g_handlers_work) return;
  allocate_in_handler();
  pthread_mutex_unlock(&g_program_lock);
}

void register_program_handlers() {
  // More keys than pthread_setspecific has room for without allocating; ours must be among the
  // first.
  pthread_key_t key;
  for (int i = 0; i < 40; ++i) pthread_key_create(&key, nullptr);
  pthread_atfork(&program_before_fork, &program_after_fork, &program_after_fork);
}
// Before the constructors of all libraries.
[[gnu::used, gnu::section(".preinit_array")]] void (*const g_early)() = &register_program_handlers;

TEST(Fork, HandlersFromBeforeTheFirstAllocationRunWithoutOurLocks) {
  const int ended = in_child([] {
    alarm(30);
    g_handlers_work = true;
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&stop] {
        while (!stop) {
          pthread_mutex_lock(&g_program_lock);
          free(malloc(100000));
          pthread_mutex_unlock(&g_program_lock);
        }
      });
    }
    int failed = 0;
    for (int round = 0; round < 50; ++round)
      failed += in_child([] { return g_handlers_failed.load(); }) != 0;
    stop = true;
    for (std::thread& thread : threads) thread.join();
    return failed + g_handlers_failed;
  });
  EXPECT_EQ(ended, 0);
}

// ---- Bad frees ----

constexpr const char* kDouble = "double free";
constexpr const char* kInside = "free of an address inside a block";
constexpr const char* kForeign = "free of an address that was never handed out";

// Does the function end the process by abort, after one line on stderr that says so?
template <class Function>
::testing::AssertionResult stops(const char* words, const Function& function) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return ::testing::AssertionFailure() << "no pipe";
  const int ended = in_child([&] {
    dup2(ends[1], STDERR_FILENO);
    function();
    return 0;
  });
  close(ends[1]);
  std::array<char, 500> text{};
  const ssize_t bytes = read(ends[0], text.data(), text.size() - 1);
  close(ends[0]);
  const std::string line(text.data(), bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  if (ended != -SIGABRT) return ::testing::AssertionFailure() << "ended with " << ended;
  // What the library calls it, and all digits of the address.
  const std::string whole = std::string("exclave malloc: ") + words + ": 0x";
  constexpr std::size_t kDigits = 16;
  if (line.rfind(whole, 0) != 0 || line.size() != whole.size() + kDigits + 1 ||
      line.find_first_not_of("0123456789abcdef", whole.size()) != line.size() - 1 ||
      line.back() != '\n') {
    return ::testing::AssertionFailure() << "said: " << line;
  }
  return ::testing::AssertionSuccess();
}

TEST(BadFree, StopsTheProgram) {
  for (const std::size_t size : {std::size_t{100}, std::size_t{100000}}) {
    EXPECT_TRUE(stops(kDouble, [size] {
      void* const block = malloc(size);
      g_free(block);
      g_free(block);
    }));
    EXPECT_TRUE(stops(kInside, [size] {
      char* const block = static_cast<char*>(malloc(size));
      g_free(block + 16);
    }));
    EXPECT_TRUE(stops(kDouble, [size] {
      char* const block = static_cast<char*>(malloc(size));
      g_free(block);
      (void)g_realloc(block, size * 3);
    }));
  }
  EXPECT_TRUE(stops(kForeign, [] {
    alignas(64) static char foreign[256];
    g_free(foreign + 64);
  }));
  EXPECT_TRUE(stops(kForeign, [] {
    int on_the_stack = 0;
    g_free(&on_the_stack);
  }));
}

TEST(BadFree, IsToldAfterEveryFormOfDelete) {
  constexpr std::align_val_t kWide{256};
  constexpr std::size_t kBytes = 10;
  EXPECT_TRUE(stops(kDouble, [] {
    void* volatile block = ::operator new(kBytes);
    ::operator delete(block);
    g_free(block);
  }));
  EXPECT_TRUE(stops(kDouble, [] {
    void* volatile block = ::operator new(kBytes);
    ::operator delete(block, kBytes);
    g_free(block);
  }));
  EXPECT_TRUE(stops(kDouble, [] {
    void* volatile block = ::operator new(kBytes, kWide);
    ::operator delete(block, kWide);
    g_free(block);
  }));
  EXPECT_TRUE(stops(kDouble, [] {
    void* volatile block = ::operator new[](kBytes, kWide);
    ::operator delete[](block, kBytes, kWide);
    g_free(block);
  }));
}

TEST(BadFree, IsToldInAThreadAndInAForkedChildToo) {
  void* const block = malloc(64);
  EXPECT_TRUE(stops(kDouble, [block] {
    std::thread([block] { g_free(block); }).join();
    g_free(block);
  }));
  free(block);
}

// ---- Frees from a handler that comes while the books are under way ----

std::atomic<bool> g_done{false};
std::atomic<char*> g_victim{nullptr};
void (*g_nested)(char*) = nullptr;

// Calls the function with a block of whole pages while this thread is inside malloc.
void in_the_middle_of_malloc(char* block, void (*function)(char*)) {
  g_victim = block;
  g_nested = function;
  struct sigaction action {};
  action.sa_handler = [](int) {
    // No size: its books cannot be asked just now.
    if (g_done || malloc_usable_size(g_victim) != 0) return;
    g_nested(g_victim);
    g_done = true;
  };
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often{{0, 200}, {0, 200}};
  const itimerval never{};
  setitimer(ITIMER_REAL, &often, nullptr);
  while (!g_done) free(malloc(100000));
  setitimer(ITIMER_REAL, &never, nullptr);
}

TEST(BadFree, InTheMiddleOfMallocWritesNothingAndIsTold) {
  EXPECT_TRUE(stops(kInside, [] {
    char* const block = static_cast<char*>(malloc(1 << 20));
    memset(block, 0x5a, 1 << 20);
    in_the_middle_of_malloc(block, [](char* it) {
      g_free(it + kPage);
      g_free(it + 5);
    });
    if (!holds(block, 0x5a, 1 << 20)) _exit(3);
    malloc_trim(0);
  }));
  EXPECT_TRUE(stops(kDouble, [] {
    in_the_middle_of_malloc(static_cast<char*>(malloc(1 << 20)), [](char* it) {
      g_free(it);
      g_free(it);
    });
    malloc_trim(0);
  }));
}

std::array<char*, 2000> g_many{};

TEST(BadFree, IsToldOfEachOfManyBlocksThatWereFreedInTheMiddleOfMalloc) {
  for (const std::size_t which : {0u, 510u, 511u, 512u, 1999u}) {
    const auto free_again = [which] {
      for (char*& block : g_many) block = static_cast<char*>(malloc(100000));
      in_the_middle_of_malloc(g_many[0], [](char*) {
        for (char* const block : g_many) g_free(block);
      });
      malloc_trim(0);
      g_free(g_many[which]);
    };
    // Its region may have gone back.
    EXPECT_TRUE(stops(kDouble, free_again) || stops(kForeign, free_again)) << which;
  }
}

}  // namespace
