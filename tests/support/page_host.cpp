#include "support/page_host.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <utility>

namespace exclave::testing_support {

namespace {

// Far from where the kernel places anything.
constexpr std::uintptr_t kFirstPlace = std::uintptr_t{0x2000} << 32;
constexpr std::size_t kBooksAlignment = std::size_t{2} << 20;

const char* name_of(PageHost::Kind kind) {
  switch (kind) {
    case PageHost::Kind::kReserve:
      return "reserve";
    case PageHost::Kind::kRelease:
      return "release";
    case PageHost::Kind::kMap:
      return "map";
    case PageHost::Kind::kUnmap:
      return "unmap";
    case PageHost::Kind::kProtect:
      return "protect";
    case PageHost::Kind::kRemap:
      return "remap";
    case PageHost::Kind::kAdvise:
      return "advise";
    case PageHost::Kind::kResident:
      return "resident";
  }
  return "";
}

std::string text_of(const PageHost::Call& call) {
  char line[200];
  std::snprintf(line, sizeof line, "%s [%#zx, +%#zx) prot %d flags %#x fd %d offset %#zx",
                name_of(call.kind), call.extent.base, call.extent.size, call.protection,
                static_cast<unsigned>(call.flags), call.descriptor,
                static_cast<std::size_t>(call.offset));
  return line;
}

bool is_page_multiple(std::uintptr_t n) {
  return n % kPageBytes == 0;
}

}  // namespace

void PrintTo(const PageHost::Call& call, std::ostream* out) {
  *out << text_of(call);
}

// ---- Life ----

PageHost::PageHost(std::size_t enclave_bytes) : next_place_(kFirstPlace) {
  void* const window = mmap(nullptr, enclave_bytes + kBooksAlignment, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (window == MAP_FAILED) std::abort();
  const auto base = reinterpret_cast<std::uintptr_t>(window);
  enclave_ = {(base + kBooksAlignment - 1) / kBooksAlignment * kBooksAlignment, enclave_bytes};
  if (base != enclave_.base) munmap(window, enclave_.base - base);
  const std::uintptr_t end = base + enclave_bytes + kBooksAlignment;
  if (end != enclave_.end()) munmap(reinterpret_cast<void*>(enclave_.end()), end - enclave_.end());
  books_top_ = enclave_.base;
}

PageHost::~PageHost() {
  munmap(reinterpret_cast<void*>(enclave_.base), enclave_.size);
}

// ---- The trusted half ----

void* PageHost::trusted_reserve(std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (starve_from_ != 0) {
    if (starve_from_ == 1) return nullptr;
    --starve_from_;
  }
  if (bytes > enclave_.base + enclave_.size / 2 - books_top_) return nullptr;
  void* const memory = reinterpret_cast<void*>(books_top_);
  books_top_ += bytes;
  trusted_bytes_ += bytes;
  return memory;
}

// Address space is never used twice, so what is handed out is always zero.
void PageHost::trusted_release(void* memory, std::size_t bytes) noexcept {
  madvise(memory, bytes, MADV_DONTNEED);
  const std::lock_guard lock(mutex_);
  trusted_bytes_ -= bytes;
}

bool PageHost::entropy(void* memory, std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  auto* to = static_cast<unsigned char*>(memory);
  for (; bytes != 0; --bytes) {
    entropy_ = entropy_ * 6364136223846793005u + 1442695040888963407u;
    *to++ = static_cast<unsigned char>(entropy_ >> 56);
  }
  return true;
}

// ---- The table of pages ----

bool PageHost::is_free_locked(Extent extent) const {
  const auto page = pages_.lower_bound(extent.base);
  return page == pages_.end() || page->first >= extent.end();
}

bool PageHost::are_mappings_locked(Extent extent) const {
  auto page = pages_.lower_bound(extent.base);
  for (std::uintptr_t at = extent.base; at < extent.end(); at += kPageBytes, ++page) {
    if (page == pages_.end() || page->first != at || page->second.holder != Holder::kMapping)
      return false;
  }
  return true;
}

void PageHost::put_locked(Extent extent, Holder holder, int protection) {
  for (std::uintptr_t at = extent.base; at < extent.end(); at += kPageBytes)
    pages_[at] = {holder, protection};
}

// With a page between one and the next, so that neighbours do not grow together by chance.
std::uintptr_t PageHost::free_place_locked(std::size_t bytes, std::size_t alignment) {
  std::uintptr_t place = (next_place_ + alignment - 1) & ~(alignment - 1);
  while (!is_free_locked({place, bytes})) place += alignment;
  next_place_ = place + bytes + kPageBytes;
  return place;
}

void PageHost::complain_locked(const Call& call, const char* why) {
  violations_.push_back(text_of(call) + ": " + why);
}

std::optional<HostReply> PageHost::note(const Call& call) {
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back(call);
  }
  return answer ? answer(call) : std::nullopt;
}

// ---- The host ----

HostReply PageHost::host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
  const Call call{Kind::kReserve, {0, bytes}};
  if (const auto reply = note(call)) return *reply;
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || !is_page_multiple(bytes) || !is_page_multiple(alignment) ||
      (alignment & (alignment - 1)) != 0) {
    complain_locked(call, "out of shape");
    return {0, EINVAL};
  }
  const std::uintptr_t place = free_place_locked(bytes, alignment);
  put_locked({place, bytes}, Holder::kReserved, PROT_READ | PROT_WRITE);
  reserved_[place] = bytes;
  return {place, 0};
}

