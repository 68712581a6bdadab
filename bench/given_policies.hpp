// Who is measured on memory that somebody else brings: exclave's attached pools, and the allocators
// of others that can be told to serve from a given range and from nowhere else. The workloads and
// the policies' face are those of policies.hpp.
//
// A peer's library is opened when its policy is first used, so that nothing has to be there to
// build this program; Boost's is a header. The types and constants of their interfaces are declared
// here as their manuals state them: memkind(3), jemalloc(3), mimalloc's and DPDK's programmer's
// guides.
#pragma once

#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if __has_include(<boost/interprocess/managed_external_buffer.hpp>)
#define EXCLAVE_BENCH_BOOST 1
// Their headers do not meet our warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>
#pragma GCC diagnostic pop
#else
#define EXCLAVE_BENCH_BOOST 0
#endif

#include "policies.hpp"

namespace bench {

[[noreturn]] inline void stop(const char* what) {
  std::fprintf(stderr, "exclave_bench: %s\n", what);
  std::exit(1);
}

// How much each contender is given in one range. pc5 asks for more before the first block.
inline std::size_t given_bytes = std::size_t{256} << 20;

// A range for one contender, with huge pages where the process may have them. Never given back.
inline exclave::Extent given_range(std::size_t bytes) {
  // As mimalloc wants its arenas.
  constexpr std::size_t kAlignment = std::size_t{64} << 20;
  void* const mapped = mmap(nullptr, bytes + kAlignment, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) stop("no memory to give");
  const std::uintptr_t base =
      (reinterpret_cast<std::uintptr_t>(mapped) + kAlignment - 1) & ~(kAlignment - 1);
  (void)madvise(reinterpret_cast<void*>(base), bytes, MADV_HUGEPAGE);
  return {base, bytes};
}

// ---- exclave ----

enum class Given { kPool, kDevice, kManyPools };

constexpr exclave::DeviceTag kBenchDevice = 7;
constexpr std::size_t kManyPools = 64;
// So that each holds some of the largest blocks.
constexpr std::size_t kPoolOfManyBytes = std::size_t{32} << 20;

inline exclave::RegionId attach_given(exclave::Extent range) {
  exclave::AttachOptions options;
  options.device = kBenchDevice;
  const auto id = exclave_allocator().attach(range, options);
  if (!id.ok()) stop("attach failed");
  return *id;
}

inline exclave::Placement given_placement(Given given) {
  if (given == Given::kPool)
    return exclave::Placement::in_pool(attach_given(given_range(given_bytes)));
  if (given == Given::kDevice) {
    attach_given(given_range(given_bytes));
  } else {
    for (std::size_t i = 0; i < kManyPools; ++i) attach_given(given_range(kPoolOfManyBytes));
  }
  return exclave::Placement::on_device(kBenchDevice);
}

template <Given kGiven>
struct ExclaveGivenPolicy : ExclavePolicy {
  static constexpr const char* kName = kGiven == Given::kPool     ? "exclave-pool"
                                       : kGiven == Given::kDevice ? "exclave-device"
                                                                  : "exclave-device-64";

  static Block allocate(std::size_t size) { return placed(size, kAlignment); }
  static Block allocate_pages(std::size_t size) { return placed(size, exclave::kPageBytes); }

 private:
  static constexpr std::size_t kAlignment = 16;  // as allocate(size) gives

  static Block placed(std::size_t size, std::size_t alignment) {
    static const exclave::Placement where = given_placement(kGiven);
    const auto block = exclave_allocator().allocate(size, alignment, where);
    if (!block.ok()) stop("the pool is full");
    return *block;
  }
};

// ---- Peers ----

class Library {
 public:
  // Null: what is loaded already, preloaded say.
  explicit Library(const char* name) : handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) stop(dlerror());
  }
  template <class Function>
  void find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr) stop(dlerror());
  }

 private:
  void* handle_;
};

// A peer has: kName, and an object with allocate, allocate_pages and free, made when it is first
// used.
template <class Peer>
struct PeerPolicy {
  using Block = void*;
  static constexpr const char* kName = Peer::kName;

  static Block allocate(std::size_t size) { return given(peer().allocate(size)); }
  static Block allocate_pages(std::size_t size) { return given(peer().allocate_pages(size)); }
  static void deallocate(Block block) { peer().free(block); }
  static void write_word(Block block, std::uint64_t value) {
    *static_cast<volatile std::uint64_t*>(block) = value;
  }
  static std::uint64_t host_calls() { return 0; }

 private:
  static Peer& peer() {
    static Peer& peer = *new Peer(given_range(given_bytes));
    return peer;
  }
  static Block given(void* block) {
    if (block == nullptr) stop("the range is full");
    benchmark::DoNotOptimize(block);
    return block;
  }
};

class MemkindPeer {
 public:
  static constexpr const char* kName = "memkind";

