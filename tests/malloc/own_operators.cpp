// A program that brings its own malloc and the primary operators of C++ only, as Firefox does. What
// it allocates and frees by the other operators must come to its own ones, whatever malloc is
// preloaded. Ends with 0 if so, else with the number of the step that did not.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

// delete with a size is to be the library's.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation"
#endif

namespace {

alignas(4096) unsigned char g_pool[64 << 20];
std::size_t g_used = 0;
int g_news = 0;
int g_deletes = 0;

bool is_own(const void* block) {
  return block >= g_pool && block < g_pool + sizeof(g_pool);
}

// One thread, and nothing is used again.
void* take(std::size_t size, std::size_t alignment) {
  std::size_t at = (g_used + sizeof(std::size_t) + alignment - 1) / alignment * alignment;
  if (size > sizeof(g_pool) - at) return nullptr;
  g_used = at + size;
  return g_pool + at;
}

void give_back(void* block) {
  if (block != nullptr && !is_own(block)) std::abort();
}

}  // namespace

extern "C" {
void* malloc(std::size_t size) {
  return take(size, 16);
}
void free(void* block) {
  give_back(block);
}
void* calloc(std::size_t count, std::size_t size) {
  return take(count * size, 16);
}
void* realloc(void* block, std::size_t size) {
  auto* const moved = static_cast<unsigned char*>(take(size, 16));
  const auto* const from = static_cast<unsigned char*>(block);
  if (moved != nullptr && from != nullptr)
    for (std::size_t i = 0; i < size && from + i < moved; ++i) moved[i] = from[i];
  return moved;
}
}

void* operator new(std::size_t size) {
  ++g_news;
  void* const block = take(size, 16);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete(void* block) noexcept {
  ++g_deletes;
  give_back(block);
}

int main() {
  const std::size_t n = 100;
  volatile std::size_t too_much = std::size_t{1} << 40;
  void* const blocks[] = {::operator new(n), ::operator new[](n), ::operator new(n, std::nothrow),
                          ::operator new[](n, std::nothrow)};
  int step = 0;
  for (void* const block : blocks) {
    ++step;
    if (!is_own(block)) return step;
  }
  if (g_news != 4) return 10;
  ::operator delete(blocks[0], n);
  ::operator delete[](blocks[1]);
  ::operator delete(blocks[2], std::nothrow);
  ::operator delete[](blocks[3], std::nothrow);
  ::operator delete[](::operator new[](n), n);
  if (g_deletes != 5) return 11;
  if (::operator new(too_much, std::nothrow) != nullptr) return 12;
  if (::operator new[](too_much, std::nothrow) != nullptr) return 13;
  // The aligned ones are primary, too, and the library's: they need only fit each other.
  const std::align_val_t wide{256};
  ::operator delete(::operator new(n, wide), wide);
  ::operator delete[](::operator new[](n, wide), n, wide);
  ::operator delete[](::operator new[](n, wide, std::nothrow), wide, std::nothrow);
  return g_deletes == 5 ? 0 : 14;
}