int PageHost::host_release(std::uintptr_t address, std::size_t bytes) noexcept {
  const Call call{Kind::kRelease, {address, bytes}};
  if (const auto reply = note(call)) return reply->error;
  const std::lock_guard lock(mutex_);
  const auto found = reserved_.find(address);
  if (found == reserved_.end() || found->second != bytes) {
    complain_locked(call, "not a range that was handed out");
    return EINVAL;
  }
  reserved_.erase(found);
  pages_.erase(pages_.lower_bound(address), pages_.lower_bound(address + bytes));
  return 0;
}

HostReply PageHost::host_map(const MapRequest& request) noexcept {
  const Call call{Kind::kMap,    {request.hint, request.size}, request.protection,
                  request.flags, request.descriptor,           request.offset};
  if (const auto reply = note(call)) return *reply;
  const std::lock_guard lock(mutex_);
  if (request.size == 0 || !is_page_multiple(request.size)) {
    complain_locked(call, "the size is not whole pages");
    return {0, EINVAL};
  }
  const bool replace = (request.flags & MAP_FIXED) != 0;
  const bool fixed = replace || (request.flags & MAP_FIXED_NOREPLACE) != 0;
  std::uintptr_t place = request.hint;
  if (fixed && place + request.size > enclave_.base && place < enclave_.end()) {
    complain_locked(call, "over the enclave");
    return {0, EINVAL};
  }
  if (replace && !are_mappings_locked({place, request.size})) {
    complain_locked(call, "told to replace what is not all the application's");
    return {0, EINVAL};
  }
  if (fixed && !replace && !is_free_locked({place, request.size})) return {0, EEXIST};
  if (!fixed && place_next_ != 0) {
    place = place_next_;
    place_next_ = 0;
  } else if (!fixed &&
             (place == 0 || !is_page_multiple(place) || !is_free_locked({place, request.size}))) {
    place = free_place_locked(request.size, kPageBytes);
  }
  put_locked({place, request.size}, Holder::kMapping, request.protection);
  return {place, 0};
}

int PageHost::host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
  const Call call{Kind::kUnmap, {address, bytes}};
  if (const auto reply = note(call)) return reply->error;
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || !is_page_multiple(address | bytes) || !are_mappings_locked(call.extent)) {
    complain_locked(call, "not wholly the application's pages");
    return EINVAL;
  }
  pages_.erase(pages_.lower_bound(address), pages_.lower_bound(address + bytes));
  return 0;
}

int PageHost::host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
  const Call call{Kind::kProtect, {address, bytes}, protection};
  if (const auto reply = note(call)) return reply->error;
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || !is_page_multiple(address | bytes) || !are_mappings_locked(call.extent) ||
      (protection & ~(PROT_READ | PROT_WRITE)) != 0) {
    complain_locked(call, "not wholly the application's pages, or more than read and write");
    return EINVAL;
  }
  put_locked(call.extent, Holder::kMapping, protection);
  return 0;
}

HostReply PageHost::host_remap(std::uintptr_t old_address, std::size_t old_size,
                               std::size_t new_size, int flags,
                               std::uintptr_t new_address) noexcept {
  const Call call = remap({old_address, old_size}, {new_address, new_size}, flags);
  if (const auto reply = note(call)) return *reply;
  const std::lock_guard lock(mutex_);
  const Extent from{old_address, old_size};
  const Extent to{new_address, new_size};
  constexpr int kMove = MREMAP_MAYMOVE | MREMAP_FIXED;
  if (!is_page_multiple(old_address | old_size | new_size | new_address) || new_size == 0 ||
      !are_mappings_locked({old_address, old_size == 0 ? kPageBytes : old_size}) ||
      (flags != 0 && (flags & ~MREMAP_DONTUNMAP) != kMove)) {
    complain_locked(call, "out of shape, or not wholly the application's pages");
    return {0, EINVAL};
  }
  const Page last = pages_[old_address + (old_size == 0 ? 0 : old_size - kPageBytes)];
  if (flags == 0) {
    const Extent tail{from.end(), new_size - old_size};
    if (tail.overlaps(enclave_) || !is_free_locked(tail)) return {0, ENOMEM};
    put_locked(tail, Holder::kMapping, last.protection);
    return {old_address, 0};
  }
  if (!are_mappings_locked(to) || from.overlaps(to)) {
    complain_locked(call, "told to replace what is not all the application's");
    return {0, EINVAL};
  }
  if ((flags & MREMAP_DONTUNMAP) == 0)
    pages_.erase(pages_.lower_bound(from.base), pages_.lower_bound(from.end()));
  put_locked(to, Holder::kMapping, last.protection);
  return {new_address, 0};
}