  explicit MemkindPeer(exclave::Extent range) {
    const Library library("libmemkind.so.0");
    int (*create)(void*, std::size_t, void**);
    library.find("memkind_create_fixed", create);
    library.find("memkind_malloc", malloc_);
    library.find("memkind_posix_memalign", memalign_);
    library.find("memkind_free", free_);
    if (create(reinterpret_cast<void*>(range.base), range.size, &kind_) != 0)
      stop("memkind_create_fixed failed");
  }
  void* allocate(std::size_t size) { return malloc_(kind_, size); }
  void* allocate_pages(std::size_t size) {
    void* block = nullptr;
    return memalign_(kind_, &block, exclave::kPageBytes, size) == 0 ? block : nullptr;
  }
  void free(void* block) { free_(kind_, block); }

 private:
  void* kind_ = nullptr;
  void* (*malloc_)(void*, std::size_t) = nullptr;
  int (*memalign_)(void*, void**, std::size_t, std::size_t) = nullptr;
  void (*free_)(void*, void*) = nullptr;
};

// An arena whose extents come from the range; each thread is bound to it, so that its cache serves.
// Preloaded, for its thread-local data does not fit a library that is opened late.
class JemallocPeer {
 public:
  static constexpr const char* kName = "jemalloc-arena";

  explicit JemallocPeer(exclave::Extent range) {
    next_ = range.base;
    end_ = range.end();
    const Library program(nullptr);
    program.find("mallctl", mallctl_);
    program.find("malloc", malloc_);
    program.find("aligned_alloc", aligned_);
    program.find("free", free_);
    static const Hooks hooks = {&take,   &refuse_free, nullptr, &commit, &refuse,
                                &refuse, &refuse,      &split,  &merge};
    const Hooks* wanted = &hooks;
    std::size_t size = sizeof(arena_);
    if (mallctl_("arenas.create", &arena_, &size, &wanted, sizeof(wanted)) != 0)
      stop("arenas.create failed");
  }
  void* allocate(std::size_t size) {
    bind();
    return malloc_(size);
  }
  void* allocate_pages(std::size_t size) {
    bind();
    return aligned_(exclave::kPageBytes, size);
  }
  void free(void* block) { free_(block); }

