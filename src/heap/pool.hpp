// Heaps that several threads share under a lock: the pool of one attached region, and the orphans'
// heap.
#pragma once

#include "base/ordered_tree.hpp"
#include "base/spin_lock.hpp"
#include "heap/door.hpp"
#include "heap/heap.hpp"
#include "page/page_pool.hpp"

namespace exclave {

struct Pool;

struct SharedHeap {
  SharedHeap(BookStore& books, Registry& registry, PagePool& pages, Pool* of_pool) noexcept
      : heap(books, registry, pages, this), pool(of_pool) {}

  SpinLock lock{LockRank::kHeap};
  Heap heap EXCLAVE_GUARDED_BY(lock);
  Pool* const pool;  // null: the orphans, the slabs of threads that ended
};

// One attached region that blocks are placed in. Never given back to the books, only used again, so
// that its lock can be taken by whoever found it, however late; then it is verified again.
struct Pool {
  Pool(BookStore& books, Registry& registry) noexcept
      : pages(books), shared(books, registry, pages, this) {}

  PagePool pages;
  SharedHeap shared;
  Door door;  // open while the pool is in use
  // Guarded by shared.lock.
  Region* region = nullptr;  // null: not in use
  RegionId id{};
  std::uint64_t live = 0;  // blocks that callers hold, or that are pinned
  bool draining = false;
  // Guarded by the list lock of the core.
  TreeLinks<Pool> links{};
  std::uint64_t listed_id = 0;
  Pool* next = nullptr;  // of its device, or of the idle ones
  Pool* next_open = nullptr;
  Pool* next_draining = nullptr;
  bool open_to_all = false;

  struct ById {  // its order in a tree
    static TreeLinks<Pool>& links(Pool& pool) noexcept { return pool.links; }
    static const TreeLinks<Pool>& links(const Pool& pool) noexcept { return pool.links; }
    static std::uintptr_t key(const Pool& pool) noexcept { return pool.listed_id; }
    static void update(Pool&) noexcept {}
    static bool summary_holds(const Pool&) noexcept { return true; }
  };
};

// The pools of one device tag.
struct Device {
  TreeLinks<Device> links{};
  DeviceTag tag = 0;
  Pool* first = nullptr;

  struct ByTag {  // its order in a tree
    static TreeLinks<Device>& links(Device& device) noexcept { return device.links; }
    static const TreeLinks<Device>& links(const Device& device) noexcept { return device.links; }
    static std::uintptr_t key(const Device& device) noexcept { return device.tag; }
    static void update(Device&) noexcept {}
    static bool summary_holds(const Device&) noexcept { return true; }
  };
};

}  // namespace exclave