int PageHost::host_advise(RangeCall range_call, std::uintptr_t address, std::size_t bytes,
                          int argument) noexcept {
  const Call call = advise(range_call, {address, bytes}, argument);
  if (const auto reply = note(call)) return reply->error;
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || !is_page_multiple(address | bytes) || !are_mappings_locked(call.extent)) {
    complain_locked(call, "not wholly the application's pages");
    return EINVAL;
  }
  return 0;
}

int PageHost::host_resident(std::uintptr_t address, std::size_t bytes,
                            unsigned char* vector) noexcept {
  const Call call{Kind::kResident, {address, bytes}};
  std::memset(vector, 0xff, bytes / kPageBytes);
  if (const auto reply = note(call)) return reply->error;
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || !is_page_multiple(address | bytes) || !are_mappings_locked(call.extent)) {
    complain_locked(call, "not wholly the application's pages");
    return EINVAL;
  }
  return 0;
}

// ---- Settings and looks ----

void PageHost::place_next_at(std::uintptr_t address) {
  const std::lock_guard lock(mutex_);
  place_next_ = address;
}

void PageHost::put_foreign(Extent extent) {
  const std::lock_guard lock(mutex_);
  put_locked(extent, Holder::kForeign, PROT_READ | PROT_WRITE);
}

void PageHost::put_mapping(Extent extent) {
  const std::lock_guard lock(mutex_);
  put_locked(extent, Holder::kMapping, PROT_READ | PROT_WRITE);
}

void PageHost::starve_books_from(std::uint64_t n) {
  const std::lock_guard lock(mutex_);
  starve_from_ = n;
}

std::vector<PageHost::Call> PageHost::take_calls() {
  const std::lock_guard lock(mutex_);
  return std::exchange(calls_, {});
}

std::vector<std::string> PageHost::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

bool PageHost::is_mapped(std::uintptr_t address) const {
  return protection_at(address) >= 0;
}

int PageHost::protection_at(std::uintptr_t address) const {
  const std::lock_guard lock(mutex_);
  const auto page = pages_.find(address & ~(kPageBytes - 1));
  return page == pages_.end() ? -1 : page->second.protection;
}

std::size_t PageHost::mapped_pages() const {
  const std::lock_guard lock(mutex_);
  std::size_t count = 0;
  for (const auto& [address, page] : pages_) count += page.holder == Holder::kMapping;
  return count;
}

std::size_t PageHost::reserved_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [address, size] : reserved_) bytes += size;
  return bytes;
}

std::size_t PageHost::trusted_bytes() const {
  const std::lock_guard lock(mutex_);
  return trusted_bytes_;
}

// ---- The enclave's side ----

std::intptr_t EnclaveRecorder::map(std::uintptr_t address, std::size_t size, int protection,
                                   int flags, int descriptor, std::uint64_t offset) noexcept {
  calls.push_back({'m', {address, size}, protection, flags, descriptor, offset});
  return next_map;
}

int EnclaveRecorder::unmap(std::uintptr_t address, std::size_t size) noexcept {
  calls.push_back({'u', {address, size}});
  return next_answer;
}

int EnclaveRecorder::protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
  calls.push_back({'p', {address, size}, protection});
  return next_answer;
}

std::intptr_t EnclaveRecorder::remap(std::uintptr_t old_address, std::size_t old_size,
                                     std::size_t new_size, int flags, std::uintptr_t) noexcept {
  calls.push_back({'r', {old_address, old_size}, 0, flags, -1, new_size});
  return next_map;
}

std::uintptr_t EnclaveRecorder::set_break(std::uintptr_t address) noexcept {
  calls.push_back({'b', {address, 0}});
  return address;
}

int EnclaveRecorder::advise(RangeCall call, std::uintptr_t address, std::size_t size,
                            int argument) noexcept {
  calls.push_back({'a', {address, size}, static_cast<int>(call), argument});
  return next_answer;
}

int EnclaveRecorder::resident(std::uintptr_t address, std::size_t size,
                              unsigned char* vector) noexcept {
  calls.push_back({'v', {address, size}});
  std::memset(vector, 1, size / kPageBytes);
  return next_answer;
}

int EnclaveRecorder::lock_all(int flags) noexcept {
  calls.push_back({'l', {}, 0, flags});
  return next_answer;
}

bool EnclaveRecorder::lies_outside(int, int, int, std::uint64_t) noexcept {
  return outside;
}

}  // namespace exclave::testing_support