 private:
  struct Hooks {
    void* (*alloc)(Hooks*, void*, std::size_t, std::size_t, bool*, bool*, unsigned);
    bool (*dalloc)(Hooks*, void*, std::size_t, bool, unsigned);
    void (*destroy)(Hooks*, void*, std::size_t, bool, unsigned);
    bool (*commit)(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
    bool (*decommit)(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
    bool (*purge_lazy)(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
    bool (*purge_forced)(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned);
    bool (*split)(Hooks*, void*, std::size_t, std::size_t, std::size_t, bool, unsigned);
    bool (*merge)(Hooks*, void*, std::size_t, void*, std::size_t, bool, unsigned);
  };
  // Called under the arena's lock. True is the hooks' no.
  static void* take(Hooks*, void* wanted, std::size_t size, std::size_t alignment, bool* zero,
                    bool* commit, unsigned) {
    const std::uintptr_t base = (next_ + alignment - 1) & ~(alignment - 1);
    if (wanted != nullptr || base > end_ || size > end_ - base) return nullptr;
    next_ = base + size;
    *zero = *commit = true;  // fresh from mmap
    return reinterpret_cast<void*>(base);
  }
  static bool refuse_free(Hooks*, void*, std::size_t, bool, unsigned) { return true; }
  static bool commit(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned) {
    return false;
  }
  static bool refuse(Hooks*, void*, std::size_t, std::size_t, std::size_t, unsigned) {
    return true;
  }
  static bool split(Hooks*, void*, std::size_t, std::size_t, std::size_t, bool, unsigned) {
    return false;
  }
  static bool merge(Hooks*, void*, std::size_t, void*, std::size_t, bool, unsigned) {
    return false;
  }

  void bind() {
    thread_local bool bound = false;
    if (__builtin_expect(bound, 1)) return;
    if (mallctl_("thread.arena", nullptr, nullptr, &arena_, sizeof(arena_)) != 0)
      stop("thread.arena failed");
    bound = true;
  }

  static inline std::uintptr_t next_ = 0, end_ = 0;
  unsigned arena_ = 0;
  int (*mallctl_)(const char*, void*, std::size_t*, void*, std::size_t) = nullptr;
  void* (*malloc_)(std::size_t) = nullptr;
  void* (*aligned_)(std::size_t, std::size_t) = nullptr;
  void (*free_)(void*) = nullptr;
};

// A heap for each thread, in one arena that nothing else takes memory from.
class MimallocPeer {
 public:
  static constexpr const char* kName = "mimalloc-arena";

  explicit MimallocPeer(exclave::Extent range) {
    const Library program(nullptr);
    bool (*manage)(void*, std::size_t, bool, bool, bool, int, bool, int*);
    program.find("mi_manage_os_memory_ex", manage);
    program.find("mi_heap_new_in_arena", new_heap_);
    program.find("mi_heap_malloc", malloc_);
    program.find("mi_heap_malloc_aligned", aligned_);
    program.find("mi_free", free_);
    if (!manage(reinterpret_cast<void*>(range.base), range.size, true, false, true, -1, true,
                &arena_))
      stop("mi_manage_os_memory_ex failed");
  }
  void* allocate(std::size_t size) { return malloc_(heap(), size); }
  void* allocate_pages(std::size_t size) { return aligned_(heap(), size, exclave::kPageBytes); }
  void free(void* block) { free_(block); }

 private:
  void* heap() {
    thread_local void* heap = nullptr;
    if (__builtin_expect(heap == nullptr, 0)) heap = new_heap_(arena_);
    return heap;
  }

  int arena_ = 0;
  void* (*new_heap_)(int) = nullptr;
  void* (*malloc_)(void*, std::size_t) = nullptr;
  void* (*aligned_)(void*, std::size_t, std::size_t) = nullptr;
  void (*free_)(void*) = nullptr;
};

class DpdkPeer {
 public:
  static constexpr const char* kName = "dpdk";

  explicit DpdkPeer(exclave::Extent range) {
    const Library library("librte_eal.so.23");
    int (*init)(int, char**);
    int (*create)(const char*);
    int (*add)(const char*, void*, std::size_t, std::uint64_t*, unsigned, std::size_t);
    int (*socket_of)(const char*);
    library.find("rte_eal_init", init);
    library.find("rte_malloc_heap_create", create);
    library.find("rte_malloc_heap_memory_add", add);
    library.find("rte_malloc_heap_get_socket", socket_of);
    library.find("rte_malloc_socket", malloc_);
    library.find("rte_free", free_);
    // It binds this thread to one processor, which the others would inherit.
    cpu_set_t processors;
    if (sched_getaffinity(0, sizeof(processors), &processors) != 0)
      stop("sched_getaffinity failed");
    char arguments[][24] = {"bench",       "--no-huge",     "--no-pci", "--no-telemetry",
                            "--no-shconf", "--log-level=0", "-m",       "64"};
    constexpr int kCount = sizeof(arguments) / sizeof(arguments[0]);
    char* pointers[kCount + 1] = {};
    for (int i = 0; i < kCount; ++i) pointers[i] = arguments[i];
    if (init(kCount, pointers) < 0) stop("rte_eal_init failed");
    if (sched_setaffinity(0, sizeof(processors), &processors) != 0)
      stop("sched_setaffinity failed");
    constexpr const char* kHeap = "given";
    if (create(kHeap) != 0 ||
        add(kHeap, reinterpret_cast<void*>(range.base), range.size, nullptr,
            static_cast<unsigned>(range.size / exclave::kPageBytes), exclave::kPageBytes) != 0) {
      stop("rte_malloc_heap_memory_add failed");
    }
    socket_ = socket_of(kHeap);
  }
  void* allocate(std::size_t size) { return malloc_(nullptr, size, 0, socket_); }
  void* allocate_pages(std::size_t size) {
    return malloc_(nullptr, size, exclave::kPageBytes, socket_);
  }
  void free(void* block) { free_(block); }

 private:
  int socket_ = 0;
  void* (*malloc_)(const char*, std::size_t, unsigned, int) = nullptr;
  void (*free_)(void*) = nullptr;
};

#if EXCLAVE_BENCH_BOOST
class BoostPeer {
 public:
  static constexpr const char* kName = "boost";

  explicit BoostPeer(exclave::Extent range)
      : buffer_(boost::interprocess::create_only, reinterpret_cast<void*>(range.base), range.size) {
  }
  void* allocate(std::size_t size) { return buffer_.allocate(size, std::nothrow); }
  void* allocate_pages(std::size_t size) {
    return buffer_.allocate_aligned(size, exclave::kPageBytes, std::nothrow);
  }
  void free(void* block) { buffer_.deallocate(block); }

 private:
  // With a lock, as all others here may be called by any thread.
  boost::interprocess::basic_managed_external_buffer<
      char, boost::interprocess::rbtree_best_fit<boost::interprocess::mutex_family>,
      boost::interprocess::iset_index>
      buffer_;
};
#endif

// Any other: a library with these functions (docs/performance.md), named in the environment.
class OtherPeer {
 public:
  static constexpr const char* kName = "given";

  explicit OtherPeer(exclave::Extent range) {
    const char* const path = std::getenv("EXCLAVE_BENCH_GIVEN_PEER");
    if (path == nullptr) stop("EXCLAVE_BENCH_GIVEN_PEER names no library");
    const Library library(path);
    int (*open)(void*, std::size_t);
    library.find("given_open", open);
    library.find("given_allocate", allocate_);
    library.find("given_free", free_);
    if (open(reinterpret_cast<void*>(range.base), range.size) != 0) stop("given_open failed");
  }
  void* allocate(std::size_t size) { return allocate_(size, 16); }
  void* allocate_pages(std::size_t size) { return allocate_(size, exclave::kPageBytes); }
  void free(void* block) { free_(block); }

 private:
  void* (*allocate_)(std::size_t, std::size_t) = nullptr;
  void (*free_)(void*) = nullptr;
};

}  // namespace bench
