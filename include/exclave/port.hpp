// The Port contract for C++: a concept, and the table that the library takes.
#pragma once

#include <concepts>

#include "exclave/port.h"
#include "exclave/types.hpp"

namespace exclave {

using HostReply = exclave_host_reply;
using MapRequest = exclave_map_request;
using PortTable = exclave_port;
using EnclaveMemoryTable = exclave_enclave_memory;
using EnclavePagesTable = exclave_enclave_pages;
using RangeCall = exclave_range_call;

namespace detail {
template <class T>
T& object(void* context) noexcept {
  return *static_cast<T*>(context);
}
}  // namespace detail

// What a platform written in C++ supplies; port.h says what each function must do and whom it may
// trust.
template <class P>
concept Port = requires(P port, std::size_t bytes, void* memory, std::uintptr_t address,
                        int protection, const MapRequest& request) {
  { port.enclave() }
  noexcept->std::same_as<Extent>;
  { port.book_window() }
  noexcept->std::same_as<Extent>;
  { port.trusted_reserve(bytes) }
  noexcept->std::same_as<void*>;
  { port.trusted_release(memory, bytes) }
  noexcept;
  { port.entropy(memory, bytes) }
  noexcept->std::same_as<bool>;
  { port.host_reserve(bytes, bytes) }
  noexcept->std::same_as<HostReply>;
  { port.host_release(address, bytes) }
  noexcept->std::same_as<int>;
  { port.host_map(request) }
  noexcept->std::same_as<HostReply>;
  { port.host_unmap(address, bytes) }
  noexcept->std::same_as<int>;
  { port.host_protect(address, bytes, protection) }
  noexcept->std::same_as<int>;
};

// Binds a port object to the table. The object must outlive every allocator made from the table.
template <Port P>
constexpr PortTable bind_port(P& port) noexcept {
  PortTable table{};
  table.context = &port;
  table.enclave = [](void* c) -> exclave_extent {
    const Extent e = detail::object<P>(c).enclave();
    return {e.base, e.size};
  };
  table.book_window = [](void* c) -> exclave_extent {
    const Extent e = detail::object<P>(c).book_window();
    return {e.base, e.size};
  };
  table.trusted_reserve = [](void* c, std::size_t bytes) {
    return detail::object<P>(c).trusted_reserve(bytes);
  };
  table.trusted_release = [](void* c, void* memory, std::size_t bytes) {
    detail::object<P>(c).trusted_release(memory, bytes);
  };
  table.entropy = [](void* c, void* memory, std::size_t bytes) {
    return detail::object<P>(c).entropy(memory, bytes) ? 0 : 1;
  };
  // Optional.
  if constexpr (requires {
                  { port.has_avx() }
                  noexcept->std::same_as<bool>;
                }) {
    table.has_avx = [](void* c) { return detail::object<P>(c).has_avx() ? 1 : 0; };
  }
  table.host_reserve = [](void* c, std::size_t bytes, std::size_t alignment) {
    return detail::object<P>(c).host_reserve(bytes, alignment);
  };
  table.host_release = [](void* c, std::uintptr_t address, std::size_t bytes) {
    return detail::object<P>(c).host_release(address, bytes);
  };
  table.host_map = [](void* c, const MapRequest* request) {
    return detail::object<P>(c).host_map(*request);
  };
  table.host_unmap = [](void* c, std::uintptr_t address, std::size_t bytes) {
    return detail::object<P>(c).host_unmap(address, bytes);
  };
  table.host_protect = [](void* c, std::uintptr_t address, std::size_t bytes, int protection) {
    return detail::object<P>(c).host_protect(address, bytes, protection);
  };
  // Optional.
  if constexpr (requires(P p, std::uintptr_t a, std::size_t n, int f) {
                  { p.host_remap(a, n, n, f, a) }
                  noexcept->std::same_as<HostReply>;
                }) {
    table.host_remap = [](void* c, std::uintptr_t old_address, std::size_t old_size,
                          std::size_t new_size, int flags, std::uintptr_t new_address) {
      return detail::object<P>(c).host_remap(old_address, old_size, new_size, flags, new_address);
    };
  }
  if constexpr (requires(P p, RangeCall call, std::uintptr_t a, std::size_t n, int f) {
                  { p.host_advise(call, a, n, f) }
                  noexcept->std::same_as<int>;
                }) {
    table.host_advise = [](void* c, int call, std::uintptr_t address, std::size_t bytes,
                           int argument) {
      return detail::object<P>(c).host_advise(static_cast<RangeCall>(call), address, bytes,
                                              argument);
    };
  }
  if constexpr (requires(P p, std::uintptr_t a, std::size_t n, unsigned char* vector) {
                  { p.host_resident(a, n, vector) }
                  noexcept->std::same_as<int>;
                }) {
    table.host_resident = [](void* c, std::uintptr_t address, std::size_t bytes,
                             unsigned char* vector) {
      return detail::object<P>(c).host_resident(address, bytes, vector);
    };
  }
  return table;
}

// The inside half of the memory calls; port.h says what each function must do.
template <class M>
concept EnclaveMemory = requires(M memory, std::uintptr_t address, std::size_t size, int bits,
                                 std::uint64_t offset) {
  { memory.map(address, size, bits, bits, bits, offset) }
  noexcept->std::same_as<std::intptr_t>;
  { memory.unmap(address, size) }
  noexcept->std::same_as<int>;
  { memory.protect(address, size, bits) }
  noexcept->std::same_as<int>;
  { memory.lies_outside(bits, bits, bits, offset) }
  noexcept->std::same_as<bool>;
};

template <EnclaveMemory M>
constexpr EnclaveMemoryTable bind_enclave_memory(M& memory) noexcept {
  EnclaveMemoryTable table{};
  table.context = &memory;
  table.map = [](void* c, std::uintptr_t address, std::size_t size, int protection, int flags,
                 int descriptor, std::uint64_t offset) {
    return detail::object<M>(c).map(address, size, protection, flags, descriptor, offset);
  };
  table.unmap = [](void* c, std::uintptr_t address, std::size_t size) {
    return detail::object<M>(c).unmap(address, size);
  };
  table.protect = [](void* c, std::uintptr_t address, std::size_t size, int protection) {
    return detail::object<M>(c).protect(address, size, protection);
  };
  table.lies_outside = [](void* c, int protection, int flags, int descriptor,
                          std::uint64_t offset) {
    return detail::object<M>(c).lies_outside(protection, flags, descriptor, offset) ? 1 : 0;
  };
  // Optional.
  if constexpr (requires(M m, std::uintptr_t a, std::size_t n, int f) {
                  { m.remap(a, n, n, f, a) }
                  noexcept->std::same_as<std::intptr_t>;
                }) {
    table.remap = [](void* c, std::uintptr_t old_address, std::size_t old_size,
                     std::size_t new_size, int flags, std::uintptr_t new_address) {
      return detail::object<M>(c).remap(old_address, old_size, new_size, flags, new_address);
    };
  }
  if constexpr (requires(M m, std::uintptr_t a) {
                  { m.set_break(a) }
                  noexcept->std::same_as<std::uintptr_t>;
                }) {
    table.set_break = [](void* c, std::uintptr_t address) {
      return detail::object<M>(c).set_break(address);
    };
  }
  if constexpr (requires(M m, RangeCall call, std::uintptr_t a, std::size_t n, int f) {
                  { m.advise(call, a, n, f) }
                  noexcept->std::same_as<int>;
                }) {
    table.advise = [](void* c, int call, std::uintptr_t address, std::size_t size, int argument) {
      return detail::object<M>(c).advise(static_cast<RangeCall>(call), address, size, argument);
    };
  }
  if constexpr (requires(M m, std::uintptr_t a, std::size_t n, unsigned char* vector) {
                  { m.resident(a, n, vector) }
                  noexcept->std::same_as<int>;
                }) {
    table.resident = [](void* c, std::uintptr_t address, std::size_t size, unsigned char* vector) {
      return detail::object<M>(c).resident(address, size, vector);
    };
  }
  if constexpr (requires(M m, int flags) {
                  { m.lock_all(flags) }
                  noexcept->std::same_as<int>;
                }) {
    table.lock_all = [](void* c, int flags) { return detail::object<M>(c).lock_all(flags); };
  }
  return table;
}

// The page operations below the manager of the enclave's own memory; port.h says what each must do.
template <class P>
concept EnclavePages = requires(P pages, std::uintptr_t address, std::size_t size, int bits,
                                std::uint64_t offset) {
  { pages.commit(address, size, bits, bool()) }
  noexcept->std::same_as<int>;
  { pages.protect(address, size, bits) }
  noexcept->std::same_as<int>;
  { pages.drop(address, size) }
  noexcept->std::same_as<int>;
  { pages.move(address, address, size, bits, bool()) }
  noexcept->std::same_as<int>;
  { pages.fill(address, size, bits, offset) }
  noexcept->std::same_as<int>;
};

template <EnclavePages P>
constexpr EnclavePagesTable bind_enclave_pages(P& pages) noexcept {
  EnclavePagesTable table{};
  table.context = &pages;
  table.commit = [](void* c, std::uintptr_t address, std::size_t size, int protection, int shared) {
    return detail::object<P>(c).commit(address, size, protection, shared != 0);
  };
  table.protect = [](void* c, std::uintptr_t address, std::size_t size, int protection) {
    return detail::object<P>(c).protect(address, size, protection);
  };
  table.drop = [](void* c, std::uintptr_t address, std::size_t size) {
    return detail::object<P>(c).drop(address, size);
  };
  table.move = [](void* c, std::uintptr_t from, std::uintptr_t to, std::size_t size, int protection,
                  int keep) {
    return detail::object<P>(c).move(from, to, size, protection, keep != 0);
  };
  table.fill = [](void* c, std::uintptr_t address, std::size_t size, int descriptor,
                  std::uint64_t offset) {
    return detail::object<P>(c).fill(address, size, descriptor, offset);
  };
  // Optional.
  if constexpr (requires(P p, std::uintptr_t a, std::size_t n, int b) {
                  { p.zero(a, n, b, bool()) }
                  noexcept->std::same_as<int>;
                }) {
    table.zero = [](void* c, std::uintptr_t address, std::size_t size, int protection, int shared) {
      return detail::object<P>(c).zero(address, size, protection, shared != 0);
    };
  }
  if constexpr (requires(P p, RangeCall call, std::uintptr_t a, std::size_t n, int f) {
                  { p.advise(call, a, n, f) }
                  noexcept->std::same_as<int>;
                }) {
    table.advise = [](void* c, int call, std::uintptr_t address, std::size_t size, int argument) {
      return detail::object<P>(c).advise(static_cast<RangeCall>(call), address, size, argument);
    };
  }
  if constexpr (requires(P p, std::uintptr_t a, std::size_t n, unsigned char* vector) {
                  { p.resident(a, n, vector) }
                  noexcept->std::same_as<int>;
                }) {
    table.resident = [](void* c, std::uintptr_t address, std::size_t size, unsigned char* vector) {
      return detail::object<P>(c).resident(address, size, vector);
    };
  }
  if constexpr (requires(P p, std::uintptr_t a, std::size_t n, int b, std::uint64_t offset) {
                  { p.back(a, n, b, b, b, offset) }
                  noexcept->std::same_as<int>;
                  { p.stretch(a, n, a, n) }
                  noexcept->std::same_as<int>;
                }) {
    table.back = [](void* c, std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) {
      return detail::object<P>(c).back(address, size, protection, flags, descriptor, offset);
    };
    table.stretch = [](void* c, std::uintptr_t from, std::size_t old_size, std::uintptr_t to,
                       std::size_t new_size) {
      return detail::object<P>(c).stretch(from, old_size, to, new_size);
    };
  }
  if constexpr (requires(P p) {
                  { p.wait() }
                  noexcept->std::same_as<void>;
                }) {
    table.wait = [](void* c) { detail::object<P>(c).wait(); };
  }
  return table;
}

}  // namespace exclave
